"""The ledger's tables, for SQLite and PostgreSQL alike. Migrations bring a database to this shape.

Times are epoch seconds and sums GPU-seconds, both in 64 bits. Rows of facts are written once; of them only a
hold's end changes. What is worked out from them is in ``day_tables``.
"""

from typing import Any

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
Id = BigInteger().with_variant(Integer(), "sqlite")

# One row. Every transaction raises ``writes`` first: that takes the write lock before anything is read, and a
# second writer is noticed by whoever finds a number it did not write. ``contents`` says what all other rows of facts
# add up to, ``seal`` is the SHA-256 over this row itself: see ``books``.
ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("opened_at", BigInteger, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("writes", BigInteger, nullable=False),
    Column("calendars", Text, nullable=False),
    Column("contents", Text, nullable=False),
    Column("seal", String(64), nullable=False),
)

# What was done to days and months, in order, never changed: each entry's ``chain`` is over the one before and itself.
journal = Table(
    "journal",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),  # 1, 2, 3 ... without gaps
    Column("kind", String(16), nullable=False),
    Column("programme", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("start_at", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("chain", String(64), nullable=False),
    Index(None, "programme", "start_at"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Id, primary_key=True),
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
    Column("id", Id, primary_key=True),
    Column("uid", String(64), nullable=False, unique=True),
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
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
    Index(None, "held_from"),
    Index(None, "held_until", "held_from"),  # what touches a day is found without reading what came after it
)
_open = holdings.c.own_until.is_(None)
Index("ix_holdings_open", holdings.c.id, sqlite_where=_open, postgresql_where=_open)
_unseen = holdings.c.end_reason == "Unobserved"
Index("ix_holdings_unseen", holdings.c.gone_at, sqlite_where=_unseen, postgresql_where=_unseen)
_cut = holdings.c.is_cut.is_(True)
Index("ix_holdings_cut", holdings.c.server, sqlite_where=_cut, postgresql_where=_cut)

grant_terms = Table(
    "grant_terms",
    metadata,
    Column("id", Id, primary_key=True),
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


def _history(name: str, *columns: Column[Any]) -> Table:
    """Return the table of facts that hold from ``since`` on; of one second, the one written last counts."""
    subject = [column.name for column in columns if column.info.get("subject")]
    return Table(
        name,
        metadata,
        Column("id", Id, primary_key=True),
        *columns[: len(subject)],
        Column("since", BigInteger, nullable=False),
        *columns[len(subject) :],
        Index(None, *subject, "since"),
    )


def _subject(name: str, length: int = 0) -> Column[Any]:
    """Return a column that says whose history a row is of."""
    return Column(name, String(length) if length else Text, nullable=False, info={"subject": True})


def _text(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False)


def _number(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False)


placements = _history(
    "placements",
    _subject("server"),
    *map(_text, ("programme", "provider", "pool", "gpu_type", "share", "fabric")),
    _number("seats"),
    _text("idle_owner"),
)

health = _history("health", _subject("server"), _subject("aspect", 16), _number("value"), _number("seen"))

unwell = _history("unwell", _subject("uid", 64), _text("server"), _number("seats"))

maintenance = _history(
    "maintenance", _subject("server"), _number("start_at"), _number("end_at"), _number("notice")
)

claims = _history(
    "claims", _subject("server"), _subject("grant_uid", 64), Column("has", Boolean, nullable=False)
)

shared_seats = _history(
    "shared_seats",
    _subject("grant_uid", 64),
    *map(_text, ("programme", "provider", "pool", "gpu_type", "share")),
    _number("seats"),
)

contracts = _history(
    "contracts",
    _subject("pool"),
    *map(_text, ("programme", "provider", "gpu_type", "instalments")),  # instalments: JSON
    _number("promised"),
)

tenant_names = _history("tenant_names", _subject("tenant"), _text("display_name"))

settings_versions = Table(
    "settings_versions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    UniqueConstraint("digest", "since"),
)

failures = Table(
    "failures",
    metadata,
    Column("id", Id, primary_key=True),
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
    Column("id", Id, primary_key=True),
    Column("start_at", BigInteger, nullable=False, unique=True),
    Column("end_at", BigInteger, nullable=False),
)
