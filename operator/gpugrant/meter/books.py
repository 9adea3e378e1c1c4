"""What lets a rewriting of the books be seen: sums over all rows of facts, a journal of days and months, a seal.

The ledger's own row says of each table of facts how many rows it has and what their digests add up to; who writes a
row adds it there, in the same transaction. What is worked out from facts (days, months) is entered in the journal
with a SHA-256, each entry chained to the one before. Last, the row is sealed with a SHA-256 over itself. No key is in
any of it: whoever owns the whole database can work all of it out anew. See docs/accounting.md.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Table, insert, select, update

from gpugrant.meter.day_tables import floors
from gpugrant.meter.tables import (
    accounts,
    claims,
    contracts,
    failures,
    gaps,
    grant_terms,
    health,
    holdings,
    journal,
    ledger,
    maintenance,
    placements,
    settings_versions,
    shared_seats,
    tenant_names,
    unwell,
)

# What of each table's rows is summed. Named one by one: a column that a later shape adds must not change what an
# earlier one summed. Ids are left out but where other rows speak of them: they say only what was written first.
_PLACE = ("programme", "provider", "pool", "gpu_type", "share")
SUMMED: Mapping[Table, tuple[str, ...]] = {
    accounts: (
        "id", "digest", *_PLACE, "owner", "tenant", "tenant_namespace", "grant_name", "grant_uid", "award",
    ),
    holdings: (
        "uid", "account_id", "namespace", "name", "server", "fabric", "resource", "seats", "server_seats",
        "held_from", "held_until", "own_until", "is_cut", "end_reason", "observed", "finished_at",
        "disrupted_at", "terminal_at", "gone_at", "waited",
    ),
    grant_terms: (
        "grant_uid", "since", "namespace", "name", "tenant", "award", "gpus", "term_start", "term_end",
        "grace_seconds",
    ),
    placements: ("server", "since", *_PLACE, "fabric", "seats", "idle_owner"),
    health: ("server", "aspect", "since", "value", "seen"),
    unwell: ("uid", "since", "server", "seats"),
    maintenance: ("server", "since", "start_at", "end_at", "notice"),
    claims: ("server", "grant_uid", "since", "has"),
    shared_seats: ("grant_uid", "since", *_PLACE, "seats"),
    contracts: ("pool", "since", "programme", "provider", "gpu_type", "instalments", "promised"),
    tenant_names: ("tenant", "since", "display_name"),
    settings_versions: ("digest", "since", "text"),
    failures: ("server", "cause", "since", *_PLACE, "seats"),
    gaps: ("start_at", "end_at"),
    floors: ("account_id", "condition", "gpu_seconds"),
}  # fmt: skip

_MODULUS = 1 << 256
_SEALED = ("opened_at", "watermark", "writes", "calendars", "contents")
JOURNAL = "journal"  # in contents, beside the tables: how many entries, and the chain of the last
BATCH = "batch"  # in contents: which batch of facts was written last, in the words of who wrote it

# Kinds of entries in the journal.
DAY = "day"  # a day was written: sha256 over all its rows
DIGEST = "digest"  # a day's digest as it is published, for one provider
ADOPTED = "adopted"  # a digest that was there before there was a journal
LATE = "late"  # facts came late for a day: it may be marked stale
CUT = "cut"  # a programme's days from ``start`` on were let go: they are cut by another calendar now
MONTH = "month"  # a month was closed: sha256 is its seal
SETTINGS = "settings"  # settings came into force: sha256 of their text
BROKEN = "broken"  # what was about to be written over was not as it had been written


class SupersededError(Exception):
    """Another process has written to the ledger since it was loaded."""


class Entry(Struct, frozen=True):
    """One line of the journal. ``name`` is a day's, a month's, or the settings' digest."""

    kind: str
    programme: str = ""
    provider: str = ""
    name: str = ""
    start: int = 0
    revision: int = 0
    sha256: str = ""
    watermark: int = 0  # the ledger's, before the transaction


class Sum(Struct):
    """How many rows a table has, and their digests added up (modulo 2 to the 256th): the order does not matter."""

    rows: int = 0
    total: int = 0

    @classmethod
    def of(cls, rows: int, total: int) -> "Sum":
        """Return the sum of rows whose digests were added up as they are."""
        return cls(rows, total % _MODULUS)

    def add(self, values: Sequence[Any], sign: int = 1) -> None:
        """Add a row by its summed columns, or take it away (``sign`` -1)."""
        self.rows += sign
        self.total = (self.total + sign * row_digest(values)) % _MODULUS


