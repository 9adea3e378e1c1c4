"""The seats of one server over a window: who holds them, and in what condition those are that nobody holds. Pure.

Most servers are in one condition for days, and their pods' holds are only added up; where seats differ from each
other, time is cut wherever anything changes.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, pairwise

from gpugrant.meter.facts import Account, Aspect, Condition, Health, Placed
from gpugrant.meter.spans import Cause, History, Span, in_force, spans
from gpugrant.meter.window import Stay, Window, pool_of

END_UNSEEN = "EndUnseen"  # reason of Unobserved: a pod went while nobody watched
HEALTH_UNSEEN = "HealthUnseen"  # reason of Unobserved: a server's health changed while nobody watched
ANNOUNCED = "Announced"  # reason of Maintenance
MORE_HELD = "MoreHeldThanPlaced"  # reason of Used and Grace: held beyond gpusPerServer

FAILED, MAINTENANCE, UNOBSERVED = Condition.FAILED, Condition.MAINTENANCE, Condition.UNOBSERVED
USED, IDLE = Condition.USED, Condition.IDLE
_HALF = 1 << 23  # of a number of 24 bits: more seats than a server has


class ServerSeats:
    """Adds servers to a window, one after the other."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._facts = window.facts
        self._aspects: dict[str, dict[Aspect, Sequence[Health]]] = defaultdict(dict)
        for (server, aspect), health in window.facts.health.items():
            self._aspects[server][aspect] = health

    def add(self, server: str, stays: list[Stay]) -> None:
        """Add the seats of one server."""
        window = self._window
        placed = self._facts.placed.get(server, ())
        mine = any(one.programme == window.programme for one in placed)
        if not mine and not any(stay.account.programme == window.programme for stay in stays):
            return
        history = History(
            placed,
            self._aspects.get(server, {}),
            self._facts.announced.get(server, ()),
            self._facts.claimed.get(server, ()),
            self._facts.terms,
        )
        unwell = self._facts.unwell
        is_plain = not any(stay.gone or stay.uid in unwell for stay in stays)
        for span in spans(history, window.start, window.end):
            here = stays
            if span.start > window.start or span.end < window.end:
                here = [
                    stay for stay in stays if stay.start < span.end and max(stay.end, stay.gone) > span.start
                ]
            if span.placed is None:
                self._add_unplaced(span, here)
            elif span.placed.programme == window.programme:
                window.install(span.placed, span.start, span.end, span.seats)
                self._add_span(span, span.placed, here, is_plain)

    def _add_unplaced(self, span: Span, stays: list[Stay]) -> None:
        """Add what is held where no pool's server is (any more): it is on the account it was bound on."""
        window = self._window
        for stay in stays:
            account = stay.account
            start, end = max(stay.start, span.start), min(stay.end, span.end)
            if not account.pool or account.programme != window.programme or start >= end:
                continue
            window.install(account, start, end, stay.seats)
            window.held[pool_of(account)] += stay.seats * (end - start)
            condition, reason = _whole(span)
            if condition is None and span.doubted:
                condition, reason = UNOBSERVED, HEALTH_UNSEEN
            told = (one.since for one in self._facts.unwell.get(stay.uid, ()))
            for left, right in pairwise(sorted({start, end, *(at for at in told if start < at < end)})):
                unwell = 0 if span.whole else self._unwell(stay, left)
                window.add(account, stay.fabric, FAILED, Cause.UNHEALTHY, unwell * (right - left))
                rest = stay.seats - unwell
                if condition is None:
                    window.add_used(account, stay.fabric, rest, left, right)
                else:
                    window.add(account, stay.fabric, condition, reason, rest * (right - left))

    def _add_span(self, span: Span, placed: Placed, stays: list[Stay], is_plain: bool) -> None:
        """Add a span; ``is_plain`` says that all seats of each stay are in one condition as far as the stay goes."""
        window = self._window
        roomy = window.is_roomy(span, placed)
        if not (span.plain and is_plain) or (roomy and stays) or _most_held(stays) > span.seats:
            self._sweep(span, placed, stays)
            return
        condition, reason = _whole(span)
        first, last = span.start, span.end
        held = 0
        sums: dict[Account, int] = {}
        by_terms: dict[Account, bool] = {}
        for stay in stays:  # a month has millions of these
            start = stay.start if stay.start > first else first  # noqa: FURB136 (max() takes twice as long)
            end = stay.end if stay.end < last else last  # noqa: FURB136
            if start >= end:
                continue
            amount = stay.seats * (end - start)
            held += amount
            account = stay.account
            if account not in by_terms:
                by_terms[account] = condition is None and window.term_decides(account, last)
            if by_terms[account]:
                window.add_used(window.account_at(account, placed), placed.fabric, stay.seats, start, end)
            else:
                sums[account] = sums.get(account, 0) + amount
        for account, amount in sums.items():
            window.add(window.account_at(account, placed), placed.fabric, condition or USED, reason, amount)
        if held:
            window.held[pool_of(placed)] += held
        left = span.seats * (last - first) - held
        if left > 0:
            if roomy:
                window.add_room(span, placed, condition or IDLE, reason, span.seats, first, last)
            else:
                window.add_idle(span, placed, condition or IDLE, reason, left)

    def _sweep(self, span: Span, placed: Placed, stays: list[Stay]) -> None:
        """Add a span second by second where it changes: seats differ from each other in condition."""
        edges = {span.start, span.end}
        for stay in stays:
            edges.update((stay.start, stay.end, stay.gone))
            edges.update(one.since for one in self._facts.unwell.get(stay.uid, ()))
        inside = sorted(at for at in edges if span.start <= at <= span.end)
        entering = sorted(stays, key=lambda stay: stay.start)
        here: list[Stay] = []
        following = 0
        for start, end in pairwise(inside):
            while following < len(entering) and entering[following].start <= start:
                here.append(entering[following])
                following += 1
            here = [stay for stay in here if max(stay.end, stay.gone) > start]
            self._add_moment(span, placed, sorted(here, key=lambda stay: (stay.start, stay.uid)), start, end)

    def _add_moment(self, span: Span, placed: Placed, stays: list[Stay], start: int, end: int) -> None:
        """Add [start, end), in which nothing changes at all."""
        window, length = self._window, end - start
        seats = _Seats([stay for stay in stays if start < stay.end], span.seats)
        if seats.more:  # gpusPerServer was lowered, or says less than there is
            window.install(placed, start, end, seats.more)
        self._take(seats, span, start)
        for stay in stays:
            if stay.end <= start < stay.gone:
                some = min(stay.seats, seats.unheld)
                seats.unheld -= some
                account = window.account_at(stay.account, placed)
                window.add(account, placed.fabric, UNOBSERVED, END_UNSEEN, some * length)
        up_to = 0  # seats of the pods that came before, and of this one
        for stay in seats.held:
            up_to += stay.seats
            window.held[pool_of(placed)] += stay.seats * length
            account = window.account_at(stay.account, placed)
            rest = seats.rest[stay.uid]
            more = min(rest, max(0, up_to - span.seats))
            window.add_used(account, placed.fabric, rest - more, start, end)
            window.add_used(account, placed.fabric, more, start, end, MORE_HELD)
        seats.take_unheld(seats.unheld, IDLE, "")
        roomy = window.is_roomy(span, placed)
        for one, condition, reason, some in seats.taken:
            if one is not None:
                account = window.account_at(one.account, placed)
                window.add(account, placed.fabric, condition, reason, some * length)
            elif roomy:
                window.add_room(span, placed, condition, reason, some, start, end)
            else:
                window.add_idle(span, placed, condition, reason, some * length)

    def _take(self, seats: "_Seats", span: Span, at: int) -> None:
        """Let conditions take their seats, in the order in which they go before each other (R10)."""
        every = span.seats + seats.more
        if span.whole:
            seats.take(every, FAILED, span.whole)
            return
        known = 0  # of the unhealthy seats, those whose pods the kubelet names
        for stay in seats.held:
            known += seats.take_held(stay, self._unwell(stay, at), FAILED, Cause.UNHEALTHY)
        seats.take(max(0, span.missing - max(0, known - span.unhealthy)), FAILED, Cause.MISSING)
        seats.take(max(0, span.unhealthy - known), FAILED, Cause.UNHEALTHY)
        if span.maintenance:
            seats.take(every, MAINTENANCE, ANNOUNCED)
        seats.take(span.doubted, UNOBSERVED, HEALTH_UNSEEN)

    def _unwell(self, stay: Stay, at: int) -> int:
        found = in_force(self._facts.unwell.get(stay.uid, ()), at)
        return min(stay.seats, found.seats) if found else 0


