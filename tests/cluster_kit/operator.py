"""The operator as `make up` runs it: supervised, as its own service account, in a folder of its own."""

import asyncio
import os
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from devcluster import processes
from devcluster.client import KubeClient
from devcluster.controlplane import ControlPlane, free_ports
from devcluster.credentials import write_kubeconfig
from devcluster.runfolder import OPERATOR, ROOT, SUPERVISOR
from devcluster.up import NAMESPACE, SERVICE_ACCOUNT

_LOOK_AGAIN = 0.05
_READY_SECONDS = 60.0


class OperatorProcess:
    """One operator beside a control plane; can be killed, stopped and started again on the same ledger."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.log = folder / "operator.log"
        self.ledger = folder / "ledger.sqlite"
        self.package = ROOT / "operator"  # the folder that gpugrant is in, of whichever version is to be started
        self._plane = plane
        self._pid_file = folder / "operator.pid"
        self._kubeconfig = folder / "operator.kubeconfig"
        self._port = free_ports(1)[0]

    async def start(self, admin: KubeClient) -> None:
        """Start it with the rights that ship, and wait until it has planned once."""
        token = await admin.token_for(NAMESPACE, SERVICE_ACCOUNT)
        write_kubeconfig(self._kubeconfig, self._plane.server, self._plane.ca_file, SERVICE_ACCOUNT, token)
        command = [sys.executable, "-m", "gpugrant", "run", "--kubeconfig", str(self._kubeconfig),
                   "--metrics-port", str(self._port), "--ledger", f"sqlite:///{self.ledger}"]
        paths = os.pathsep.join([str(self.package), str(ROOT / "hack")])
        # Recorded with the control plane, whose guard ends it should this process be killed.
        processes.start(
            SUPERVISOR,
            [sys.executable, "-m", "devcluster.supervisor", str(self._plane.folder), str(self._pid_file),
             str(self.log), *command],
            self._plane.folder, {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"})
        await self.ready()

    def stop(self) -> None:
        """End the supervisor, and with it the operator, in good order."""
        for name in (SUPERVISOR, OPERATOR):
            records = [each for each in processes.running(self._plane.folder) if each.name == name]
            processes.stop(self._plane.folder, records)

    @property
    def address(self) -> str:
        """Where its /metrics is, as host:port."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The operator's own pid; 0 while there is none."""
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def kill(self) -> int:
        """Kill the operator without warning; the supervisor brings it back. Returns the pid it had."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        return pid

    async def back(self, killed: int) -> None:
        """Wait until another process runs than the one that was killed."""
        async with asyncio.timeout(_READY_SECONDS):
            while self.pid in (0, killed):  # noqa: ASYNC110 (a process has no watch)
                await asyncio.sleep(_LOOK_AGAIN)

    async def restart(self) -> None:
        """Kill it and wait until it has planned once again."""
        await self.back(self.kill())
        await self.ready()

    async def ready(self) -> None:
        """Wait until it leads and has planned once. Raises TimeoutError with the end of its log."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while await asyncio.to_thread(self._page, "/readyz") is None:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            said = f"the operator was not ready after {_READY_SECONDS:g} s; it said last:\n{tail}"
            raise TimeoutError(said) from None

    async def samples(self, metric: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the samples of a metric whose labels include ``labels``, as a scraper reads them."""
        page = await asyncio.to_thread(self._page, "/metrics")
        assert page is not None, "no /metrics"
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        }

    def _page(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return str(answer.read().decode()) if answer.status == 200 else None
        except (urllib.error.URLError, OSError):
            return None
