"""A real PostgreSQL server for tests: Debian's, started by the test itself in a folder of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import psycopg

INSTALL = "apt-get install --no-install-recommends postgresql"
STARTED_WITHIN = 60.0


def binaries() -> Path:
    """Return the folder of the newest server's programs; fails, and says what to install, where there is none."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        raise AssertionError(f"the ledger's tests need a PostgreSQL server: {INSTALL}")
    return max(found, key=lambda path: int(path.parent.name.split(".")[0]))


class PostgresServer:
    """A server with an empty cluster. ``database()`` makes one more database in it."""

    def __init__(self) -> None:
        self._bin = binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="gpugrant-pg-", dir="/tmp"))
        self._user = _unprivileged()
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            os.chown(self._folder, self._user, -1)
        made = [
            "initdb",
            "-D",
            "data",
            "-U",
            "ledger",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        subprocess.run(
            self._command(*made), cwd=self._folder, user=self._user, check=True, capture_output=True
        )

    def _command(self, program: str, *given: str) -> list[str]:
        return [str(self._bin / program), *given]

    @property
    def dsn(self) -> str:
        """Return how psycopg reaches the server's own database."""
        return f"host={self._folder} user=ledger dbname=postgres"

    def start(self) -> None:
        """Start it and return once it answers."""
        options = (
            "listen_addresses=",
            f"unix_socket_directories={self._folder}",
            "fsync=off",
            "max_connections=60",
        )
        given = [part for option in options for part in ("-c", option)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", "data", *given),
                cwd=self._folder,
                user=self._user,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + STARTED_WITHIN
        while True:
            try:
                psycopg.connect(self.dsn, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self._folder / "log").read_text()) from None
                time.sleep(0.05)  # it does not tell when it is up

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT closes its connections, SIGQUIT lets it fall where it stands."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def database(self) -> str:
        """Make an empty database; return the ledger's URL for it."""
        name = f"ledger_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://ledger@/{name}?host={self._folder}"

    def execute(self, statement: str) -> None:
        """Run a statement as the one who owns the server."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)

    def remove(self) -> None:
        """Stop it and take everything away."""
        self.stop()
        shutil.rmtree(self._folder)


def _unprivileged() -> int | None:
    """Return the user that the server runs as where tests run as root, which it refuses; else None."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return known.get("postgres", known["nobody"])
