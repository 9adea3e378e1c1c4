"""Alembic's entry: runs migrations on the connection that ``upgrade`` hands over."""

from alembic import context

import gpugrant.meter.day_tables  # noqa: F401 (its tables are in the metadata)
from gpugrant.meter.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
