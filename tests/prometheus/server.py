"""A real Prometheus that scrapes one target, whose labels are those that Kubernetes' service discovery gives."""

import asyncio
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devcluster import processes
from devcluster.controlplane import free_ports

JOB, NAMESPACE = "gpugrant", "gpugrant-system"
SCRAPE_SECONDS = 1
_LOOK_AGAIN = 0.1
_SECONDS = 60.0
_NAME = "prometheus"

Labels = frozenset[tuple[str, str]]
# What says which process was scraped: it changes with every restart.
OF_TARGET = frozenset({"instance", "pod", "namespace", "job"})


@dataclass
class Series:
    """One series as it is in the database: its labels, and (time, value) of every scrape."""

    labels: dict[str, str]
    samples: list[tuple[float, float]] = field(default_factory=list)

    def key(self) -> Labels:
        """Return its labels without those of the target."""
        return frozenset(item for item in self.labels.items() if item[0] not in OF_TARGET)


def needed() -> str:
    """Return where Prometheus is. Raises RuntimeError that says what to do where it is not."""
    found = shutil.which("prometheus")
    if found is None:
        raise RuntimeError(
            "these tests need a real Prometheus and there is none on PATH: install the Debian package "
            "`prometheus`, as .ci/run does"
        )
    return found


class Prometheus:
    """One server with a database of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._targets = folder / "targets.json"
        self._port = free_ports(1)[0]
        self._record: processes.Record | None = None
        self._pods = 0

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._targets.write_text("[]")
        config = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"},
            "scrape_configs": [
                {
                    "job_name": JOB,
                    "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "1s"}],
                }
            ],
        }
        (self._folder / "prometheus.json").write_text(json.dumps(config))
        self._record = processes.start(
            _NAME,
            [
                needed(), f"--config.file={self._folder / 'prometheus.json'}",
                f"--storage.tsdb.path={self._folder / 'data'}", f"--web.listen-address=127.0.0.1:{self._port}",
                "--query.lookback-delta=5s",
            ],
            self._folder,
        )  # fmt: skip
        await self.until("it answers", lambda: self._asked("/api/v1/status/runtimeinfo") is not None)

    def stop(self) -> None:
        """End it."""
        if self._record is not None:
            processes.stop(self._folder, [self._record])

    def scrape(self, address: str) -> str:
        """Scrape another pod from now on: another name and address, as after every restart. Return the pod's name."""
        self._pods += 1
        pod = f"gpugrant-{self._pods}"
        labels = {"namespace": NAMESPACE, "pod": pod, "instance": f"10.244.0.{self._pods}:8080"}
        self._set_targets([{"targets": [address], "labels": labels}])
        return pod

    def scrape_nothing(self) -> None:
        """Scrape nothing from now on: the pod is gone."""
        self._set_targets([])

    def _set_targets(self, targets: list[dict[str, Any]]) -> None:
        beside = self._targets.with_suffix(".new")
        beside.write_text(json.dumps(targets))
        beside.rename(self._targets)

    # -- asking --------------------------------------------------------------------------------------

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until something is so by its API. Raises TimeoutError with the end of its log."""
        try:
            async with asyncio.timeout(_SECONDS):
                while not await asyncio.to_thread(holds):  # noqa: ASYNC110 (it has no watch)
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            tail = (self._folder / f"{_NAME}.log").read_text(errors="replace").splitlines()[-10:]
            raise TimeoutError(
                f"not seen in {_SECONDS:g} s: {what}; its log ends\n" + "\n".join(tail)
            ) from None

    def query(self, promql: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Return what an instant query answers."""
        given = {"query": promql, **({"time": f"{at:.3f}"} if at is not None else {})}
        found = self._asked("/api/v1/query", **given)
        assert found is not None, promql
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    def series(self, selector: str, span: str = "30m") -> list[Series]:
        """Return every sample there is of the series that a selector names."""
        found = self._asked("/api/v1/query", query=f"{selector}[{span}]")
        assert found is not None, selector
        return [
            Series(each["metric"], [(float(at), float(value)) for at, value in each["values"]])
            for each in found["result"]
        ]

    def label_names(self) -> set[str]:
        """Return every label name in its database."""
        found = self._asked("/api/v1/labels")
        assert found is not None
        return set(found)

    def _asked(self, path: str, **given: str) -> Any:
        url = f"http://127.0.0.1:{self._port}{path}?{urllib.parse.urlencode(given)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except (OSError, subprocess.SubprocessError):
            return None
