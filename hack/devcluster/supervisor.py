"""Run a command and bring it back when it ends, as a Deployment would; write its pid where people look.

python -m devcluster.supervisor RECORDS PIDFILE LOG COMMAND...   SIGTERM ends both.
"""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from devcluster import processes
from devcluster.runfolder import OPERATOR

_PAUSE = 0.5
# A program that ends at once would otherwise be started twice a second for ever.
_LONGEST_PAUSE = 5.0
_HEALTHY_SECONDS = 10.0
_PATIENCE = 8.0
_POLL = 0.1


def supervise(records: Path, pid_file: Path, log: Path, command: list[str]) -> None:
    """Keep ``command`` running until SIGTERM or SIGINT; then end it."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    pause = _PAUSE
    while not ended.is_set():
        started = time.monotonic()
        process = _start(records, pid_file, log, command)
        _wait_for_either(process, ended)
        if ended.is_set():
            _end(process)
            break
        pause = _PAUSE if time.monotonic() - started > _HEALTHY_SECONDS else min(pause * 2, _LONGEST_PAUSE)
        with log.open("a") as out:
            out.write(f"-- ended with status {process.returncode}; comes back in {pause:g} s\n")
        ended.wait(pause)
    pid_file.unlink(missing_ok=True)
    (records / f"{OPERATOR}.pid").unlink(missing_ok=True)


def _start(records: Path, pid_file: Path, log: Path, command: list[str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        # In our own session: `down` ends us, we end it. Recorded too, should somebody kill us.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    processes.write_record(records, processes.record_of(OPERATOR, process.pid))
    beside = pid_file.with_name(f".{pid_file.name}")
    beside.write_text(f"{process.pid}\n")
    beside.rename(pid_file)
    return process


def _wait_for_either(process: subprocess.Popen[bytes], ended: threading.Event) -> None:
    """Return when the process has ended or we are told to end."""
    while process.poll() is None and not ended.wait(_POLL):
        pass


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
