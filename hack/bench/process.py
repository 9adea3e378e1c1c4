"""The operator as a process of the benchmark's own: started, waited for, read, ended."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from devcluster.controlplane import free_ports
from devcluster.runfolder import ROOT


class OperatorProcess:
    """A running `gpugrant run`."""

    def __init__(self, kubeconfig: Path, ledger: Path, log: Path) -> None:
        self.port = free_ports(1)[0]
        self._log = log
        command = [
            sys.executable, "-m", "gpugrant", "run", "--kubeconfig", str(kubeconfig),
            "--metrics-port", str(self.port), "--ledger", f"sqlite:///{ledger}",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
        self.begun = time.monotonic()
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
            )
        self.pid = self._process.pid

    def wait_ready(self, seconds: float = 120.0) -> float:
        """Wait for the first plan; return the seconds since the process was started."""
        while True:
            if self._answers("/readyz"):
                return time.monotonic() - self.begun
            if self._process.poll() is not None or time.monotonic() - self.begun > seconds:
                tail = self._log.read_text(errors="replace").splitlines()[-15:]
                raise RuntimeError("the operator did not become ready; it said last:\n" + "\n".join(tail))
            time.sleep(0.05)

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
        return total(text, name, **labels)

    def cpu_seconds(self) -> float:
        """Return the processor time the operator has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_for(self, what: str, holds: "Callable[[OperatorProcess], bool]", seconds: float = 300.0) -> None:
        """Wait until ``holds(self)``."""
        deadline = time.monotonic() + seconds
        while not holds(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.5)

    def end(self) -> None:
        """End the process in good order."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def total(text: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples in an exposition that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    found = 0.0
    for line in text.splitlines():
        if line.startswith((f"{name}{{", f"{name} ")) and all(each in line for each in wanted):
            found += float(line.rpartition("} ")[2] if "}" in line else line.split()[1])
    return found


@contextlib.contextmanager
def operating(kubeconfig: Path, ledger: Path, log: Path) -> Iterator[OperatorProcess]:
    """Run an operator."""
    operator = OperatorProcess(kubeconfig, ledger, log)
    try:
        yield operator
    finally:
        operator.end()