class _Seats:
    """A server's seats at one moment, as conditions take their part of them.

    ``more`` are held beyond what it has to have. ``unheld`` and ``rest`` (by pod) are in no condition yet. ``taken``
    are seats with their condition and its reason; None: nobody holds them.
    """

    def __init__(self, held: Sequence[Stay], seats: int) -> None:
        seats_held = sum(stay.seats for stay in held)
        self.held = held
        self.more = max(0, seats_held - seats)
        self.unheld = max(0, seats - seats_held)
        self.rest = {stay.uid: stay.seats for stay in held}
        self.taken: list[tuple[Stay | None, Condition, str, int]] = []

    def take(self, seats: int, condition: Condition, reason: str) -> None:
        """Give a condition to so many seats: to those nobody holds, then to the pods that came first."""
        seats -= self.take_unheld(seats, condition, reason)
        for stay in self.held:
            seats -= self.take_held(stay, seats, condition, reason)

    def take_unheld(self, seats: int, condition: Condition, reason: str) -> int:
        """Give a condition to seats that nobody holds; return to how many."""
        some = min(seats, self.unheld)
        self.unheld -= some
        if some:
            self.taken.append((None, condition, reason, some))
        return some

    def take_held(self, stay: Stay, seats: int, condition: Condition, reason: str) -> int:
        """Give a condition to seats of a pod; return to how many."""
        some = min(seats, self.rest[stay.uid])
        self.rest[stay.uid] -= some
        if some:
            self.taken.append((stay, condition, reason, some))
        return some


def _most_held(stays: Sequence[Stay]) -> int:
    """Return the most seats that are held at once, wherever that is: quickly, a month has millions of stays."""
    changes = [(stay.start << 24) + _HALF + stay.seats for stay in stays]
    changes += [(stay.end << 24) + _HALF - stay.seats for stay in stays]
    changes.sort()  # at one moment ends come before binds
    return max(accumulate([(change & 0xFFFFFF) - _HALF for change in changes]), default=0)


def _whole(span: Span) -> tuple[Condition | None, str]:
    """Return the condition of all of a server's seats, if they have one, and its reason."""
    if span.whole:
        return FAILED, span.whole
    if span.maintenance:
        return MAINTENANCE, ANNOUNCED
    return None, ""
