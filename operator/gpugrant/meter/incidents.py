"""What failed when, and when that was noticed. Pure.

Every second that a pool's seats are Failed lies in an incident of that pool, and so does a server whose Node object
is gone while it is owed. A server that moves from pool to pool while it is failed is an incident of each.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise

from msgspec import Struct

from gpugrant.meter.facts import Announced, Aspect, Contracted, Health, Placed, Unwell
from gpugrant.meter.histories import Histories
from gpugrant.meter.month import Incident
from gpugrant.meter.spans import Cause, History, Span, in_force, spans
from gpugrant.meter.timeline import PUBLIC
from gpugrant.meter.window import Stay

# What a cause is seen by.
_ASPECTS = {
    Cause.NOT_READY: Aspect.READY,
    Cause.CORDONED: Aspect.CORDONED,
    Cause.MISSING: Aspect.CAPACITY,
    Cause.UNHEALTHY: Aspect.OFFERED,
    Cause.NODE_GONE: Aspect.PRESENT,
}


class _Place(Struct, frozen=True, order=True):
    """Where seats failed."""

    programme: str
    provider: str
    pool: str
    fabric: str


_Failing = dict[tuple[_Place, str], int]  # seats by place and cause


def servers_to_look_at(histories: Histories, start: int, until: int) -> set[str]:
    """Return the servers of which it takes the pods that hold there to say what failed in [start, until)."""
    found = {one.server for history in histories.of(Unwell).values() for one in history if one.seats}
    health = _health_of(histories)
    for server in histories.of(Placed).keys() | health.keys():
        placed = histories.of(Placed).get(server, ())
        history = History(placed, health.get(server, {}), histories.of(Announced).get(server, ()))
        fewer = any(after.seats < before.seats for before, after in pairwise(placed))
        if any(span.whole and (fewer or not span.placed) for span in spans(history, start, until)):
            found.add(server)
    return found


def _health_of(histories: Histories) -> dict[str, dict[Aspect, Sequence[Health]]]:
    found: dict[str, dict[Aspect, Sequence[Health]]] = defaultdict(dict)
    for (server, aspect), history in histories.of(Health).items():
        found[server][aspect] = history
    return found


def incidents_of(
    histories: Histories,
    stays: Iterable[Stay],
    programme: str,
    provider: str,
    start: int,
    until: int,
) -> tuple[Incident, ...]:
    """Return the failures of a provider's servers, in as far as they lie in [start, until).

    ``stays``: those on servers to look at, that touch it.
    """
    health = _health_of(histories)
    here: dict[str, list[Stay]] = defaultdict(list)
    for stay in stays:
        here[stay.server].append(stay)
    found: list[Incident] = []
    for server in histories.of(Placed).keys() | here.keys():
        placed, held = histories.of(Placed).get(server, ()), here[server]
        if not any((one.programme, one.provider) == (programme, provider) for one in placed) and not held:
            continue
        of_server = History(placed, health.get(server, {}), histories.of(Announced).get(server, ()))
        found += [
            one
            for one in _Server(server, of_server, held, histories).incidents(start, until)
            if (one.programme, one.provider) == (programme, provider)
        ]
    return tuple(sorted(found))


class _Server:
    """One server's failures."""

    def __init__(self, name: str, history: History, stays: Sequence[Stay], histories: Histories) -> None:
        self._name = name
        self._history = history
        self._stays = stays
        self._histories = histories
        self._unwell = histories.of(Unwell)

    def incidents(self, start: int, until: int) -> Iterator[Incident]:
        """Yield them; a change of number begins a new one."""
        running: dict[tuple[_Place, str], tuple[int, int]] = {}  # since when, and seats
        for at, _, failing in self._failing(start, until):
            for key, (since, seats) in list(running.items()):
                if failing.get(key) != seats:
                    yield self._incident(key, since, at, seats)
                    del running[key]
            for key, seats in failing.items():
                running.setdefault(key, (at, seats))
        for key, (since, seats) in running.items():
            yield self._incident(key, since, 0, seats)

    def _failing(self, start: int, until: int) -> Iterator[tuple[int, int, _Failing]]:
        """Yield what is failed from moment to moment, without gaps."""
        for span in spans(self._history, start, until):
            edges = {span.start, span.end}
            stays = [stay for stay in self._stays if stay.start < span.end and stay.end > span.start]
            if not span.whole:
                stays = [stay for stay in stays if stay.uid in self._unwell]
            for stay in stays:
                edges.update((stay.start, stay.end))
                edges.update(one.since for one in self._unwell.get(stay.uid, ()))
            last = self._last_pool(span)
            if last is not None:
                for plan in self._histories.of(Contracted).get(last.pool, ()):
                    edges.update((plan.since, *(part.due for part in plan.instalments)))
            inside = sorted(at for at in edges if span.start <= at <= span.end)
            for left, right in pairwise(inside):
                held = [stay for stay in stays if stay.start <= left < stay.end]
                found = self._of_placed(span, span.placed, held, left) if span.placed else {}
                if not span.placed:
                    found = self._of_held(span, held, left)
                    self._add_owed(found, last, left)
                yield left, right, {key: seats for key, seats in found.items() if seats}

    def _of_placed(self, span: Span, placed: Placed, held: Collection[Stay], at: int) -> _Failing:
        place = _Place(placed.programme, placed.provider, placed.pool, placed.fabric)
        if span.whole:
            return {(place, span.whole): max(span.seats, sum(stay.seats for stay in held))}
        known = sum(self._unwell_of(stay, at) for stay in held)
        return {
            (place, Cause.UNHEALTHY): max(known, span.unhealthy),
            (place, Cause.MISSING): max(0, span.missing - max(0, known - span.unhealthy)),
        }

    def _of_held(self, span: Span, held: Iterable[Stay], at: int) -> _Failing:
        """Return what is failed of a server of no pool: what pods hold there, of the pools they were bound in."""
        found: _Failing = defaultdict(int)
        for stay in held:
            account = stay.account
            if account.pool:
                place = _Place(account.programme, account.provider, account.pool, stay.fabric)
                cause, seats = span.whole, stay.seats
                if not cause:
                    cause, seats = Cause.UNHEALTHY, self._unwell_of(stay, at)
                found[place, cause] += seats
        return found

    def _unwell_of(self, stay: Stay, at: int) -> int:
        told = in_force(self._unwell.get(stay.uid, ()), at)
        return min(stay.seats, told.seats) if told else 0

    # -- servers that are gone -----------------------------------------------------------------------

    def _last_pool(self, span: Span) -> Placed | None:
        """Return where the server was last, if its Node object is gone now."""
        if span.placed or span.whole != Cause.NODE_GONE:
            return None
        return next(
            (one for one in reversed(self._history.placed) if one.seats and one.since <= span.start), None
        )

    def _add_owed(self, found: _Failing, last: Placed | None, at: int) -> None:
        """Add a server that is gone while its pool has less than was contracted or promised."""
        if last is None:
            return
        plan = in_force(self._histories.of(Contracted).get(last.pool, ()), at)
        if plan is None or (plan.programme, plan.provider) != (last.programme, last.provider):
            return
        there = [
            one
            for history in self._histories.of(Placed).values()
            if (one := in_force(history, at)) is not None
            and (one.programme, one.provider, one.pool) == (last.programme, last.provider, last.pool)
        ]
        owed = sum(part.gpus for part in plan.instalments if part.due <= at) - sum(one.seats for one in there)
        if last.share == PUBLIC:
            public = sum(one.seats for one in there if one.share == PUBLIC)
            owed = max(owed, plan.promised - public)
        place = _Place(last.programme, last.provider, last.pool, last.fabric)
        key = (place, str(Cause.NODE_GONE))
        found[key] = max(found.get(key, 0), min(last.seats, owed), 0)

    def _incident(self, key: tuple[_Place, str], start: int, end: int, seats: int) -> Incident:
        place, cause = key
        told = in_force(self._history.health.get(_ASPECTS[Cause(cause)], ()), start)
        return Incident(
            programme=place.programme,
            provider=place.provider,
            pool=place.pool,
            fabric=place.fabric,
            server=self._name,
            start=start,
            detected=max(start, told.seen if told else 0),
            restored=end,
            gpus=seats,
            cause=str(Cause(cause)),
        )
