"""The operator's resident memory with 6,250 servers and 50,000 held one-GPU pods, against a fake API server.

The process is the real one, `gpugrant run`, with Kopf, ledger and metrics; only the API server is not.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import yaml

from bench.figures import Figure
from bench.lists import SERVERS, resident_mb, stored
from bench.process import operating
from devcluster.controlplane import free_ports

_SETTLED_SECONDS = 15


def run(runs: int, folder: Path, work: Path) -> list[Figure]:
    """Measure resident memory after the ledger has taken everything in, at its highest, and the start."""
    stored(folder)
    port = free_ports(1)[0]
    kubeconfig = work / "fake.kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "fake", "user": {"token": "none"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        })
    )  # fmt: skip
    server = subprocess.Popen([sys.executable, "-m", "bench.fakeapi", str(folder), str(port)])
    try:
        found = [_measure(kubeconfig, work, number) for number in range(runs)]
    finally:
        server.terminate()
        server.wait()
    words = f"{SERVERS:,} servers, {SERVERS * 8:,} held pods"
    return [
        Figure("memory", f"resident: {words}", tuple(one[0] for one in found), "MB", 300, digits=0,
               note="the operator's process against a fake API server, all held pods in the ledger"),
        Figure("memory", "resident, at its highest", tuple(one[1] for one in found), "MB", digits=0,
               note="while the first LISTs are taken in and the ledger is filled"),
        Figure("memory", "process start to first plan, fake API server", tuple(one[2] for one in found), "s", digits=1,
               note=f"{median(one[3] for one in found):.1f} s of it CPU"),
    ]  # fmt: skip


def _measure(kubeconfig: Path, work: Path, number: int) -> tuple[float, float, float, float]:
    with operating(kubeconfig, work / f"memory-{number}.sqlite", work / "memory.log") as operator:
        seconds = operator.wait_ready()
        cpu = operator.cpu_seconds()
        operator.wait_for(
            "all is in the ledger", lambda one: one.metric("gpugrant_ledger_held_pods") >= SERVERS * 8
        )
        time.sleep(_SETTLED_SECONDS)
        return resident_mb(operator.pid), resident_mb(operator.pid, "VmHWM"), seconds, cpu
