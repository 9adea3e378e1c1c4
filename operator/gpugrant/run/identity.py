"""Under which name this process asks for the lease.

Stable over restarts of the same pod, or of the same configuration on the same host, so that an operator that
was killed re-takes its own lease at once; a second process with the same configuration gets another name.
"""

import fcntl
import hashlib
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

_kept: list[IO[str]] = []  # an open file is the proof that the process lives; the kernel closes it


def identity(*configuration: str) -> str:
    """Return the name for the lease."""
    host = os.environ.get("POD_NAME") or socket.gethostname()
    digest = hashlib.sha256("\0".join(configuration).encode()).hexdigest()[:10]
    name = f"{host}_{digest}"
    path = Path(tempfile.gettempdir()) / f"gpugrant-{os.getuid()}-{digest}.lock"
    try:
        lock = path.open("a")
    except OSError:
        return f"{name}_{os.getpid()}"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return f"{name}_{os.getpid()}"
    _kept.append(lock)
    return name
