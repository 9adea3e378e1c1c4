"""The command line, as processes of their own: serving, the verbs, what is said of mistakes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deviceplugin.cli import main

HACK = Path(__file__).resolve().parents[2] / "hack"
COMMAND = [sys.executable, "-m", "deviceplugin"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "KUBERNETES_SERVICE_HOST"} | {
    "PYTHONPATH": str(HACK), "NODE_NAME": "worker-1",
}  # fmt: skip


@asynccontextmanager
async def served(kubelet, log: Path, *more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """Run `serve`; yield the process and the line it starts with."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "serve", "--plugin-dir", str(kubelet.plugins), "--pod-resources", str(kubelet.pod_resources),
        "--metrics", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--log", str(log), *more,
        env=ENVIRONMENT, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, json.loads(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(*arguments: str, control: int = 0) -> tuple[int, str, str]:
    environment = ENVIRONMENT | {"FAKE_GPU_CONTROL": f"http://127.0.0.1:{control or 1}"}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_process_serves_obeys_and_ends_when_told_without_leaving_a_socket(kubelet, tmp_path):
    async with served(kubelet, tmp_path / "log", "--profile", "h200", "--count", "2") as (process, started):
        assert (started["profile"], started["node"], len(started["devices"])) == ("h200", "worker-1", 2)
        await kubelet.wait_for_list(started["devices"])
        first, second = started["devices"]
        status, out, _ = await run("xid", "1", "79", control=started["control_port"])
        assert status == 0 and json.loads(out)["changed"] is True
        await kubelet.wait_for_list({first: "Healthy", second: "Unhealthy"})
        status, _, err = await run("remove", "7", control=started["control_port"])
        assert (status, err) == (1, "Error: no device '7'; name one by its id or its index, 0 to 1\n")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert [path.name for path in kubelet.plugins.iterdir() if path.is_socket()] == ["kubelet.sock"]
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (lines[0]["event"], lines[-1]["event"]) == ("started", "stopped")


async def test_a_killed_process_and_its_successor_have_the_same_ids_and_one_log(kubelet, tmp_path):
    log = tmp_path / "log"
    lists = []
    for _ in range(2):
        async with served(kubelet, log, "--profile", "b200") as (process, started):
            await kubelet.wait_for_list(started["devices"])
            lists.append(list(started["devices"]))
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await kubelet.wait_for(lambda: not any(each.lives for each in kubelet.sessions))
    assert lists[0] == lists[1]
    assert len(list(kubelet.plugins.glob("fake-*.sock"))) == 1, "the first run's socket was swept by the second"
    assert len({json.loads(line)["run"] for line in log.read_text().splitlines()}) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--profile", "b300"], "no profile 'b300'; there are: b200, h200, h100, atom"),
        (["serve"], "not in a pod: name the profile with --profile"),
        (["serve", "--profile", "b200", "--count", "99"], "count: a server has 1 to 16 devices, not 99"),
        (["serve", "--profile", "b200", "--listen", "9401"], "--listen: HOST:PORT, not '9401'"),
        (["--control", "http://127.0.0.1:1", "state"], "is the plugin running there?"),
    ],
)
def test_mistakes_are_told_with_the_rule(arguments, says, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1 and says in done.output


def test_labels_and_profiles_are_printed():
    printed = CliRunner().invoke(main, ["labels", "h100", "--count", "4"]).output.split()
    assert {"nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.count=4"} <= set(printed)
    assert "rebellions.ai/ATOM" in CliRunner().invoke(main, ["profiles"]).output
