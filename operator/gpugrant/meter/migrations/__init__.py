"""Alembic's migrations of the ledger; ``upgrade`` brings a database to the newest. None leads back."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from gpugrant.meter.database import newer_shape


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the connected database to a shape, the newest if none is given, in the connection's transaction.

    Raises NoLedgerError where it, or what it is to be brought to, is of a newer version; nothing is written then.
    """
    for shape in {revision_of(connection), revision} - {"", "head"} - known_revisions():
        raise newer_shape(shape)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def revision_of(connection: Connection) -> str:
    """Return the shape that the connected database has; '' where it has none."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def known_revisions() -> set[str]:
    """Return the shapes that this version knows."""
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "gpugrant.meter:migrations")
    return config
