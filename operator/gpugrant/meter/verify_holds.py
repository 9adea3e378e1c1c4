"""Checks of pods' rows: each is what its own evidence says, no seat is held twice, none was changed, added or taken."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, func, select

from gpugrant.meter.books import SUMMED, Sum
from gpugrant.meter.difference import Difference, Told
from gpugrant.meter.evidence import end_of
from gpugrant.meter.reading import STREAMED
from gpugrant.meter.tables import holdings
from gpugrant.meter.verify_journal import of_sum

_MOST_SUSPECTS = 5


class Holds:
    """What is carried along one pass over the rows by their start."""

    def __init__(self) -> None:
        self.sum = Sum()
        self.suspects: list[Difference] = []
        self._active: dict[str, list[tuple[int | None, int]]] = defaultdict(list)
        self._cuts: dict[tuple[str, int], list[str]] = {}  # ends that no bind has explained yet

    def check(self, connection: Connection, told: Told) -> Iterator[Difference]:
        """Yield what is wrong with pods' rows, in order of their start."""
        whole = connection.execute(select(func.count()).select_from(holdings)).scalar() or 0
        query = select(*(holdings.c[name] for name in SUMMED[holdings])).order_by(holdings.c.held_from)
        done = 0
        with connection.execute(query, execution_options=STREAMED) as rows:
            while some := list(islice(rows, 5000)):
                told("pods", done, whole)
                done += len(some)
                for row in some:
                    yield from self._look_at(row)
        yield from self._left()

    def check_sum(self, wanted: Sum) -> Iterator[Difference]:
        """Yield it if the rows do not add up to what was written, and those that may have been changed."""
        differing = list(of_sum(holdings, wanted, self.sum))
        yield from differing
        if differing:
            yield from self.suspects

    def _look_at(self, row: Any) -> Iterator[Difference]:
        """Yield what is wrong with one row."""
        (
            uid, _, _, _, server, _, _, seats, of, start, end, own_end, is_cut, reason, _,
            finished_at, disrupted_at, terminal_at, gone_at, _,
        ) = row  # fmt: skip
        self.sum.add(tuple(row))
        if self._cuts:
            bound = self._cuts.get((server, start))
            if bound is not None and bound != [uid]:
                del self._cuts[server, start]
        if own_end is not None:
            allowed = end_of(reason, start, finished_at, disrupted_at, terminal_at, gone_at)
            if allowed is not None and not allowed[0] <= own_end <= allowed[1]:
                wanted = allowed[1]
                yield Difference(f"{_named(uid)}, own_until ({reason}; second)", f"{wanted}", f"{own_end}")
            elif allowed is not None and own_end != allowed[1]:
                self._suspect(f"{_named(uid)}, own_until ({reason}; second)", allowed[1], own_end)
        elif reason:
            yield Difference(f"{_named(uid)}, end_reason of a pod that holds still", "none", reason)
        if is_cut and end is not None and end != own_end:
            self._cuts.setdefault((server, end), []).append(uid)
        elif end != own_end:
            where = f"{_named(uid)}, held_until, where no other pod's bind ended it (second)"
            yield Difference(where, f"{_second(own_end)}", f"{_second(end)}")
        yield from self._seats(uid, server, seats, of, start, end)

    def _left(self) -> Iterator[Difference]:
        """Yield the ends that another pod's bind should have made, and none did."""
        for (server, end), uids in sorted(self._cuts.items()):
            where = f"{_named(uids[0])}, held_until: a pod bound on {server} in second {end}, which ended it"
            yield Difference(where, "none", "one")

    def _suspect(self, where: str, expected: int, found: int) -> None:
        if len(self.suspects) < _MOST_SUSPECTS:
            self.suspects.append(Difference(where, f"perhaps {expected}", f"{found}"))

    def _seats(
        self, uid: str, server: str, seats: int, of: int, start: int, end: int | None
    ) -> Iterator[Difference]:
        """Yield a bind that finds fewer seats than it takes, by what the rows say."""
        if not of or (end is not None and end <= start):
            return
        here = [one for one in self._active[server] if one[0] is None or one[0] > start]
        taken = seats + sum(held for _, held in here)
        if here and taken > of:
            where = f"server {server} at {start}, when pod {uid} was bound: seats held"
            yield Difference(where, f"at most {of}", f"{taken}")
        here.append((end, seats))
        self._active[server] = here


def _named(uid: str) -> str:
    return f"table holdings, pod {uid}"


def _second(end: int | None) -> str:
    return "none" if end is None else f"{end}"
