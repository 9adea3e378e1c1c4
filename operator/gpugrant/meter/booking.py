"""What the ledger's rows become when facts arrive. Pure, and the same whatever the order or repetition.

A hold only ever moves up: held -> its end is bounded (unobserved) -> its end is known. What is known stays.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from gpugrant.meter.facts import Dimensions, Ended, EndReason, Held
from gpugrant.meter.intervals import Hold, cut_overlaps


class Holding(Struct, frozen=True):
    """One row: a pod's hold on its server. ``end`` is what counts, ``own_end`` what its own facts say."""

    uid: str
    namespace: str
    name: str
    dimensions: Dimensions
    start: int
    own_end: int | None = None
    end: int | None = None  # earlier than own_end where the next bind won
    reason: EndReason | None = None
    finished_at: int = 0
    disrupted_at: int = 0
    terminal_at: int = 0
    gone_at: int = 0
    waited: int = -1

    @property
    def settled(self) -> bool:
        """Say whether its end is known for good."""
        return self.own_end is not None and self.reason is not EndReason.UNOBSERVED

    @property
    def is_cut(self) -> bool:
        """Say whether another pod's bind ended it."""
        return self.end != self.own_end


def book(row: Holding | None, fact: Held | Ended) -> Holding:
    """Return the row after a fact about its pod; the row itself where that says nothing new."""
    if row is None:
        row = _opened(fact.hold if isinstance(fact, Ended) else fact)
    if isinstance(fact, Held) or row.settled:
        return row
    if row.own_end is not None and fact.reason is EndReason.UNOBSERVED:
        return row
    # A refusal that was seen without its bind has a start of its own.
    end = row.start if fact.reason is EndReason.REJECTED else max(row.start, fact.end)
    return replace(
        row,
        own_end=end,
        end=end if row.end is None or not row.is_cut else min(end, row.end),
        reason=fact.reason,
        finished_at=fact.finished_at,
        disrupted_at=fact.disrupted_at,
        terminal_at=fact.terminal_at,
        gone_at=fact.gone_at,
    )


def _opened(held: Held) -> Holding:
    return Holding(
        uid=held.uid,
        namespace=held.namespace,
        name=held.name,
        dimensions=held.dimensions,
        start=held.start,
        waited=held.waited,
    )


def settle_server(rows: Mapping[str, Holding], since: int) -> dict[str, Holding]:
    """Return the rows of one server whose end changes when overlaps from ``since`` on are cut again.

    ``rows`` must hold all that end after ``since`` by their own facts, or hold still. Cuts made before
    ``since`` rest on binds before it, and stay.
    """
    ends = cut_overlaps(_hold(row, since) for row in rows.values())
    return {uid: replace(rows[uid], end=end) for uid, end in ends.items() if end != rows[uid].end}


def _hold(row: Holding, since: int) -> Hold:
    kept = row.is_cut and row.end is not None and row.end < since
    return Hold(
        uid=row.uid,
        start=row.start,
        end=row.end if kept else row.own_end,
        seats=row.dimensions.seats,
        server_seats=row.dimensions.server_seats,
    )


class Crowding:
    """Which servers may have held one seat twice, so that their rows must be looked at again.

    Rests on what the store says (``held``: seats by server) and on ends seen since the start; a server not
    yet known is always looked at.
    """

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._last_end: dict[str, int] = {}
        self._last_cut: dict[str, int] = {}

    def load(self, held: Iterable[Holding], cuts: Mapping[str, int]) -> None:
        """Start from the rows that hold, and the last cut of each server that had one."""
        self._held, self._last_end, self._last_cut = {}, {}, dict(cuts)
        for row in held:
            self._add(row, 1)

    def suspects(self, changes: Iterable[tuple[Holding | None, Holding]]) -> dict[str, int]:
        """Return server -> second from which its overlaps are to be cut again."""
        found: dict[str, int] = {}
        taken: dict[str, int] = {}
        last: dict[str, int] = {}
        for old, new in changes:
            server, seats = new.dimensions.server, new.dimensions.server_seats
            if not server or not seats:
                continue
            grown = old is None or (old.own_end is not None and new.own_end != old.own_end)
            held = taken.get(server, self._held.get(server, 0))
            end = last.get(server, self._last_end.get(server))
            if grown:
                doubtful = end is None or new.start < end or held + new.dimensions.seats > seats
            else:
                doubtful = new.start <= self._last_cut.get(server, -1)
            if doubtful:
                found[server] = min(found.get(server, new.start), new.start)
            if old is None:  # whatever ended within this batch counts as if it held
                taken[server] = held + new.dimensions.seats
            if new.own_end is not None:
                last[server] = max(end or 0, new.own_end)
        return found

    def know(self, server: str, since: int, rows: Iterable[Holding]) -> None:
        """Take over that ``rows`` are all of a server that end after ``since``."""
        ends = [row.own_end for row in rows if row.own_end is not None]
        self._last_end[server] = max(since, *ends, self._last_end.get(server, 0))

    def apply(self, changes: Iterable[tuple[Holding | None, Holding]]) -> None:
        """Take over what was committed."""
        for old, new in changes:
            if old is not None:
                self._add(old, -1)
            self._add(new, 1)

    def _add(self, row: Holding, sign: int) -> None:
        server = row.dimensions.server
        if row.own_end is None:
            self._held[server] = self._held.get(server, 0) + sign * row.dimensions.seats
        elif sign > 0:
            self._last_end[server] = max(self._last_end.get(server, 0), row.own_end)
        if sign > 0 and row.is_cut and row.end is not None:
            self._last_cut[server] = max(self._last_cut.get(server, 0), row.end)
