"""Closed months and what people said of reports, as rows."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, func, insert, select

from gpugrant.meter.books import MONTH, Books, Entry
from gpugrant.meter.day_tables import days, marks, months
from gpugrant.meter.month import MonthAccount
from gpugrant.meter.monthly import counted_account, frozen
from gpugrant.meter.reported import find_month
from gpugrant.meter.seals import last_seal, seal_of_month
from gpugrant.meter.tables import settings_versions

ONCE = ("sign-off", "acknowledge")  # what is said of a closed month one time only


class NotClosable(ValueError):
    """A month that cannot close; the words say why."""


class Mark(Struct, frozen=True, order=True):
    """What somebody said of a report: kind (such as sign-off), who, under which reference, when (epoch seconds)."""

    at: int
    kind: str
    by: str
    reference: str


class ClosedMonth(Struct, frozen=True):
    """How a month was closed."""

    manifest_sha256: str
    closed_at: int


def write_closing(
    connection: Connection,
    books: Books,
    name: str,
    manifest: str,
    closed_at: int,
    counted: tuple[MonthAccount, dict[str, str]] | None = None,
) -> tuple[str, str, int]:
    """Close a month for ever; return its programme, name and end.

    ``counted``: its account and tenants' names, if nothing was written since they were counted.

    Raises LookupError for a month the ledger does not know, and NotClosable where days of it are not closed yet or
    facts came late that are not in them, or where it was closed otherwise before.
    """
    programme, provider, month = find_month(connection, name)
    before = closed_month(connection, name)
    if before is not None:
        if before.manifest_sha256 == manifest:
            return programme, month.name, month.end
        raise NotClosable(
            f"{name} is closed already, with the manifest {before.manifest_sha256}: it never changes; what came "
            "later is in the corrections of the next month"
        )
    mine = (days.c.programme == programme) & (days.c.month == month.name)
    until = connection.execute(select(func.max(days.c.end_at)).where(days.c.programme == programme)).scalar()
    if until is None or until < month.end:
        raise NotClosable(f"{name} has days that are not closed yet: a day closes a minute after its end")
    if connection.execute(select(days.c.name).where(mine, days.c.stale.is_(True)).limit(1)).first():
        raise NotClosable(f"{name} has days that facts came late for: they are summed again in a moment")
    account, names = counted or counted_account(connection, programme, provider, month)
    row = {
        "programme": programme,
        "provider": provider,
        "name": month.name,
        "start_at": account.start,
        "end_at": account.end,
        "manifest": manifest,
        "closed_at": closed_at,
        "account": msgspec.json.encode(frozen(account, names, closed_at)).decode(),
    }
    seal = seal_of_month(row, last_seal(connection, programme, provider))
    connection.execute(insert(months).values(**row, seal=seal))
    books.enter(Entry(MONTH, programme, provider, month.name, account.start, sha256=seal))
    return programme, month.name, month.end


def closed_month(connection: Connection, name: str) -> ClosedMonth | None:
    """Return how a month was closed, by its report's name; None while it is open."""
    row = connection.execute(select(months).where(_full_name() == name)).first()
    return None if row is None else ClosedMonth(row.manifest, row.closed_at)


def _full_name() -> ColumnElement[str]:
    return months.c.programme + "-" + months.c.provider + "-" + months.c.name


def write_mark(connection: Connection, name: str, mark: Mark) -> None:
    """Keep what somebody said of a report; the same again changes nothing, nor does a second sign-off."""
    lock_marks(connection, name)
    if mark.kind in ONCE and any(one.kind == mark.kind for one in read_marks(connection, name)):
        return
    values = {"report": name, **msgspec.structs.asdict(mark)}
    if connection.execute(select(marks.c.id).filter_by(**values)).first() is None:
        connection.execute(insert(marks).values(values))


def lock_marks(connection: Connection, name: str) -> None:
    """Have nobody else mark a closed month until the transaction ends. SQLite's writer has that lock already."""
    connection.execute(select(months.c.id).where(_full_name() == name).with_for_update())


def read_marks(connection: Connection, name: str) -> Sequence[Mark]:
    """Return what people said of a report, the oldest first."""
    query = select(marks).where(marks.c.report == name).order_by(marks.c.at, marks.c.id)
    return [Mark(row.at, row.kind, row.by, row.reference) for row in connection.execute(query)]


def read_settings(connection: Connection, at: int) -> str:
    """Return the text of the settings in force at a moment; '' where none were."""
    query = (
        select(settings_versions.c.text)
        .where(settings_versions.c.since <= at)
        .order_by(settings_versions.c.since.desc(), settings_versions.c.id.desc())
    )
    return connection.execute(query.limit(1)).scalar() or ""
