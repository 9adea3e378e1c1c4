"""Tables of what is worked out from the facts: days, their cells, months, and what people said of reports.

A day's rows are written when it closes, and made anew while its month is open. Of a closed month nothing changes:
what turns out otherwise is in ``corrections``.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from gpugrant.meter.tables import Id, metadata

# A programme's days, without gaps. ``stale``: a fact that came late touches it, its cells are to be made anew.
days = Table(
    "days",
    metadata,
    Column("id", Id, primary_key=True),
    Column("programme", Text, nullable=False),
    Column("name", String(32), nullable=False),
    Column("month", String(32), nullable=False),
    Column("start_at", BigInteger, nullable=False),
    Column("end_at", BigInteger, nullable=False),
    Column("stale", Boolean, nullable=False),
    UniqueConstraint("programme", "start_at"),
)
_stale = days.c.stale.is_(True)
Index("ix_days_stale", days.c.id, sqlite_where=_stale, postgresql_where=_stale)


def _cell() -> tuple[Column[Any], ...]:
    """Return the columns that say what GPU-seconds are of."""
    return (
        Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
        Column("fabric", Text, nullable=False),
        Column("condition", String(16), nullable=False),
        Column("reason", String(32), nullable=False),
        Column("gpu_seconds", BigInteger, nullable=False),
    )


cells = Table(
    "cells",
    metadata,
    Column("id", Id, primary_key=True),
    Column("day_id", Id, ForeignKey("days.id"), nullable=False),
    *_cell(),
    UniqueConstraint("day_id", "account_id", "fabric", "condition", "reason"),
)

# What a pool's cells of a day must add up to, worked out another way.
day_pools = Table(
    "day_pools",
    metadata,
    Column("day_id", Id, ForeignKey("days.id"), primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("pool", Text, primary_key=True),
    Column("expected", BigInteger, nullable=False),
    Column("shortfall", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
)

# ``revision`` counts how often a day's digest changed before its month closed.
day_digests = Table(
    "day_digests",
    metadata,
    Column("day_id", Id, ForeignKey("days.id"), primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
)

# Closed months. ``account`` is the MonthAccount but for its lines, as it was; JSON. ``seal`` is the SHA-256 over the
# row and the seal of the same provider's month closed before it.
months = Table(
    "months",
    metadata,
    Column("id", Id, primary_key=True),
    Column("programme", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("name", String(32), nullable=False),
    Column("start_at", BigInteger, nullable=False),
    Column("end_at", BigInteger, nullable=False),
    Column("manifest", String(64), nullable=False),
    Column("closed_at", BigInteger, nullable=False),
    Column("account", Text, nullable=False),
    Column("seal", String(64), nullable=False),
    UniqueConstraint("programme", "provider", "name"),
)

# Reversals (below zero) and re-entries of days in closed months, booked in the month named.
corrections = Table(
    "corrections",
    metadata,
    Column("id", Id, primary_key=True),
    Column("day_id", Id, ForeignKey("days.id"), nullable=False),
    Column("booked_in", String(32), nullable=False),
    Column("why", Text, nullable=False),
    *_cell(),
    Index(None, "day_id"),
    Index(None, "booked_in"),
)

# What people said of a report: signed off, acknowledged. Written by the command line too.
marks = Table(
    "marks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("report", Text, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("by", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index(None, "report"),
)

# Cells of closed days and corrections, by the month they are booked in. The same commit writes both.
totals = Table(
    "totals",
    metadata,
    Column("account_id", Id, ForeignKey("accounts.id"), primary_key=True),
    Column("month", String(32), primary_key=True),
    Column("condition", String(16), primary_key=True),
    Column("gpu_seconds", BigInteger, nullable=False),
)

# What a counter had shown when the sum behind it may have fallen: it waits there until the sum has caught up.
floors = Table(
    "floors",
    metadata,
    Column("account_id", Id, ForeignKey("accounts.id"), primary_key=True),
    Column("condition", String(16), primary_key=True),
    Column("gpu_seconds", BigInteger, nullable=False),
)
