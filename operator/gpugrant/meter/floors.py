"""What counters have shown: none of them ever falls, whatever is learnt late.

What is learnt late may take GPU-seconds back that were shown already. Before that is written, what was shown is kept,
and the counter stands still until its sum has caught up. The sums themselves are corrected at once.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum

from sqlalchemy import Connection

from gpugrant.meter.books import Books
from gpugrant.meter.day_tables import floors
from gpugrant.meter.facts import Account, Condition, Owner
from gpugrant.meter.rows import set_to

Sums = dict[tuple[str, Condition], int]  # by month and condition
Counters = Mapping[Account, Mapping[Condition, int]]


class Promise(StrEnum):
    """What else has a floor, beside the conditions of an account."""

    SHORTFALL = "Shortfall"


Series = tuple[Account, Condition | Promise]
PoolKey = tuple[str, str, str]  # programme, provider, pool
EVERY_POOL = "*"


class Floors:
    """The floors that are stored, and those that would have to be.

    ``kept`` are the stored ones; ``shortfall`` is what was shown of promises that were not met.
    """

    def __init__(self) -> None:
        self.kept: dict[Series, int] = {}
        self.shortfall: dict[PoolKey, int] = {}
        self._floored: set[str] = set()  # pools whose floors are kept as of the last reading

    def load(self, kept: dict[Series, int]) -> None:
        """Start from what is stored."""
        self.kept = kept
        for (account, what), amount in kept.items():
            if what is Promise.SHORTFALL:
                self.shortfall[account.programme, account.provider, account.pool] = amount

    def raise_counters(self, counters: dict[Account, dict[Condition, int]]) -> None:
        """Raise counters to their floors."""
        for (account, what), floor in self.kept.items():
            if isinstance(what, Condition):
                counted = counters.setdefault(account, {})
                counted[what] = max(counted.get(what, 0), floor)

    def raise_shortfall(self, shortfall: Mapping[PoolKey, int]) -> Mapping[PoolKey, int]:
        """Return by how much promises were not met; never less than was shown."""
        for pool, amount in shortfall.items():
            self.shortfall[pool] = max(amount, self.shortfall.get(pool, 0))
        return self.shortfall

    def shown_anew(self) -> None:
        """Take note that counters were read: what is kept may be less than was shown."""
        self._floored.clear()

    def of_pools(self, pools: Collection[str], counters: Counters) -> dict[Series, int]:
        """Return what is to be kept of what the counters of some pools ("*": of all) show."""
        wanted = set(pools) - self._floored
        if EVERY_POOL in self._floored or not wanted:
            return {}
        self._floored |= wanted
        found = self._not_kept(counters, lambda account, _: account.pool in wanted or EVERY_POOL in wanted)
        for pool, amount in self.shortfall.items():
            series = (_promise_of(pool), Promise.SHORTFALL)
            if (pool[2] in wanted or EVERY_POOL in wanted) and amount > self.kept.get(series, 0):
                found[series] = amount
        return found

    def of_falls(self, moved: Mapping[Account, Sums], counters: Counters) -> dict[Series, int]:
        """Return what is to be kept of counters whose sum falls by this."""
        falls: Counter[Series] = Counter()
        for account, sums in moved.items():
            for (_, condition), amount in sums.items():
                falls[account, condition] += amount
        return self._not_kept(counters, lambda account, condition: falls[account, condition] < 0)

    def _not_kept(self, shown: Counters, wanted: Callable[[Account, Condition], bool]) -> dict[Series, int]:
        return {
            (account, condition): amount
            for account, counters in shown.items()
            for condition, amount in counters.items()
            if wanted(account, condition) and amount > self.kept.get((account, condition), 0)
        }


def write_floors(
    connection: Connection,
    books: Books,
    shown: Mapping[Series, int],
    before: Mapping[Series, int],
    ids: Mapping[Account, int],
    step: Callable[[str], None],
) -> None:
    """Keep what counters have shown; ``before``: what is kept of them already."""
    for series, amount in shown.items():
        key = {"account_id": ids[series[0]], "condition": series[1].value}
        set_to(connection, floors, key, amount)
        if series in before:
            books.add(floors, [{**key, "gpu_seconds": before[series]}], -1)
        books.add(floors, [{**key, "gpu_seconds": amount}])
    step("floors")


def _promise_of(pool: PoolKey) -> Account:
    """Return the account that the floor of a pool's shortfall is kept under."""
    programme, provider, name = pool
    return Account(programme, provider, name, share="Public", owner=Owner.FREE)
