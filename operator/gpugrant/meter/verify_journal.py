"""Checks against the journal and the ledger's own row: what was written is there, as it was, and nothing else."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Table, func, select

from gpugrant.meter.books import (
    ADOPTED,
    BROKEN,
    CUT,
    DAY,
    DIGEST,
    LATE,
    MONTH,
    SETTINGS,
    SUMMED,
    Entry,
    Sum,
    chain_of,
    read_contents,
    seal_of,
    sum_of,
)
from gpugrant.meter.day_tables import day_digests, days, months
from gpugrant.meter.difference import JOURNAL, Difference
from gpugrant.meter.reading import STREAMED
from gpugrant.meter.seals import seal_of_day
from gpugrant.meter.tables import holdings, journal, ledger, settings_versions

OWN_ROW = "the ledger's own row says"


class Written(Struct):
    """A day as the journal has it: its name, what it was sealed with last, whether facts came late since."""

    name: str
    seal: str = ""
    is_late: bool = False


class Journal:
    """What was written, by the journal; and what the ledger's own row says of all facts."""

    def __init__(self) -> None:
        self.days: dict[tuple[str, int], Written] = {}  # by programme and start
        self.digests: dict[tuple[str, int, str], tuple[int, str]] = {}  # and provider: revision, sha256
        self.months: dict[tuple[str, str, str], str] = {}  # by programme, provider and name: its seal
        self.settings: dict[tuple[str, int], str] = {}  # by digest and start: sha256 of the text
        self.sums: Mapping[str, Sum] = {}
        self.watermark = 0

    def sum_of(self, table: Table) -> Sum:
        """Return what a table's rows must add up to."""
        return self.sums.get(table.name, Sum())

    def read(self, connection: Connection, noted: Collection[str] = ()) -> Iterator[Difference]:
        """Take in the journal and the ledger's own row; yield what is wrong with them.

        ``noted``: chains that the journal had at some time, as somebody outside has written them down.
        """
        missing = set(noted)
        row = connection.execute(select(ledger)).mappings().one()
        self.sums, entries, head = read_contents(row["contents"])
        number, chain = 0, ""
        query = select(journal).order_by(journal.c.id)
        with connection.execute(query, execution_options=STREAMED) as rows:
            for one in rows:
                number += 1
                if one.id != number:
                    yield Difference(
                        "table journal, number of an entry", f"{number}", f"{one.id}", "its order says"
                    )
                    number = one.id
                entry = _entry(one)
                chained = chain_of(chain, entry)
                if chained != one.chain:
                    where = f"table journal, entry {number} ({entry.kind} {entry.name}), chain"
                    yield Difference(where, chained, one.chain, "the entry and the one before say")
                chain = one.chain
                missing.discard(chain)
                yield from self._take(number, entry)
        for gone in sorted(missing):
            yield Difference("table journal, an entry with the chain", gone, "none", "somebody has noted")
        if (number, chain) != (entries, head):
            where = "table journal, its last entry"
            yield Difference(where, f"{entries} {head[:16]}", f"{number} {chain[:16]}", OWN_ROW)
        yield from self._watermark(connection, row["watermark"])
        if seal_of(dict(row)) != row["seal"]:
            where = (
                f"table ledger, the seal over its row (watermark {row['watermark']}, write {row['writes']})"
            )
            yield Difference(where, seal_of(dict(row)), row["seal"], "its columns say")

    def _take(self, number: int, entry: Entry) -> Iterator[Difference]:
        where = f"table journal, entry {number} ({entry.kind} {entry.programme} {entry.name})"
        if entry.watermark < self.watermark:
            yield Difference(
                f"{where}, watermark (second)",
                f"{self.watermark}",
                f"{entry.watermark}",
                "the one before has",
            )
        self.watermark = max(self.watermark, entry.watermark)
        day = (entry.programme, entry.start)
        if entry.kind == DAY:
            self.days[day] = Written(entry.name, entry.sha256)
        elif entry.kind == LATE:
            self.days.setdefault(day, Written(entry.name)).is_late = True
        elif entry.kind in (DIGEST, ADOPTED):
            before = self.digests.get((*day, entry.provider), (-1, ""))[0]
            if entry.kind == DIGEST and entry.revision != before + 1:
                yield Difference(
                    f"{where}, revision", f"{before + 1}", f"{entry.revision}", "the one before says"
                )
            self.digests[*day, entry.provider] = (entry.revision, entry.sha256)
        elif entry.kind == CUT:
            self._let_go(entry)
        elif entry.kind == MONTH:
            self.months[entry.programme, entry.provider, entry.name] = entry.sha256
        elif entry.kind == SETTINGS:
            self.settings[entry.name, entry.start] = entry.sha256
        elif entry.kind == BROKEN:
            what = f"{entry.programme}, {entry.name}" if entry.programme else "the ledger's own row"
            yield Difference(
                f"{where}: {what}, as it was found when it was written again", "as it was written before",
                "something else", JOURNAL,
            )  # fmt: skip

    def _let_go(self, cut: Entry) -> None:
        gone = {day for day in self.days if day[0] == cut.programme and day[1] >= cut.start}
        self.days = {day: one for day, one in self.days.items() if day not in gone}
        self.digests = {key: one for key, one in self.digests.items() if key[:2] not in gone}

    def _watermark(self, connection: Connection, mark: int) -> Iterator[Difference]:
        """Yield where the watermark is before what rests on it."""
        ends = {
            "the last stored day ends at": connection.execute(select(func.max(days.c.end_at))).scalar(),
            "the last closed month ends at": connection.execute(select(func.max(months.c.end_at))).scalar(),
            "the journal was written at": self.watermark,
        }
        for says, at in ends.items():
            if at is not None and mark < at:
                yield Difference("table ledger, watermark (second)", f"{at}", f"{mark}", says)
                return

    # -- what is stored, against it ------------------------------------------------------------------

    def check_day(self, connection: Connection, row: Any) -> Iterator[Difference]:
        """Yield where a stored day's rows are not as they were written last. ``row`` is of the table of days."""
        where = f"table days, {row.programme}, {row.name}"
        known = self.days.get((row.programme, row.start_at))
        if known is None:
            yield Difference(where, "no such day", "one", JOURNAL)
            return
        if bool(row.stale) != known.is_late:
            yield Difference(f"{where}, stale", _stale(known.is_late), _stale(bool(row.stale)), JOURNAL)
        stored = connection.execute(select(day_digests).where(day_digests.c.day_id == row.id)).all()
        for one in stored:
            revision, sha256 = self.digests.get((row.programme, row.start_at, one.provider), (-1, ""))
            if one.revision != revision:
                what = f"table day_digests, {row.programme}, {row.name}, {one.provider}, revision"
                yield Difference(what, f"{revision}", f"{one.revision}", JOURNAL)
            if one.sha256 != sha256:
                what = f"table day_digests, {row.programme}, {row.name}, {one.provider}, sha256"
                yield Difference(what, sha256 or "none", one.sha256, JOURNAL)
        found = seal_of_day(connection, row.id)
        if known.seal and found != known.seal:
            what = f"{where}: SHA-256 over its cells, day_pools, day_digests and corrections"
            yield Difference(what, known.seal, found, JOURNAL)

    def check_missing(self, connection: Connection) -> Iterator[Difference]:
        """Yield days and closed months that were written and are not stored."""
        stored = {(row.programme, row.start_at) for row in connection.execute(select(days))}
        for programme, start in sorted(self.days.keys() - stored):
            name = self.days[programme, start].name
            yield Difference(f"table days, {programme}, {name}", "one", "no such day", JOURNAL)
        columns = (months.c.programme, months.c.provider, months.c.name)
        closed = {tuple(row) for row in connection.execute(select(*columns))}
        for key in sorted(self.months.keys() - closed):
            yield Difference(f"table months, {'-'.join(key)}", "a closed month", "none", JOURNAL)

    def check_settings(self, connection: Connection) -> Iterator[Difference]:
        """Yield versions of the settings whose text is not as it was recorded."""
        query = select(settings_versions).order_by(settings_versions.c.id)
        left = dict(self.settings)
        for row in connection.execute(query):
            known = left.pop((row.digest, row.since), "none")
            found = hashlib.sha256(row.text.encode()).hexdigest()
            if found != known:
                where = f"table settings_versions, {row.digest}, SHA-256 of its text"
                yield Difference(where, known, found, JOURNAL)
        for digest, since in sorted(left):
            yield Difference(f"table settings_versions, {digest} of second {since}", "one", "no row", JOURNAL)

    def check_sums(self, connection: Connection) -> Iterator[Difference]:
        """Yield tables of facts whose rows are not those that were written; pods' rows are looked at elsewhere."""
        for table in SUMMED:
            if table is not holdings:
                yield from of_sum(table, self.sum_of(table), sum_of(connection, table))


def of_sum(table: Table, wanted: Sum, found: Sum) -> Iterator[Difference]:
    """Yield it if a table's rows are not those that were written."""
    if wanted.rows != found.rows:
        yield Difference(f"table {table.name}, rows", f"{wanted.rows}", f"{found.rows}", OWN_ROW)
    elif wanted.total != found.total:
        where = f"table {table.name}, the sum of the SHA-256 of its {found.rows} rows: some were changed"
        yield Difference(where, f"{wanted.total:064x}", f"{found.total:064x}", OWN_ROW)


def _entry(row: Any) -> Entry:
    return Entry(
        row.kind, row.programme, row.provider, row.name, row.start_at, row.revision, row.sha256, row.watermark
    )


def _stale(is_stale: bool) -> str:
    return "to be summed again" if is_stale else "summed"
