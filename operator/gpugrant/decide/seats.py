"""Servers with free seats, sorted so that the best fit is found without a walk over the fleet."""

from bisect import bisect_left, insort
from collections.abc import Iterator


class FreeSeats:
    """Names of servers by their number of free seats; the fullest that fits comes first.

    Order is by (free seats, name): the same whatever the order of events was.
    """

    __slots__ = ("_by_free", "_free")

    def __init__(self) -> None:
        self._free: dict[str, int] = {}
        self._by_free: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return len(self._free)

    def __contains__(self, name: str) -> bool:
        return name in self._free

    def put(self, name: str, free: int) -> bool:
        """Set how many seats are free on a server; say whether it is more than before."""
        old = self._free.get(name)
        if old == free:
            return False
        if old is not None:
            self._take(name, old)
        self._free[name] = free
        insort(self._by_free.setdefault(free, []), name)
        return old is None or free > old

    def drop(self, name: str) -> None:
        """Forget a server."""
        old = self._free.pop(name, None)
        if old is not None:
            self._take(name, old)

    def fitting(self, seats: int) -> Iterator[str]:
        """Yield servers with at least ``seats`` free, best fit first."""
        for free in sorted(k for k in self._by_free if k >= seats):
            yield from self._by_free.get(free, ())

    def names(self) -> list[str]:
        """Return all servers, by name."""
        return sorted(self._free)

    def largest(self) -> int:
        """Return the most seats that are free on one server."""
        return max(self._by_free, default=0)

    def _take(self, name: str, free: int) -> None:
        bucket = self._by_free[free]
        del bucket[bisect_left(bucket, name)]
        if not bucket:
            del self._by_free[free]
