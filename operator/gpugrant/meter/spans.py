"""A server's history as spans in which nothing about it changes: whose it is, and what of it has failed. Pure.

The one place that says what counts as Failed and what as Maintenance (R11).
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Protocol, TypeVar

from msgspec import Struct

from gpugrant.meter.facts import Announced, Aspect, Claimed, GrantTerms, Health, Placed


class Cause(StrEnum):
    """Why seats are not what the supplier owes."""

    NOT_READY = "NotReady"
    CORDONED = "Cordoned"  # outside an announced maintenance window
    MISSING = "MissingSeats"  # the device plugin knows fewer than gpusPerServer
    UNHEALTHY = "Unhealthy"  # known, and not allocatable
    NODE_GONE = "NodeGone"  # a pod's containers may run on where the node object is gone


class Dated(Protocol):
    """A fact that holds from a moment on."""

    @property
    def since(self) -> int:
        """Return the first second."""


_D = TypeVar("_D", bound=Dated)


def in_force(history: Sequence[_D], at: int) -> _D | None:
    """Return the entry of a history (sorted by since) that holds at a moment; None before the first."""
    found = bisect_right(history, at, key=lambda one: one.since)
    return history[found - 1] if found else None


def terms_at(history: Sequence[GrantTerms], at: int) -> GrantTerms | None:
    """Return a grant's terms in force; the first ones hold for the time before them too."""
    return in_force(history, at) or (history[0] if history else None)


class History(Struct, frozen=True):
    """All that is known of one server. ``terms`` is of every grant, by uid."""

    placed: Sequence[Placed] = ()
    health: Mapping[Aspect, Sequence[Health]] = {}
    announced: Sequence[Announced] = ()
    claimed: Sequence[Claimed] = ()
    terms: Mapping[str, Sequence[GrantTerms]] = {}


class Span(Struct, frozen=True):
    """[start, end) in which nothing about the server changes.

    ``whole``: why all of it is failed, or ''. Else ``missing`` and ``unhealthy`` seats are failed; of the others
    ``maintenance`` says that they are in maintenance, as announced, and ``doubted`` ones are not known to be well:
    of a server of no pool, if any then all.
    """

    start: int
    end: int
    placed: Placed | None  # None: of no pool
    owner: str = ""  # uid of the grant whose own server it is now
    whole: str = ""
    maintenance: bool = False
    missing: int = 0
    unhealthy: int = 0
    doubted: int = 0

    @property
    def seats(self) -> int:
        """Return how many seats it has to have."""
        return self.placed.seats if self.placed else 0

    @property
    def plain(self) -> bool:
        """Say whether all its seats are in one condition as far as the server goes."""
        return not (self.missing or self.unhealthy or self.doubted)


def spans(history: History, start: int, end: int) -> Iterator[Span]:
    """Yield a server's spans over [start, end), in order and without gaps."""
    edges = {start, end}
    edges.update(at for at in _edges(history) if start < at < end)
    for left, right in pairwise(sorted(edges)):
        yield _span(history, left, right)


def _edges(history: History) -> Iterator[int]:
    for one in history.placed:
        yield one.since
    for aspect in history.health.values():
        for health in aspect:
            yield health.since
    for window in history.announced:
        yield from (window.since, window.start, window.end)
        # A window keeps the time at which it was announced first, and has the notice that was asked for last.
        yield from (window.since + other.notice for other in history.announced)
    for claim in history.claimed:
        yield claim.since
    for uid in {claim.grant_uid for claim in history.claimed}:
        for terms in history.terms.get(uid, ()):
            yield from (terms.since, terms.start, terms.end)


def _span(history: History, start: int, end: int) -> Span:
    placed = in_force(history.placed, start)
    if placed is not None and not placed.seats:
        placed = None
    owner = _owner(history, start) if placed else ""
    announced = bool(_value(history, Aspect.CORDONED, start, 0)) and is_announced(history.announced, start)
    if not placed and not _value(history, Aspect.PRESENT, start, 1):
        return Span(start, end, None, whole=Cause.NODE_GONE)
    if not _value(history, Aspect.READY, start, 1):
        return Span(start, end, placed, owner, whole=Cause.NOT_READY)
    if _value(history, Aspect.CORDONED, start, 0) and not announced:
        return Span(start, end, placed, owner, whole=Cause.CORDONED)
    if placed is None:  # how many seats it has to have nobody says
        doubted = 0 if announced else _value(history, Aspect.DOUBTED, start, 0)
        return Span(start, end, None, maintenance=announced, doubted=doubted)
    known = min(placed.seats, _value(history, Aspect.CAPACITY, start, placed.seats))
    offered = min(known, _value(history, Aspect.OFFERED, start, known))
    doubted = min(offered, _value(history, Aspect.DOUBTED, start, 0))
    if not offered and known in (0, placed.seats):
        return Span(start, end, placed, owner, whole=Cause.UNHEALTHY if known else Cause.MISSING)
    return Span(
        start,
        end,
        placed,
        owner,
        maintenance=announced,
        missing=placed.seats - known,
        unhealthy=known - offered,
        doubted=0 if announced else doubted,
    )


def _value(history: History, aspect: Aspect, at: int, otherwise: int) -> int:
    found = in_force(history.health.get(aspect, ()), at)
    return otherwise if found is None else found.value


def _owner(history: History, at: int) -> str:
    """Return the uid of the grant that owns the server now; of several, which no plan makes, the first."""
    claims: dict[str, Claimed] = {}
    for claim in history.claimed:
        told = claims.get(claim.grant_uid)
        if claim.since <= at and (told is None or told.has != claim.has):  # told again, it is as old as it was
            claims[claim.grant_uid] = claim
    for claim in sorted(claims.values(), key=lambda one: (one.since, one.grant_uid)):
        terms = terms_at(history.terms.get(claim.grant_uid, ()), at) if claim.has else None
        if terms is not None and terms.start <= at < terms.end:
            return claim.grant_uid
    return ""


def is_announced(history: Sequence[Announced], at: int) -> bool:
    """Say whether a moment lies in a maintenance window that was announced long enough before.

    A window that is changed and still has this moment in it keeps the notice it was first given with.
    """
    found = bisect_right(history, at, key=lambda one: one.since)
    if not found:
        return False
    last = history[found - 1]
    first = None
    for one in reversed(history[:found]):
        if not one.start <= at < one.end:
            break
        first = one
    return first is not None and at >= first.since + last.notice
