"""What was held, summed by the database from the rows of pods: the other side of what cells must add up to."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from sqlalchemy import ColumnElement, Connection, case, func, or_, select

from gpugrant.meter.facts import Account, Placed
from gpugrant.meter.histories import Histories
from gpugrant.meter.rows import Accounts
from gpugrant.meter.spans import in_force
from gpugrant.meter.tables import holdings
from gpugrant.meter.window import PoolOf


def held_by_pool(
    connection: Connection, accounts: Accounts, histories: Histories, programme: str, start: int, end: int
) -> Counter[PoolOf]:
    """Return the GPU-seconds that pods held in [start, end), by pool of a programme."""
    found: Counter[PoolOf] = Counter()
    touching = (holdings.c.held_from < end) & or_(
        holdings.c.held_until.is_(None), holdings.c.held_until > start
    )
    moved = set()
    for server, number, seconds in _by_server(connection, start, end):
        history = histories.of(Placed).get(server, ())
        places = list(_places(history, start, end))
        if len(places) == 1:
            _add(found, programme, accounts.by_id(number), places[0][2], int(seconds))
        else:
            moved.add(server)
    for server in sorted(moved):
        rows = select(holdings.c.account_id, _from(start), _until(end), holdings.c.seats)
        places = list(_places(histories.of(Placed).get(server, ()), start, end))
        for number, left, right, seats in connection.execute(
            rows.where(touching, holdings.c.server == server)
        ):
            for begin, finish, placed in places:
                seconds = max(0, min(right, finish) - max(left, begin)) * seats
                _add(found, programme, accounts.by_id(number), placed, seconds)
    return found


def _by_server(connection: Connection, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield server, account and GPU-seconds held in [start, end): what has ended, and what holds still."""
    server = holdings.c.server.concat(
        ""
    )  # not read in the order of an index on servers: rows lie as they were bound
    amount = func.sum((_until(end) - _from(start)) * holdings.c.seats)
    query = select(server, holdings.c.account_id, amount).group_by(server, holdings.c.account_id)
    began = holdings.c.held_from + 0 < end  # not by the index on it: most rows began before any given moment
    for touching in (holdings.c.held_until > start, holdings.c.held_until.is_(None)):
        yield from connection.execute(query.where(touching, began))


def _add(
    found: Counter[PoolOf], programme: str, account: Account, placed: Placed | None, amount: int
) -> None:
    """Add to the pool that the server was in, or else to the one the pod was bound in."""
    place = account if placed is None else placed
    if amount and place.pool and place.programme == programme:
        found[place.provider, place.pool] += amount


def _places(history: Sequence[Placed], start: int, end: int) -> Iterator[tuple[int, int, Placed | None]]:
    """Yield where a server was over [start, end)."""
    edges = sorted({start, end, *(one.since for one in history if start < one.since < end)})
    for left, right in pairwise(edges):
        placed = in_force(history, left)
        yield left, right, placed if placed is not None and placed.seats else None


def _from(start: int) -> ColumnElement[int]:
    return case((holdings.c.held_from < start, start), else_=holdings.c.held_from)


def _until(end: int) -> ColumnElement[int]:
    return case((holdings.c.held_until < end, holdings.c.held_until), else_=end)
