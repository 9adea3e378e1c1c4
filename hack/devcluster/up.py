"""Bring up control plane, fleet, walls and operator in .run, and take them down again."""

import asyncio
import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from devcluster import processes
from devcluster.client import KubeClient
from devcluster.controlplane import free_ports
from devcluster.credentials import write_kubeconfig
from devcluster.fleet import Fleet, create_fleet, wait_until_schedulable
from devcluster.install import apply_settings, install
from devcluster.runfolder import ROOT, SUPERVISOR, RunFolder

NAMESPACE = "gpugrant-system"
SERVICE_ACCOUNT = "gpugrant"
_OPERATOR_SECONDS = 90.0


@dataclass
class Steps:
    """Tells a waiting person what is being done and how long each step took."""

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._what = ""

    def begin(self, what: str) -> None:
        """Say what begins; the step before it is done."""
        self.done()
        self._begun, self._what = time.monotonic(), what
        print(f"{what} …", flush=True)

    def done(self) -> None:
        """Say how long the last step took."""
        if self._what:
            print(f"  done in {time.monotonic() - self._begun:.1f} s", flush=True)
            self._what = ""


def client_of(run: RunFolder) -> KubeClient:
    """Return the platform engineer's client, to be entered."""
    return KubeClient(run.plane.server, run.plane.ca_file, run.plane.admin_token)


async def bring_up(
    run: RunFolder, fleet: Fleet, settings: Path, *, operator: bool = True, guarded: bool = False
) -> None:
    """Start everything in ``run``; what was started is ended again where a step fails."""
    steps = Steps()
    try:
        steps.begin("starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok")
        run.plane.start(guarded=guarded)
        async with client_of(run) as client:
            steps.begin("installing CRDs, RBAC and admission policies; waiting until they act")
            await install(client)
            await apply_settings(client, settings.read_text())
            steps.begin(f"creating {fleet.servers:,} servers with {fleet.gpus:,} GPUs")
            await create_fleet(client, fleet)
            await wait_until_schedulable(client, fleet.servers)
            if operator:
                steps.begin("starting the operator as its own service account")
                await _start_operator(run, client)
        steps.done()
        run.kubeconfig.write_bytes(run.plane.kubeconfig.read_bytes())
        run.kubeconfig.chmod(0o600)
    except BaseException as error:
        if not isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
            print(f"not started; logs are kept in {run.keep_logs()}", file=sys.stderr)
        run.stop()
        run.clear()
        raise


async def _start_operator(run: RunFolder, client: KubeClient) -> None:
    token = await client.token_for(NAMESPACE, SERVICE_ACCOUNT)
    kubeconfig = run.plane.folder / "operator.kubeconfig"
    write_kubeconfig(kubeconfig, run.plane.server, run.plane.ca_file, SERVICE_ACCOUNT, token)
    port = free_ports(1)[0]
    run.metrics_url.write_text(f"http://127.0.0.1:{port}/metrics\n")
    command = [
        sys.executable, "-m", "gpugrant", "run", "--kubeconfig", str(kubeconfig), "--metrics-port", str(port),
        "--ledger", f"sqlite:///{run.ledger}",
    ]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT / "operator"), str(ROOT / "hack")]), "PYTHONUNBUFFERED": "1"}
    record = processes.start(
        SUPERVISOR,
        [sys.executable, "-m", "devcluster.supervisor", str(run.plane.folder), str(run.operator_pid),
         str(run.operator_log), *command],
        run.plane.folder, environment)
    deadline = time.monotonic() + _OPERATOR_SECONDS
    while not await asyncio.to_thread(_is_ready, port):
        processes.check(run.plane.folder, record)
        if time.monotonic() > deadline:
            tail = "\n".join(run.operator_log.read_text(errors="replace").splitlines()[-20:])
            raise TimeoutError(f"the operator was not ready after {_OPERATOR_SECONDS:.0f} s; it said last:\n{tail}")
        await asyncio.sleep(0.1)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def take_down(run: RunFolder) -> bool:
    """End what runs and remove its files; say whether anything ran."""
    ran = bool(processes.running(run.plane.folder))
    run.stop()
    if run.path.exists():
        run.clear()
        (run.path / "lock").unlink(missing_ok=True)
    return ran


