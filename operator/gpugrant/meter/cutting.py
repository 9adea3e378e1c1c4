"""Cutting a held interval into months and conditions. Pure; the pieces always add up to the whole.

Whether a second is Used or Grace depends on the term that was in force in that second, so an edit of a term
never rewrites what went before it.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from msgspec import Struct

from gpugrant.meter.facts import Condition
from gpugrant.meter.months import Calendar

# (since, term end) of a grant, by since. The first is also taken for the time before it.
Terms = tuple[tuple[int, int], ...]


class Piece(Struct, frozen=True):
    """Part of an interval that lies in one month and one condition: [start, end)."""

    start: int
    end: int
    month: str
    condition: Condition


def cut_interval(start: int, end: int, calendar: Calendar, terms: Terms = ()) -> Iterator[Piece]:
    """Yield the pieces of [start, end) in order; none for an empty interval."""
    while start < end:
        month = calendar.month_of(start)
        edge = min(end, month.end)
        if not terms:
            yield Piece(start, edge, month.name, Condition.USED)
        else:
            yield from _cut_by_terms(start, edge, month.name, terms)
        start = edge


def _cut_by_terms(start: int, end: int, month: str, terms: Terms) -> Iterator[Piece]:
    """Yield the pieces of [start, end), which lies in one month."""
    edges = sorted({start, end, *(at for term in terms for at in term if start < at < end)})
    held = Piece(start, start, month, _condition_at(start, terms))
    for left, right in pairwise(edges):
        condition = _condition_at(left, terms)
        if condition is held.condition:
            held = Piece(held.start, right, month, condition)
        else:
            yield held
            held = Piece(left, right, month, condition)
    if held.start < held.end:
        yield held


def _condition_at(at: int, terms: Terms) -> Condition:
    in_force = terms[0][1]
    for since, end in terms:
        if since > at:
            break
        in_force = end
    return Condition.GRACE if at >= in_force else Condition.USED


def seat_seconds(pieces: Iterable[Piece], seats: int) -> dict[tuple[str, Condition], int]:
    """Return GPU-seconds by month and condition."""
    sums: dict[tuple[str, Condition], int] = {}
    for piece in pieces:
        key = (piece.month, piece.condition)
        sums[key] = sums.get(key, 0) + (piece.end - piece.start) * seats
    return sums