def row_digest(values: Sequence[Any]) -> int:
    """Return the SHA-256 over a row's columns, as a number."""
    return int.from_bytes(hashlib.sha256(msgspec.json.encode(values)).digest(), "big")


def chain_of(before: str, entry: Entry) -> str:
    """Return the chain at an entry: SHA-256 (hex) over the chain before it and the entry."""
    return hashlib.sha256(before.encode() + msgspec.json.encode(entry)).hexdigest()


def seal_of(row: Mapping[str, Any]) -> str:
    """Return what the ledger's own row is sealed with."""
    return hashlib.sha256(msgspec.json.encode([row[name] for name in _SEALED])).hexdigest()


class Books:
    """The ledger's own row while a transaction has it locked, and what the transaction adds to it."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.watermark: int = row["watermark"]
        self.calendars: str = row["calendars"]
        self._row = dict(row)
        self._sums, self._entries, self._head = read_contents(row["contents"])
        self.batch = _batch_in(row["contents"])
        self._since = self._row["watermark"]
        self._fresh: list[dict[str, Any]] = []

    @classmethod
    def locked(cls, connection: Connection, *, is_new: bool = False) -> "Books":
        """Return the row that this transaction has just locked by raising its ``writes``.

        A row that is not as it was sealed is entered as broken: to seal it again must not hide that.
        """
        row = dict(connection.execute(select(ledger)).mappings().one())
        books = cls(row)
        if not is_new and seal_of(row | {"writes": row["writes"] - 1}) != row["seal"]:
            books.enter(Entry(BROKEN, name=str(ledger.name)))
        return books

    @property
    def writes(self) -> int:
        """Return the number of this transaction."""
        return int(self._row["writes"])

    def add(self, table: Table, rows: Iterable[Mapping[str, Any]], sign: int = 1) -> None:
        """Take note of rows that are written, or of what was in them before (``sign`` -1)."""
        columns, found = SUMMED[table], self._sums.setdefault(str(table.name), Sum())
        for row in rows:
            found.add([row[name] for name in columns], sign)

    def enter(self, entry: Entry) -> None:
        """Add a line to the journal."""
        entry = msgspec.structs.replace(entry, watermark=self._since)
        self._entries += 1
        self._head = chain_of(self._head, entry)
        values = msgspec.structs.asdict(entry)
        values["start_at"] = values.pop("start")
        self._fresh.append({"id": self._entries, "chain": self._head, **values})

    def close(self, connection: Connection) -> None:
        """Write the journal's new lines and the sealed row: the last thing a transaction does."""
        if self._fresh:
            connection.execute(insert(journal), self._fresh)
            self._fresh = []
        values = {
            "watermark": self.watermark,
            "calendars": self.calendars,
            "contents": write_contents(self._sums, self._entries, self._head, self.batch),
        }
        values["seal"] = seal_of(self._row | values)
        connection.execute(update(ledger).values(values))


def read_contents(text: str) -> tuple[dict[str, Sum], int, str]:
    """Return the sums by table, how many entries the journal has, and its last chain."""
    kept = msgspec.json.decode(text, type=dict[str, tuple[int, str]])
    entries, head = kept.pop(JOURNAL, (0, ""))
    kept.pop(BATCH, None)
    return {name: Sum(rows, int(total, 16)) for name, (rows, total) in kept.items()}, entries, head


def write_contents(sums: Mapping[str, Sum], entries: int, head: str, batch: str = "") -> str:
    """Return what the ledger's row says of all others."""
    kept = {name: (one.rows, f"{one.total:x}") for name, one in sorted(sums.items())}
    return msgspec.json.encode(kept | {JOURNAL: (entries, head), BATCH: (0, batch)}).decode()


def _batch_in(contents: str) -> str:
    return msgspec.json.decode(contents, type=dict[str, tuple[int, str]]).get(BATCH, (0, ""))[1]


def sum_of(connection: Connection, table: Table) -> Sum:
    """Return what a table's rows add up to as they are now."""
    found = Sum()
    query = select(*(table.c[name] for name in SUMMED[table]))
    with connection.execute(query, execution_options={"yield_per": 5000}) as rows:
        for row in rows:
            found.add(tuple(row))
    return found


def take_lock(connection: Connection, writes: int) -> Books:
    """Take the write lock and return the ledger's own row, to be closed again at the transaction's end.

    ``writes`` is the number of the last write we know of; raises SupersededError where somebody else wrote.
    """
    connection.execute(update(ledger).values(writes=ledger.c.writes + 1))
    books = Books.locked(connection)
    if books.writes != writes + 1:
        raise SupersededError("another process wrote to the ledger; loading it again")
    return books
