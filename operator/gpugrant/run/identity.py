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


def identity(*configuration: str) -> str:
    """Return the name for the lease."""
    host = os.environ.get("POD_NAME") or socket.gethostname()
    digest = hashlib.sha256("\0".join(configuration).encode()).hexdigest()[:10]
    name = f"{host}_{digest}"
    path = Path(tempfile.gettempdir()) / f"gpugrant-{os.getuid()}-{digest}.lock"
    try:
        # Left open: that is the proof that the process lives, and the kernel closes it.
        lock = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError:
        return f"{name}_{os.getpid()}"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return f"{name}_{os.getpid()}"
    return name
