"""Both kinds of store. ``url`` is an empty database of each; a test that takes it runs on both.

postgres    (session) a running PostgreSQL server -> meter_kit.postgres.PostgresServer
url         (function, both stores) an empty ledger's URL
books       (function, both stores) the URL of a fresh copy of closed_books.write_books' ledger
written     (session) the function that makes such copies: (kind of store, folder) -> URL
"""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from meter_kit.postgres import PostgresServer
from unit.meter.closed_books import write_books


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture(scope="session")
def written(tmp_path_factory, request):
    """Return a function that gives the URL of a fresh copy of the books."""
    file = tmp_path_factory.mktemp("books") / "ledger.db"
    write_books(f"sqlite:///{file}")
    numbers = count(1)
    kept: dict[str, str] = {}

    def copy(kind, folder):
        if kind == "sqlite":
            shutil.copy(file, folder)
            return f"sqlite:///{folder / 'ledger.db'}"
        postgres = request.getfixturevalue("postgres")
        if not kept:
            kept["url"] = postgres.database()
            write_books(kept["url"])
        name, template = f"copy_{next(numbers)}", kept["url"].split("@/")[1].split("?")[0]
        postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return kept["url"].replace(template, name)

    return copy


@pytest.fixture(params=["sqlite", "postgresql"])
def books(request, written, tmp_path):
    return written(request.param, tmp_path)
