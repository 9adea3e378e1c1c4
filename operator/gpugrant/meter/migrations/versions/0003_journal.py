"""A journal of days and months, sums over all rows of facts, seals; the next revision enters what is there."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and columns; the next revision enters what is there."""
    op.create_table(
        "journal",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("programme", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("start_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("chain", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal")),
    )
    op.create_index(op.f("ix_journal_programme_start_at"), "journal", ["programme", "start_at"], unique=False)
    op.add_column("ledger", sa.Column("contents", sa.Text(), nullable=False, server_default="{}"))
    op.add_column("ledger", sa.Column("seal", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("months", sa.Column("seal", sa.String(length=64), nullable=False, server_default=""))
