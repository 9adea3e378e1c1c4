"""What is read of the ledger when it is opened: sums as they are stored, and what the open days need."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, func, select

from gpugrant.meter.booking import Crowding, Holding
from gpugrant.meter.day_tables import day_digests, day_pools, days, floors, totals
from gpugrant.meter.days import read_ends
from gpugrant.meter.facts import Account, Condition, Failure
from gpugrant.meter.floors import PoolKey, Promise, Sums
from gpugrant.meter.histories import FOR_EVER
from gpugrant.meter.months import Calendars
from gpugrant.meter.reading import read_stays
from gpugrant.meter.rows import Accounts, holding_of
from gpugrant.meter.tables import accounts as account_rows
from gpugrant.meter.tables import failures, holdings, ledger
from gpugrant.meter.tally import SHOWN_DIGESTS, Tally

_DAY = 86_400


def load_tally(
    connection: Connection, accounts: Accounts, calendars: Calendars, watermark: int
) -> tuple[Tally, Sequence[Holding]]:
    """Return the sums, and the rows that hold."""
    held = [
        holding_of(row, accounts.by_id(row["account_id"]))
        for row in connection.execute(select(holdings).where(holdings.c.own_until.is_(None))).mappings()
    ]
    tally = Tally(calendars)
    tally.watermark = watermark
    tally.opened_at = connection.execute(select(ledger.c.opened_at)).scalar() or 0
    tally.days = read_ends(connection)
    tally.histories.read(connection)
    tally.load_sums(
        _read_totals(connection, accounts),
        {
            (accounts.by_id(row.account_id), _series(row.condition)): row.gpu_seconds
            for row in connection.execute(select(floors))
        },
        _read_failures(connection),
        _read_shortfall(connection),
        _read_digests(connection, watermark),
    )
    horizon = tally.load_begins(_read_begins(connection, set(tally.days)))
    tally.load_stays(read_stays(connection, accounts, horizon, FOR_EVER), {row.uid for row in held})
    return tally, held


def load_crowding(connection: Connection, crowding: Crowding, held: Sequence[Holding]) -> None:
    """Read what it takes to see when a seat is held twice."""
    cuts = select(holdings.c.server, func.max(holdings.c.held_until)).where(holdings.c.is_cut.is_(True))
    crowding.load(held, {row[0]: row[1] for row in connection.execute(cuts.group_by(holdings.c.server))})


def _series(name: str) -> Condition | Promise:
    return Promise.SHORTFALL if name == Promise.SHORTFALL else Condition(name)


def _read_totals(connection: Connection, accounts: Accounts) -> dict[Account, Sums]:
    closed: dict[Account, Sums] = {}
    for row in connection.execute(select(totals)):
        closed.setdefault(accounts.by_id(row.account_id), {})[row.month, Condition(row.condition)] = (
            row.gpu_seconds
        )
    return closed


def _read_shortfall(connection: Connection) -> dict[PoolKey, int]:
    pool = (days.c.programme, day_pools.c.provider, day_pools.c.pool)
    query = select(*pool, func.sum(day_pools.c.shortfall))
    joined = query.join(days, days.c.id == day_pools.c.day_id).where(day_pools.c.shortfall > 0)
    return {(row[0], row[1], row[2]): int(row[3]) for row in connection.execute(joined.group_by(*pool))}


def _read_digests(connection: Connection, watermark: int) -> Iterable[tuple[str, str, str, str]]:
    """Return the digests of the days that may be among the newest ones."""
    query = select(days.c.programme, day_digests.c.provider, days.c.name, day_digests.c.sha256)
    joined = query.join(days, days.c.id == day_digests.c.day_id)
    newest = joined.where(days.c.start_at > watermark - (SHOWN_DIGESTS + 2) * _DAY)
    return [(row[0], row[1], row[2], row[3]) for row in connection.execute(newest.order_by(days.c.start_at))]


def _read_begins(connection: Connection, stored: set[str]) -> dict[str, int]:
    """Return the first bind of every programme that has no stored day yet."""
    wanted = (account_rows.c.pool != "") & account_rows.c.programme.not_in(sorted(stored))
    query = (
        select(account_rows.c.programme, func.min(holdings.c.held_from))
        .join(account_rows, account_rows.c.id == holdings.c.account_id)
        .where(wanted)
        .group_by(account_rows.c.programme)
    )
    return {programme: int(first) for programme, first in connection.execute(query)}


def _read_failures(connection: Connection) -> Iterable[Failure]:
    for row in connection.execute(select(failures)).mappings():
        yield Failure(
            programme=row["programme"],
            provider=row["provider"],
            pool=row["pool"],
            gpu_type=row["gpu_type"],
            share=row["share"],
            server=row["server"],
            cause=row["cause"],
            since=row["since"],
            seats=row["seats"],
        )
