"""make up, make down and the supervisor, as the command line runs them, in a checkout's .run of their own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import processes
from devcluster.client import KubeClient
from devcluster.fleet import scaled
from devcluster.runfolder import ROOT, AlreadyRuns, RunFolder
from devcluster.up import bring_up, client_of, take_down

SERVERS = 9
SETTINGS = ROOT / "examples" / "settings.yaml"


@pytest.fixture
def run(tmp_path: Path):
    run = RunFolder(tmp_path / "run")
    yield run
    if run.path.exists():
        take_down(run)


def _up(run: RunFolder) -> None:
    with run.claimed({"command": "up", "servers": SERVERS}):
        asyncio.run(bring_up(run, scaled(SERVERS), SETTINGS))


async def _pid_other_than(run: RunFolder, pid: int) -> int:
    async with asyncio.timeout(10):
        while True:
            if run.operator_pid.exists() and (now := int(run.operator_pid.read_text())) != pid:
                return now
            await asyncio.sleep(0.05)


def test_up_leaves_what_a_client_needs_a_second_up_refuses_and_down_leaves_nothing(run: RunFolder) -> None:
    _up(run)
    records = processes.running(run.plane.folder)
    assert {"operator", "supervisor", "etcd", "kube-apiserver", "kwok"} <= {record.name for record in records}
    os.kill(int(run.operator_pid.read_text()), 0)
    assert run.metrics_url.read_text().startswith("http://127.0.0.1:")
    assert "server: https://127.0.0.1:" in run.kubeconfig.read_text()

    with pytest.raises(AlreadyRuns, match=rf"make up already runs here with {SERVERS} servers(.|\n)*make down"):
        _up(run)
    assert processes.running(run.plane.folder) == records

    assert take_down(run)
    assert [record for record in records if record.runs()] == []
    assert list(run.path.iterdir()) == []


def test_a_killed_operator_comes_back_under_a_new_pid_and_the_same_address(run: RunFolder) -> None:
    _up(run)
    address, pid = run.metrics_url.read_text(), int(run.operator_pid.read_text())
    os.kill(pid, signal.SIGKILL)
    back = asyncio.run(_pid_other_than(run, pid))
    os.kill(back, 0)
    assert run.metrics_url.read_text() == address


def test_up_without_an_operator_has_fleet_and_settings(run: RunFolder) -> None:
    async def _look(client: KubeClient) -> None:
        assert len(await client.list("/api/v1/nodes")) == SERVERS
        found = await client.get("/api/v1/namespaces/gpugrant-system/configmaps/gpugrant-settings")
        assert found["data"]["settings.yaml"] == SETTINGS.read_text()

    async def _both() -> None:
        await bring_up(run, scaled(SERVERS), SETTINGS, operator=False)
        async with client_of(run) as client:
            await _look(client)

    with run.claimed({"command": "up", "servers": SERVERS}):
        asyncio.run(_both())
    assert not run.operator_pid.exists()


def test_the_command_line_refuses_a_fleet_that_is_too_small_in_one_sentence() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "devcluster", "up", "--servers", "3"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "hack")}, check=False)
    assert asked.returncode == 1
    assert asked.stderr.startswith("SERVERS=3 is too few")
    assert len(asked.stderr.splitlines()) == 1


def test_what_runs_is_told_from_the_records(run: RunFolder) -> None:
    run.path.mkdir()
    (run.path / "what.json").write_text(json.dumps({"command": "up", "servers": 1962}))
    assert run.told() == "nothing has been started yet"
