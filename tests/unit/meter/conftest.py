"""Both kinds of store. ``url`` is an empty database of each; a test that takes it runs on both.

postgres    (session) a running PostgreSQL server -> meter_kit.postgres.PostgresServer
url         (function, both stores) an empty ledger's URL
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from meter_kit.postgres import PostgresServer


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
