"""The ledger's tables, for SQLite and PostgreSQL alike. Migrations bring a database to this shape.

Times are epoch seconds and sums GPU-seconds, both in 64 bits. Rows of facts are written once; only a hold's
end and the running totals, which can be made again from the facts, change.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives row ids only to a column declared INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")

# One row. Every transaction raises ``writes`` first: that takes the write lock before anything is read, and a
# second writer is noticed by whoever finds a number it did not write.
ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("opened_at", BigInteger, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("writes", BigInteger, nullable=False),
    Column("calendars", Text, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("programme", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("pool", Text, nullable=False),
    Column("gpu_type", Text, nullable=False),
    Column("share", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("tenant_namespace", Text, nullable=False),
    Column("grant_name", Text, nullable=False),
    Column("grant_uid", Text, nullable=False),
    Column("award", Text, nullable=False),
    Index(None, "grant_uid"),
)

holdings = Table(
    "holdings",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("uid", String(64), nullable=False, unique=True),
    Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False),
    Column("namespace", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("fabric", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("seats", BigInteger, nullable=False),
    Column("server_seats", BigInteger, nullable=False),
    Column("held_from", BigInteger, nullable=False),
    Column("held_until", BigInteger),  # what counts; null: still held
    Column("own_until", BigInteger),  # what the pod's own facts say; later where the next bind won
    Column("is_cut", Boolean, nullable=False),
    Column("end_reason", String(16), nullable=False),
    Column("observed", Boolean, nullable=False),  # false: the end is bounded, not seen
    Column("finished_at", BigInteger, nullable=False),
    Column("disrupted_at", BigInteger, nullable=False),
    Column("terminal_at", BigInteger, nullable=False),
    Column("gone_at", BigInteger, nullable=False),
    Column("waited", BigInteger, nullable=False),
    Index(None, "server", "own_until"),
    Index(None, "account_id", "own_until"),
)
_open = holdings.c.own_until.is_(None)
Index("ix_holdings_open", holdings.c.id, sqlite_where=_open, postgresql_where=_open)
_cut = holdings.c.is_cut.is_(True)
Index("ix_holdings_cut", holdings.c.server, sqlite_where=_cut, postgresql_where=_cut)

# Closed holds, summed. The same commit writes the row and its sums.
totals = Table(
    "totals",
    metadata,
    Column("account_id", _Id, ForeignKey("accounts.id"), primary_key=True),
    Column("month", String(32), primary_key=True),
    Column("condition", String(16), primary_key=True),
    Column("gpu_seconds", BigInteger, nullable=False),
)

# What a counter had shown when the sum behind it fell: it waits there until the sum has caught up.
floors = Table(
    "floors",
    metadata,
    Column("account_id", _Id, ForeignKey("accounts.id"), primary_key=True),
    Column("condition", String(16), primary_key=True),
    Column("gpu_seconds", BigInteger, nullable=False),
)

grant_terms = Table(
    "grant_terms",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("grant_uid", String(64), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("award", Text, nullable=False),
    Column("gpus", BigInteger, nullable=False),
    Column("term_start", BigInteger, nullable=False),
    Column("term_end", BigInteger, nullable=False),
    Column("grace_seconds", BigInteger, nullable=False),
    UniqueConstraint("grant_uid", "since"),
)

settings_versions = Table(
    "settings_versions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    UniqueConstraint("digest", "since"),
)

failures = Table(
    "failures",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("server", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("programme", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("pool", Text, nullable=False),
    Column("gpu_type", Text, nullable=False),
    Column("share", Text, nullable=False),
    Column("seats", BigInteger, nullable=False),
    UniqueConstraint("server", "cause", "since"),
)

gaps = Table(
    "gaps",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("start_at", BigInteger, nullable=False, unique=True),
    Column("end_at", BigInteger, nullable=False),
)
