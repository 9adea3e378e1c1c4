"""The folder .run of a checkout: what runs there and where a client finds it.

kubeconfig, operator.pid, operator.log and metrics-url are for everybody; control-plane/ holds the rest.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devcluster import processes
from devcluster.controlplane import ControlPlane

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATOR = "operator"
SUPERVISOR = "supervisor"


class AlreadyRuns(RuntimeError):
    """Something of this checkout runs; the message tells what, and how to stop it."""


class RunFolder:
    """One .run folder."""

    def __init__(self, path: Path = ROOT / ".run") -> None:
        self.path = path.resolve()
        self.plane = ControlPlane(self.path / "control-plane")

    @property
    def kubeconfig(self) -> Path:
        """The platform engineer's kubeconfig."""
        return self.path / "kubeconfig"

    @property
    def operator_pid(self) -> Path:
        """The operator's pid and nothing else, rewritten when it comes back."""
        return self.path / "operator.pid"

    @property
    def operator_log(self) -> Path:
        """What the operator prints."""
        return self.path / "operator.log"

    @property
    def metrics_url(self) -> Path:
        """A file that holds the address of /metrics."""
        return self.path / "metrics-url"

    @property
    def examples(self) -> Path:
        """The examples as they fit this fleet and today."""
        return self.path / "examples"

    @property
    def ledger(self) -> Path:
        """The operator's SQLite ledger."""
        return self.path / "ledger.sqlite"

    @property
    def accounts(self) -> tuple[str, ...]:
        """What keeps what was counted, by name: the ledger, closed months, the key they are signed with."""
        return (*(f"{self.ledger.name}{end}" for end in ("", "-wal", "-shm")), "reports", "signing-key.pem")

    # -- what runs -----------------------------------------------------------------------------------

    @contextmanager
    def claimed(self, what: dict[str, Any]) -> Iterator[None]:
        """Claim the folder while something is started in it. Raises AlreadyRuns, and changes nothing then."""
        self.path.mkdir(exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                at_work = f"another make up or make demo is at work in {self.path.parent}"
                raise AlreadyRuns(f"{at_work}: {self.told()}") from None
            if processes.running(self.plane.folder):
                raise AlreadyRuns(self.told())
            self.clear()
            (self.path / "what.json").write_text(json.dumps(what))
            yield

    def told(self) -> str:
        """Say in words what runs here."""
        running = [record.name for record in processes.running(self.plane.folder)]
        if not running:
            return "nothing has been started yet"
        what = json.loads((self.path / "what.json").read_text())
        lines = [f"make {what['command']} already runs here with {what['servers']:,} servers: {', '.join(running)}"]
        for label, path in (("kubeconfig", self.kubeconfig), ("operator's log", self.operator_log)):
            if path.exists():
                lines.append(f"  {label}: {path}")
        if self.metrics_url.exists():
            lines.append(f"  metrics: {self.metrics_url.read_text().strip()}")
        stop = "make down" if what["command"] == "up" else "Ctrl-C in its terminal, or make down"
        lines.append(f"Nothing was started or stopped. To end it: {stop}")
        return "\n".join(lines)

    def stop(self) -> None:
        """End the operator and the control plane, exactly what is recorded here."""
        records = {record.name: record for record in processes.running(self.plane.folder)}
        # The supervisor first: it would bring the operator back.
        for name in (SUPERVISOR, OPERATOR):
            if name in records:
                processes.stop(self.plane.folder, [records[name]])
        self.plane.stop()

    def clear(self, *, keep: tuple[str, ...] = ()) -> None:
        """Remove all but the lock, what a failed run left to look at, the kind cluster's and what ``keep`` names."""
        for path in self.path.iterdir():
            if path.name in ("lock", "failed", "kind", *keep):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def keep_logs(self) -> Path:
        """Copy the logs to .run/failed, for a person to look at after a run that failed; return that folder."""
        kept = self.path / "failed"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for log in (*self.plane.folder.glob("*.log"), *self.path.glob("*.log")):
            shutil.copy(log, kept)
        return kept
