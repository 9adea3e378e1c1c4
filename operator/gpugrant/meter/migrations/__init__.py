"""Alembic's migrations of the ledger; ``upgrade`` brings a database to the newest."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the connected database to a shape, the newest if none is given, in the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", "gpugrant.meter:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def revision_of(connection: Connection) -> str:
    """Return the shape that the connected database has; '' where it has none."""
    return MigrationContext.configure(connection).get_current_revision() or ""
