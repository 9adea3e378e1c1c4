"""Which of a pool's seats that nobody holds belong to grants on shared servers. Pure.

Such a grant owns so many seats of the pool's share, on no server of its own. Those it does not hold it owns all the
same: they are dealt to it out of what is free, the healthy ones first, grants in the order of their uids.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from msgspec import Struct

from gpugrant.meter.facts import Account, Condition

# Healthy seats first.
_ORDER = {
    Condition.IDLE: 0,
    Condition.UNOBSERVED: 1,
    Condition.MAINTENANCE: 2,
    Condition.FAILED: 3,
}


class Room(Struct, frozen=True):
    """Seats that nobody holds, in one condition, at one place; ``account`` owns what is not dealt."""

    condition: Condition
    fabric: str
    reason: str
    account: Account


class Taken(Struct, frozen=True):
    """Seats of a room over some seconds, and whose they are."""

    account: Account
    room: Room
    fabric: str  # none for a dealt seat: which one it is nobody can say
    seats: int
    seconds: int


class Rooms:
    """One share of a pool over a window: what is free, and what grants on shared servers have to come."""

    def __init__(self) -> None:
        self._rooms: dict[int, dict[Room, int]] = defaultdict(lambda: defaultdict(int))  # moment -> change
        self._wants: dict[int, dict[Account, int]] = defaultdict(lambda: defaultdict(int))

    def add(self, room: Room, start: int, end: int, seats: int) -> None:
        """Add seats that nobody holds over [start, end)."""
        self._rooms[start][room] += seats
        self._rooms[end][room] -= seats

    def want(self, account: Account, start: int, end: int, seats: int) -> None:
        """Add to what a grant has to come over [start, end); below zero for what it holds."""
        self._wants[start][account] += seats
        self._wants[end][account] -= seats

    def deal(self, start: int, end: int) -> Iterator[Taken]:
        """Yield every seat that nobody holds, once, over [start, end)."""
        edges = sorted({start, end, *self._rooms, *self._wants})
        rooms: dict[Room, int] = defaultdict(int)
        wants: dict[Account, int] = defaultdict(int)
        sums: dict[tuple[Account, Room, str], int] = defaultdict(int)
        in_order: list[Room] = []
        by_uid: list[Account] = []
        for left, right in pairwise(edges):
            for room, change in self._rooms.get(left, {}).items():
                if room not in rooms:
                    in_order = sorted([*rooms, room], key=_rank)
                rooms[room] += change
            for account, change in self._wants.get(left, {}).items():
                if account not in wants:
                    by_uid = sorted([*wants, account], key=lambda one: one.grant_uid)
                wants[account] += change
            for owner, room, fabric, seats in _dealt(in_order, rooms, by_uid, wants):
                sums[owner, room, fabric] += seats * (right - left)
        for (owner, room, fabric), amount in sums.items():
            yield Taken(owner, room, fabric, 1, amount)


def _rank(room: Room) -> tuple[int, str, str]:
    return (_ORDER[room.condition], room.fabric, room.reason)


def _dealt(
    in_order: list[Room], rooms: dict[Room, int], by_uid: list[Account], wants: dict[Account, int]
) -> Iterator[tuple[Account, Room, str, int]]:
    """Yield owner, room, fabric and seats at one moment."""
    places = iter(in_order)
    room, left = None, 0
    for account in by_uid:
        wanted = wants[account]
        while wanted > 0:
            while not left:
                room = next(places, None)
                if room is None:
                    return
                left = rooms[room]
            assert room is not None
            some = min(wanted, left)
            wanted -= some
            left -= some
            yield account, room, "", some
    if left and room is not None:
        yield room.account, room, room.fabric, left
    for room in places:
        if rooms[room]:
            yield room.account, room, room.fabric, rooms[room]
