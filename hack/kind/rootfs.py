"""Root file systems of Debian's packages, made by mmdebstrap and kept in the cache.

The suite is bookworm: its systemd is the last that runs in hosts with cgroup v1 as well.
"""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster.binaries import BuildFailed, cache_folder, say

SUITE = "bookworm"
# What nobody reads in a container.
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")


@dataclass(frozen=True)
class RootFileSystem:
    """What is in it: Debian's packages, and shell commands run on it ($1 is its folder) before it is packed."""

    name: str
    packages: Sequence[str]
    hooks: Sequence[str] = ()

    def digest(self) -> str:
        """Return what it depends on. Not the packages' versions: those are the newest on the day it was made."""
        words = [SUITE, *self.packages, "", *self.hooks, *_LEFT_OUT]
        return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]

    def path(self) -> Path:
        """Return where its tar file lies, or would."""
        return kind_cache() / f"rootfs-{self.name}-{self.digest()}.tar"


def kind_cache() -> Path:
    """Return the folder for images and root file systems, outside of any checkout."""
    folder = cache_folder().parent / "kind"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_or_make(wanted: RootFileSystem) -> Path:
    """Return the tar file of a root file system; make it where there is none. Raises BuildFailed."""
    path = wanted.path()
    if path.exists():
        return path
    if shutil.which("mmdebstrap") is None:
        raise BuildFailed("no mmdebstrap, which makes Debian root file systems: hack/packages kind installs it")
    say(f"making the root file system for {wanted.name} of Debian {SUITE}'s packages: about half a minute")
    started = time.monotonic()
    beside = path.with_name(f".{os.getpid()}-{path.name}")
    log = path.with_suffix(".log")
    try:
        with log.open("w") as output:
            made = subprocess.run(
                _command(wanted, beside), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
            )
        if made.returncode != 0:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise BuildFailed(f"mmdebstrap failed with status {made.returncode}; it said last:\n{last}")
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
    size = path.stat().st_size / 1e6
    say(f"made {path} in {time.monotonic() - started:.0f} s, {size:.0f} MB")
    return path


def _command(wanted: RootFileSystem, output: Path) -> list[str]:
    command = ["mmdebstrap", "--variant=essential", f"--include={','.join(wanted.packages)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    command += [f"--customize-hook={hook}" for hook in wanted.hooks]
    return [*command, SUITE, str(output)]
