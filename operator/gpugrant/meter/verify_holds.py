"""Checks of pods' rows: each is what its own evidence says, no seat is held twice, none was changed, added or taken."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, func, select

from gpugrant.meter.books import SUMMED, Sum, row_digest
from gpugrant.meter.difference import Difference, Told
from gpugrant.meter.evidence import end_of
from gpugrant.meter.reading import STREAMED
from gpugrant.meter.tables import holdings
from gpugrant.meter.verify_journal import of_sum

_MOST_SUSPECTS = 5


class Holds:
    """What is carried along one pass over the rows by their start."""

    def __init__(self) -> None:
        self._rows = self._total = 0
        self._wrong: list[Difference] = []
        self._suspects: list[Difference] = []
        self._active: dict[str, list[tuple[int | None, int]]] = defaultdict(list)
        self._cuts: dict[tuple[str, int], list[str]] = {}  # ends that no bind has explained yet

    def check(self, connection: Connection, told: Told) -> Iterator[Difference]:
        """Yield what is wrong with pods' rows, in order of their start."""
        whole = connection.execute(select(func.count()).select_from(holdings)).scalar() or 0
        query = select(*(holdings.c[name] for name in SUMMED[holdings])).order_by(holdings.c.held_from)
        with connection.execute(query, execution_options=STREAMED) as rows:
            for some in rows.partitions():
                told("pods", self._rows, whole)
                self._rows += len(some)
                for row in some:
                    values = tuple(row)
                    self._total += row_digest(values)
                    self._look_at(values)
                yield from self._wrong
                self._wrong.clear()
        for (server, end), uids in sorted(self._cuts.items()):
            where = f"{_named(uids[0])}, held_until: a pod bound on {server} in second {end}, which ended it"
            yield Difference(where, "none", "one")

    def check_sum(self, wanted: Sum) -> Iterator[Difference]:
        """Yield it if the rows do not add up to what was written, and those that may have been changed."""
        differing = list(of_sum(holdings, wanted, Sum.of(self._rows, self._total)))
        yield from differing
        if differing:
            yield from self._suspects

    def _look_at(self, row: tuple[Any, ...]) -> None:
        """Note what is wrong with one row. Called for millions of them."""
        (
            uid, _, _, _, server, _, _, seats, of, start, end, own_end, is_cut, reason, _,
            finished_at, disrupted_at, terminal_at, gone_at, _,
        ) = row  # fmt: skip
        if self._cuts:
            self._explain(server, start, uid)
        if own_end is not None:
            allowed = end_of(reason, start, finished_at, disrupted_at, terminal_at, gone_at)
            if allowed is not None and own_end != allowed[1]:
                self._doubt(f"{_named(uid)}, own_until ({reason}; second)", allowed, own_end)
        elif reason:
            self._wrong.append(Difference(f"{_named(uid)}, end_reason of a pod that holds", "none", reason))
        if end != own_end:
            if is_cut and end is not None:
                self._cuts.setdefault((server, end), []).append(uid)
            else:
                where = f"{_named(uid)}, held_until, where no other pod's bind ended it (second)"
                self._wrong.append(Difference(where, _second(own_end), _second(end)))
        if of and (end is None or end > start):
            self._seat(uid, server, seats, of, start, end)

    def _explain(self, server: str, start: int, uid: str) -> None:
        """Let go of ends that this pod's bind has made."""
        bound = self._cuts.get((server, start))
        if bound is not None and bound != [uid]:
            del self._cuts[server, start]

    def _doubt(self, where: str, allowed: tuple[int, int], end: int) -> None:
        """Note an end that is not the latest that the evidence allows: wrong if it is none that it allows."""
        if not allowed[0] <= end <= allowed[1]:
            self._wrong.append(Difference(where, f"{allowed[1]}", f"{end}"))
        elif len(self._suspects) < _MOST_SUSPECTS:
            self._suspects.append(Difference(where, f"perhaps {allowed[1]}", f"{end}"))

    def _seat(self, uid: str, server: str, seats: int, of: int, start: int, end: int | None) -> None:
        """Note a bind that finds fewer seats than it takes, by what the rows say."""
        here = [one for one in self._active[server] if one[0] is None or one[0] > start]
        if here:
            taken = seats
            for _, held in here:
                taken += held
            if taken > of:
                where = f"server {server} at {start}, when pod {uid} was bound: seats held"
                self._wrong.append(Difference(where, f"at most {of}", f"{taken}"))
        here.append((end, seats))
        self._active[server] = here


def _named(uid: str) -> str:
    return f"table holdings, pod {uid}"


def _second(end: int | None) -> str:
    return "none" if end is None else f"{end}"
