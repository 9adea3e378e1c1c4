"""Days have what pools add up to for each provider; how far a shortfall was shown is kept."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from gpugrant.meter.seals import adopt

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WHOSE = sa.text(
    "SELECT DISTINCT cells.day_id, accounts.pool, accounts.provider FROM cells "
    "JOIN accounts ON accounts.id = cells.account_id"
)


def upgrade() -> None:
    """Make the tables anew with what is there, and seal it as it is then."""
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT day_id, pool, expected, shortfall, held FROM day_pools")).all()
    providers: dict[tuple[int, str], list[str]] = {}
    for day, pool, provider in connection.execute(_WHOSE):
        providers.setdefault((day, pool), []).append(provider)
    promised = sa.text("SELECT pool, provider FROM contracts WHERE provider <> '' ORDER BY since")
    contracts = {row.pool: row.provider for row in connection.execute(promised)}
    op.drop_table("day_pools")
    made = op.create_table(
        "day_pools",
        sa.Column("day_id", _ID, nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("expected", sa.BigInteger(), nullable=False),
        sa.Column("shortfall", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["day_id"], ["days.id"], name=op.f("fk_day_pools_day_id_days")),
        sa.PrimaryKeyConstraint("day_id", "provider", "pool", name=op.f("pk_day_pools")),
    )
    known: list[dict[str, Any]] = []
    for row in rows:
        whose = sorted(providers.get((row.day_id, row.pool), [contracts.get(row.pool, "")]))
        known.append({**row._mapping, "provider": whose[0]})
        if (
            len(whose) > 1
        ):  # the pool changed hands that day: such a month could not close, it is summed again
            connection.execute(sa.text("UPDATE days SET stale = true WHERE id = :day"), {"day": row.day_id})
    if known:
        op.bulk_insert(made, known)
    adopt(connection)
