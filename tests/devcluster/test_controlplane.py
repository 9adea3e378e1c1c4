"""The control plane starts, stops and restarts, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from cluster_kit.pods import a_pod, pod_path
from devcluster import processes
from devcluster.client import KubeClient
from devcluster.controlplane import COMPONENTS, ControlPlane


def test_stopping_leaves_no_process(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path)
    plane.start(guarded=True)
    records = processes.running(tmp_path)
    assert sorted(record.name for record in records) == sorted(COMPONENTS)
    plane.stop()
    assert [record for record in records if record.runs()] == []
    assert list(tmp_path.glob("*.pid")) == []


def test_a_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        from pathlib import Path
        from devcluster.controlplane import ControlPlane
        ControlPlane(Path({str(tmp_path)!r})).start(guarded=True)
        print("started", flush=True)
        import signal; signal.pause()
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        records = processes.running(tmp_path)
        assert len(records) == len(COMPONENTS)
        # pidfd is readable when its process has ended: nothing to poll, and no pid to confuse.
        ends = [os.pidfd_open(record.pid) for record in records]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    for end in ends:
        _wait_readable(end, seconds=20)
        os.close(end)
    assert [record for record in records if record.runs()] == []


def test_a_pid_that_somebody_else_has_now_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        processes.write_record(tmp_path, processes.Record("etcd", stranger.pid, "another start time"))
        ControlPlane(tmp_path).stop()
        assert stranger.poll() is None
        stranger.kill()


async def test_objects_outlive_a_restart_of_the_api_server(own_control_plane: ControlPlane) -> None:
    plane = own_control_plane
    async with KubeClient(plane.server, plane.ca_file, plane.admin_token) as admin:
        pod = a_pod("kept", "default")
        await admin.create(pod)
        for kill in (False, True):
            plane.restart_apiserver(kill=kill)
            found = await admin.get(pod_path(pod))
            assert found["metadata"]["name"] == "kept"


def _wait_readable(descriptor: int, seconds: float) -> None:
    import select

    readable, _, _ = select.select([descriptor], [], [], seconds)
    assert readable, f"a process still ran after {seconds} s"
