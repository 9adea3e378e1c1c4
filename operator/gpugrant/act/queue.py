"""What is to be written next: one lane per object, the most urgent lane first. No I/O.

At most one write per object is in flight; of statuses and explanations only the latest wanted is kept.
"""

import heapq
from collections.abc import Iterator
from typing import Final

from gpugrant.decide.actions import (
    Action,
    EvictPod,
    ExplainPod,
    LabelPod,
    ReleasePod,
    SetPolicies,
    SetStatus,
    WriteServer,
)

Key = tuple[str, str]

# Lower is sooner. A seat freed or filled comes first, words last.
EVICT: Final = 0
RELEASE: Final = 0
STRIP: Final = 1
SERVER: Final = 1
STATUS: Final = 2
LABEL: Final = 2
EXPLAIN: Final = 3
FIGURES: Final = 4


class StripFinalizer(tuple[str, str, str]):
    """Take the metering finalizer off a pod whose end is in the ledger: (uid, namespace, name)."""

    __slots__ = ()


Work = Action | StripFinalizer


def key_of(work: Work) -> Key:
    """Return the object a write goes to."""
    match work:
        case WriteServer():
            return ("node", work.node)
        case SetStatus():
            return (work.kind, f"{work.namespace}/{work.name}")
        case SetPolicies():
            return ("policies", "")
        case StripFinalizer():
            return ("pod", work[0])
        case _:
            return ("pod", work.uid)


def urgency_of(work: Work) -> int:
    """Return how soon a write is wanted."""
    match work:
        case EvictPod() | ReleasePod() | SetPolicies():
            return RELEASE
        case WriteServer() | StripFinalizer():
            return SERVER
        case SetStatus():
            return STATUS if work.urgent else FIGURES
        case LabelPod():
            return LABEL
        case _:
            return EXPLAIN


class _Lane:
    __slots__ = ("busy", "wanted")

    def __init__(self) -> None:
        self.busy = False
        self.wanted: dict[type, Work] = {}


class Queue:
    """Lanes by object, and the order among those that may be written now."""

    def __init__(self) -> None:
        self._lanes: dict[Key, _Lane] = {}
        self._heap: list[tuple[int, int, Key, type]] = []
        self._count = 0
        self._urgent = 0

    def __len__(self) -> int:
        return sum(len(lane.wanted) for lane in self._lanes.values())

    @property
    def urgent(self) -> int:
        """Return how many evictions, releases and server writes wait for their turn."""
        return self._urgent

    def add(self, work: Work) -> list[Work]:
        """Take a write in; return those it makes superfluous."""
        key = key_of(work)
        lane = self._lanes.setdefault(key, _Lane())
        dropped: list[Work] = []
        if isinstance(work, ReleasePod | EvictPod) and ExplainPod in lane.wanted:
            dropped.append(self._withdraw(lane, ExplainPod))
        if type(work) in lane.wanted:
            dropped.append(self._withdraw(lane, type(work)))
        lane.wanted[type(work)] = work
        self._urgent += urgency_of(work) <= SERVER
        if not lane.busy:
            self._push(key, work)
        return dropped

    def _withdraw(self, lane: _Lane, kind: type) -> Work:
        work = lane.wanted.pop(kind)
        self._urgent -= urgency_of(work) <= SERVER
        return work

    def _push(self, key: Key, work: Work) -> None:
        self._count += 1
        heapq.heappush(self._heap, (urgency_of(work), self._count, key, type(work)))

    def take(self) -> tuple[Key, Work] | None:
        """Return the next write and mark its object busy; None where nothing may be written now."""
        while self._heap:
            _, _, key, kind = heapq.heappop(self._heap)
            lane = self._lanes.get(key)
            # Entries of the heap are hints: the lane says what is still wanted.
            if lane is None or lane.busy or kind not in lane.wanted:
                continue
            lane.busy = True
            return key, self._withdraw(lane, kind)
        return None

    def done(self, key: Key) -> None:
        """Mark an object free again."""
        lane = self._lanes[key]
        lane.busy = False
        if not lane.wanted:
            del self._lanes[key]
        for work in lane.wanted.values():
            self._push(key, work)

    def waiting(self) -> Iterator[Work]:
        """Yield everything that waits."""
        for lane in self._lanes.values():
            yield from lane.wanted.values()
