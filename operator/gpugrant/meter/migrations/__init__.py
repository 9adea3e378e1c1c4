"""Alembic's migrations of the ledger; ``upgrade`` brings a database to the newest."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Bring the connected database to the newest shape, in the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", "gpugrant.meter:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
