"""What the ledger's rows say of a stretch of time: stays, histories, and the cells that come of them."""

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Select, or_, select

from gpugrant.meter.booking import Holding
from gpugrant.meter.facts import (
    Account,
    Announced,
    Contracted,
    EndReason,
    GrantTerms,
    Health,
    Named,
    Placed,
    Seated,
    Unwell,
)
from gpugrant.meter.histories import FOR_EVER, KINDS, Histories
from gpugrant.meter.months import Calendars
from gpugrant.meter.rows import Accounts
from gpugrant.meter.tables import holdings, ledger
from gpugrant.meter.timeline import build
from gpugrant.meter.window import Built, Facts, Stay

_COLUMNS = (
    holdings.c.uid,
    holdings.c.server,
    holdings.c.account_id,
    holdings.c.fabric,
    holdings.c.seats,
    holdings.c.held_from,
    holdings.c.held_until,
    holdings.c.is_cut,
    holdings.c.end_reason,
    holdings.c.gone_at,
)
STREAMED = {"yield_per": 5000}  # a few rows at a time, however many there are
_OF_CELLS = tuple(kind for kind in KINDS if kind is not Named)


class State(Struct, frozen=True):
    """The ledger's own row."""

    opened_at: int
    watermark: int
    calendars: Calendars


def read_state(connection: Connection) -> State:
    """Return the ledger's own row; raises LookupError where there is none yet."""
    row = connection.execute(select(ledger)).first()
    if row is None:
        raise LookupError("the ledger is new: no operator has opened it yet")
    return State(row.opened_at, row.watermark, msgspec.json.decode(row.calendars, type=Calendars))


def stay_of(row: Holding) -> Stay:
    """Return a hold as the timeline needs it."""
    unseen = row.reason is EndReason.UNOBSERVED
    place = row.dimensions
    return _stay(
        row.uid, place.server, place.account, place.fabric, place.seats,
        row.start, row.end, row.is_cut, row.gone_at if unseen else 0,
    )  # fmt: skip


def _stay(
    uid: str,
    server: str,
    account: Account,
    fabric: str,
    seats: int,
    start: int,
    end: int | None,
    is_cut: bool,
    gone: int,
) -> Stay:
    """Return a stay; where the next bind won, the pod's end was before it: nothing of it is Unobserved."""
    if is_cut:
        gone = 0
    return Stay(uid, server, account, fabric, seats, start, FOR_EVER if end is None else end, gone)


def _stay_in(row: Any, accounts: Accounts) -> Stay:
    uid, server, number, fabric, seats, start, end, is_cut, reason, gone = row
    gone = gone if reason == EndReason.UNOBSERVED else 0
    return _stay(uid, server, accounts.by_id(number), fabric, seats, start, end, is_cut, gone)


def read_stays(connection: Connection, accounts: Accounts, start: int, end: int) -> list[Stay]:
    """Return the stays that touch [start, end)."""
    found: dict[str, Stay] = {}
    for query in _touching(start):
        # Not by the index on held_from: most rows began before any given moment.
        for row in connection.execute(query.where(holdings.c.held_from + 0 < end)):
            found[row[0]] = _stay_in(row, accounts)
    return list(found.values())


def read_stays_on(
    connection: Connection, accounts: Accounts, servers: Iterable[str], start: int, end: int
) -> list[Stay]:
    """Return the stays on some servers that held in [start, end)."""
    found: list[Stay] = []
    holding = or_(holdings.c.held_until.is_(None), holdings.c.held_until > start)
    for server in sorted(servers):
        query = select(*_COLUMNS).where(holdings.c.server == server, holdings.c.held_from < end, holding)
        found += [_stay_in(row, accounts) for row in connection.execute(query)]
    return found


def _touching(start: int) -> Iterator[Select[*tuple[Any, ...]]]:
    """Yield a query for each way in which a row may matter after ``start``; each has an index of its own."""
    rows = select(*_COLUMNS)
    yield rows.where(holdings.c.held_until > start)
    yield rows.where(holdings.c.own_until.is_(None))
    yield rows.where(holdings.c.end_reason == EndReason.UNOBSERVED.value, holdings.c.gone_at > start)


def stays_in_order(connection: Connection, accounts: Accounts) -> Generator[Stay, None, None]:
    """Yield every stay there is by its start, a few at a time."""
    query = select(*_COLUMNS).order_by(holdings.c.held_from)
    with connection.execute(query, execution_options=STREAMED) as rows:
        for row in rows:
            yield _stay_in(row, accounts)


def histories_of(connection: Connection) -> Histories:
    """Return all histories that cells are made from."""
    found = Histories()
    found.read(connection, _OF_CELLS)
    return found


def facts_of(histories: Histories, stays: list[Stay]) -> Facts:
    """Return facts as the timeline takes them."""
    return Facts(
        stays,
        histories.of(Placed),
        histories.of(Health),
        histories.of(Unwell),
        histories.of(Announced),
        histories.claims_by_server(),
        histories.of(Seated),
        histories.of(Contracted),
        histories.of(GrantTerms),
    )


def build_from_rows(
    connection: Connection, accounts: Accounts, programme: str, start: int, end: int
) -> Built:
    """Return a programme's cells of [start, end), from what is stored and nothing else."""
    facts = facts_of(histories_of(connection), read_stays(connection, accounts, start, end))
    return build(facts, programme, start, end)
