"""The plugin as a process's worth of it runs in a test, and how tests ask it things."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from deviceplugin.devices import listed
from deviceplugin.profiles import profile
from deviceplugin.service import Options, Service
from kubelet_kit.kubelet import FakeKubelet


@dataclass
class Running:
    """A service, and what a test asks of it from outside."""

    service: Service
    log: Path
    http: aiohttp.ClientSession

    def lines(self, event: str = "", **like: Any) -> list[dict[str, Any]]:
        """Return the log's lines, or those of an event that have these values."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        wanted = {"event": event, **like} if event else like
        return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]

    async def do(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Say a verb over HTTP; return the answer, with its status."""
        url = f"http://127.0.0.1:{self.service.control_port}/{verb}"
        async with self.http.post(url, json=arguments) as answer:
            return {"status": answer.status, **await answer.json()}

    async def page(self) -> str:
        """Scrape."""
        async with self.http.get(f"http://127.0.0.1:{self.service.metrics_port}/metrics") as answer:
            assert answer.status == 200
            return await answer.text()

    @property
    def devices(self) -> dict[str, str]:
        """The model's list."""
        return dict(listed(self.service.stock.devices))


def options(kubelet: FakeKubelet, log: Path, name: str = "b200", **more: Any) -> Options:
    """Return options for tests: free ports, and a kubelet that is looked for often."""
    wanted = {"node": "worker-1", "metrics": ("127.0.0.1", 0), "control": ("127.0.0.1", 0), **more}
    return Options(
        profile(name), plugin_folder=kubelet.plugins, pod_resources=kubelet.pod_resources, log_file=log,
        look_every_seconds=0.02, **wanted,
    )  # fmt: skip
