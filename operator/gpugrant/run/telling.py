"""Facts on their way to the ledger: those of one subject in order, and none that it would take for an earlier one."""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from gpugrant.meter.facts import (
    Announced,
    Claimed,
    Contracted,
    Health,
    Named,
    Placed,
    PoolFact,
    Seated,
    ServerFact,
    Unwell,
)
from gpugrant.meter.spans import Dated

_F = TypeVar("_F", Placed, Health, Announced, Claimed, Unwell, Seated, Contracted)
StockFact = ServerFact | PoolFact | Named


class Telling:
    """Hands facts to ``put``, which queues them. ``now`` gives epoch seconds."""

    def __init__(self, put: Callable[[StockFact], None], now: Callable[[], int]) -> None:
        self.put = put
        self.now = now
        # What was told of a subject in the last second that had any.
        self._second: dict[object, list[Any]] = {}

    def tell(self, subject: object, told: Dated | None, fact: _F) -> _F:
        """Hand on a fact that follows another one of its subject; return it as it was told, which may be later."""
        since = fact.since if told is None else max(fact.since, told.since)
        fact = self._unlike(subject, replace(fact, since=since))
        self.put(fact)
        return fact

    def _unlike(self, subject: object, fact: _F) -> _F:
        """Return a fact, a second later where it is equal to one of the same second that another one followed.

        The ledger takes such a fact for that one told again.
        """
        told = self._second.get(subject)
        if told is None or told[0].since != fact.since:
            self._second[subject] = [fact]
        elif fact in told:
            fact = replace(fact, since=fact.since + 1)
            self._second[subject] = [fact]
        else:
            told.append(fact)
        return fact
