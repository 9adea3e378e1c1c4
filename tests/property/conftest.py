"""postgres: (session) a running PostgreSQL server -> meter_kit.postgres.PostgresServer."""

from collections.abc import Iterator

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
