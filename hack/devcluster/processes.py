"""Long-running processes of the dev cluster: started in sessions of their own, recorded, stopped exactly.

A record is one line in FOLDER/NAME.pid: pid and start time, so that a pid the kernel has given to somebody
else is never signalled. `guard` makes a run in the foreground leave nothing behind, even after SIGKILL.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.02


class ProcessEnded(RuntimeError):
    """A process that should run has ended; the message shows the end of its log."""


@dataclass(frozen=True)
class Record:
    """Which process it is: pid and the kernel's start time of it."""

    name: str
    pid: int
    started: str

    def runs(self) -> bool:
        """Say whether this very process still runs (a zombie does not)."""
        return _start_time(self.pid) == self.started


def _start_time(pid: int) -> str:
    """Return the start time of a process in the kernel's own words, or "" where it has ended."""
    try:
        # The command's name may hold spaces and brackets: count fields from the last bracket on.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return ""
        asked = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False  # no /proc: macOS
        )
        return asked.stdout.strip()
    return "" if fields[0] in "ZX" and not _has_threads(pid) else fields[19]


def _has_threads(pid: int) -> bool:
    """Say whether a process whose first thread has ended still has others, which hold its port open."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir()) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def start(name: str, command: list[str], folder: Path, environment: dict[str, str] | None = None) -> Record:
    """Start ``command`` in its own session, its output appended to FOLDER/NAME.log, and record it."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **(environment or {})}, cwd=folder,
        )
    # The child is ours to reap when it ends; without this Popen's destructor warns that it still runs.
    _CHILDREN[process.pid] = process
    record = record_of(name, process.pid)
    write_record(folder, record)
    return record


def record_of(name: str, pid: int) -> Record:
    """Return the record of a process that runs now."""
    return Record(name, pid, _start_time(pid))


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


@atexit.register
def _leave_to_run() -> None:
    """Tell Popen's destructors that what still runs at our end is meant to: guards, and what `make up` started."""
    for process in _CHILDREN.values():
        process.returncode = 0


def _reap() -> None:
    for pid, process in list(_CHILDREN.items()):
        if process.poll() is not None:
            del _CHILDREN[pid]


def write_record(folder: Path, record: Record) -> None:
    """Write FOLDER/NAME.pid in one step."""
    beside = folder / f".{record.name}.pid"
    beside.write_text(f"{record.pid} {record.started}\n")
    beside.rename(folder / f"{record.name}.pid")


def read_records(folder: Path) -> list[Record]:
    """Return what FOLDER/*.pid tell of, whether it still runs or not."""
    records = []
    for path in sorted(folder.glob("*.pid")):
        pid, _, started = path.read_text().strip().partition(" ")
        if pid.isdigit() and started:
            records.append(Record(path.stem, int(pid), started))
    return records


def running(folder: Path) -> list[Record]:
    """Return the recorded processes that still run."""
    _reap()
    return [record for record in read_records(folder) if record.runs()]


def stop(folder: Path, records: list[Record], patience: float = 10.0, *, at_once: bool = False) -> None:
    """End exactly these processes: SIGTERM, after ``patience`` seconds SIGKILL; then drop their records."""
    for record in records:
        _signal(record, signal.SIGKILL if at_once else signal.SIGTERM)
    deadline = time.monotonic() + patience
    left = records
    while left := [record for record in left if record.runs()]:
        _reap()
        if time.monotonic() > deadline:
            for record in left:
                _signal(record, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(_POLL_SECONDS)
    _reap()
    for record in records:
        (folder / f"{record.name}.pid").unlink(missing_ok=True)


def _signal(record: Record, number: signal.Signals) -> None:
    if record.runs():
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)


def check(folder: Path, record: Record) -> None:
    """Raise ProcessEnded, with the end of its log, where the process has ended."""
    _reap()
    if not record.runs():
        log = folder / f"{record.name}.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
        raise ProcessEnded(f"{record.name} ended; the end of {log}:\n{tail}")


# -- a guard over a run in the foreground ------------------------------------------------------------


def guard(folder: Path) -> int:
    """Start a process that stops everything recorded in ``folder`` when this process is gone.

    Return the file descriptor that holds it off: the kernel closes it with us, however we end.
    """
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), str(folder), str(reader)],
        pass_fds=(reader,), stdin=subprocess.DEVNULL, start_new_session=True,
    )
    _CHILDREN[process.pid] = process
    os.close(reader)
    return writer


def _stand_guard(folder: Path, reader: int) -> None:
    os.read(reader, 1)  # returns when the other end is closed
    stop(folder, running(folder), patience=5.0)


if __name__ == "__main__":
    _stand_guard(Path(sys.argv[1]), int(sys.argv[2]))
