"""One of several replicas of the operator, on one PostgreSQL: no supervisor brings it back."""

import asyncio
import sys
import urllib.error
import urllib.request
from pathlib import Path

from devcluster import processes
from devcluster.client import KubeClient
from devcluster.controlplane import ControlPlane, free_ports
from devcluster.credentials import write_kubeconfig
from devcluster.runfolder import ROOT
from devcluster.up import NAMESPACE, SERVICE_ACCOUNT
from gpugrant.run.lease import LEASE_PATH

_LOOK_AGAIN = 0.05
_SECONDS = 60.0


class Replica:
    """A replica named ``name``, as its pod would be."""

    def __init__(self, name: str, plane: ControlPlane, folder: Path, ledger: str) -> None:
        self.name = name
        self.log = plane.folder / f"{name}.log"
        self._plane = plane
        self._kubeconfig = folder / f"{name}.kubeconfig"
        self._ledger = ledger
        self._port = free_ports(1)[0]
        self._record: processes.Record | None = None

    async def start(self, admin: KubeClient) -> None:
        """Start it, and wait until it answers; it leads, or waits to."""
        token = await admin.token_for(NAMESPACE, SERVICE_ACCOUNT)
        write_kubeconfig(self._kubeconfig, self._plane.server, self._plane.ca_file, SERVICE_ACCOUNT, token)
        command = [sys.executable, "-m", "gpugrant", "run", "--kubeconfig", str(self._kubeconfig),
                   "--metrics-port", str(self._port), "--ledger", self._ledger]
        environment = {"PYTHONPATH": str(ROOT / "operator"), "PYTHONUNBUFFERED": "1", "POD_NAME": self.name}
        self._record = processes.start(self.name, command, self._plane.folder, environment)
        await self._until(lambda: self.page("/readyz") is not None, "ready")

    def stop(self, *, at_once: bool = False) -> None:
        """End it; ``at_once`` as the loss of its node would."""
        if self._record is not None:
            processes.stop(self._plane.folder, [self._record], at_once=at_once)
            self._record = None

    async def leads(self, admin: KubeClient) -> None:
        """Wait until it holds the lease and has planned once."""
        async with asyncio.timeout(_SECONDS):
            await admin.wait_for(
                LEASE_PATH, lambda seen: str((seen or {}).get("spec", {}).get("holderIdentity")).startswith(self.name),
                _SECONDS)
        await self._until(lambda: "gpugrant_ledger_watermark_timestamp_seconds" in (self.page("/metrics") or "")
                          and self.page("/readyz") is not None, "leading")

    def page(self, path: str) -> str | None:
        """Return a page of it; None where there is none, or it is not ready."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return str(answer.read().decode()) if answer.status == 200 else None
        except (urllib.error.URLError, OSError):
            return None

    async def _until(self, holds: object, what: str) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                while not await asyncio.to_thread(holds):  # type: ignore[arg-type]  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise TimeoutError(f"{self.name} was not {what} after {_SECONDS:g} s; it said last:\n{tail}") from None
