"""How servers are, told to the ledger when it changes; what changed while nobody watched is doubted."""

from collections import Counter

from gpugrant.meter.facts import Aspect, Health, Placed
from gpugrant.model.node import Node
from gpugrant.run.telling import Telling


class ServerHealth:
    """What was told last of every server's health, and the telling of what is otherwise now."""

    def __init__(self, telling: Telling) -> None:
        self._telling = telling
        self._told: dict[tuple[str, Aspect], Health] = {}
        self._unsure: Counter[str] = Counter()  # seats by server, of pods whose devices changed unwatched

    def load(self, fact: Health) -> None:
        """Start from a fact that the ledger has."""
        self._told[fact.server, fact.aspect] = fact

    def is_present(self, name: str) -> bool:
        """Say whether a server's node object was there when it was told of last."""
        told = self._told.get((name, Aspect.PRESENT))
        return told is None or bool(told.value)

    def doubt_pod(self, server: str, seats: int) -> None:
        """Take note that so many seats of a pod may have changed before now; told with all else of its server."""
        self._unsure[server] += seats

    def tell_gone(self, name: str, seats: int, at: int, seen_until: int | None) -> None:
        """Tell that a server's node object is gone."""
        if seen_until is not None and seen_until < at:
            self._doubt(name, seats or 1, seen_until, at)
        self._tell(name, Aspect.PRESENT, at, 0)

    def tell(self, node: Node, placed: Placed, resource: str, seen_until: int | None) -> None:
        """Tell what is otherwise about a server; of one of no pool (any more) only what needs no number of seats.

        ``resource`` is what GPUs are called there; ``seen_until``: till when it was watched, where this was not seen.
        """
        now = self._telling.now()
        ready = self._told.get((node.name, Aspect.READY))
        new = bool(placed.seats) and (ready is None or ready.since < placed.since)
        if not self.is_present(node.name):
            self._tell(node.name, Aspect.PRESENT, placed.since if new else now, 1)
        unsure_until = self._tell_ready(node, placed, None if new else seen_until)
        known = min(placed.seats, node.seats_installed(resource))
        offered = min(known, node.seats_allocatable(resource))
        unsure = self._unsure.pop(node.name, 0)
        doubted = 0 if new else min(placed.seats or 1, unsure)
        for aspect, value, otherwise in (
            (Aspect.CORDONED, int(node.unschedulable), 0),
            (Aspect.CAPACITY, known, placed.seats),
            (Aspect.OFFERED, offered, known),
        ):
            told = self._told.get((node.name, aspect))
            was = told.value if told else otherwise
            if value == was and (told is not None or value == otherwise):
                continue
            if not placed.seats and aspect is not Aspect.CORDONED:
                continue
            if seen_until is not None and not new:
                part = (placed.seats or 1) if aspect is Aspect.CORDONED else abs(value - was)
                doubted = max(doubted, part)
            self._tell(node.name, aspect, placed.since if new else now, value)
        if seen_until is not None and (doubted or unsure_until):
            # One doubt over all that may have been: two would end each other.
            seats = (placed.seats or 1) if unsure_until else doubted
            self._doubt(node.name, seats, max(seen_until, placed.since), now if doubted else unsure_until)

    def _tell_ready(self, node: Node, placed: Placed, seen_until: int | None) -> int:
        """Tell of the Ready condition; return until when it cannot be known what it was, 0 for never.

        The condition says when it changed last. A change that nobody watched may not have been the only one.
        """
        now, told = self._telling.now(), self._told.get((node.name, Aspect.READY))
        at = min(node.ready_since, now) if node.ready_since else now
        if told is None or (placed.seats and told.since < placed.since):
            self._tell(node.name, Aspect.READY, max(at, placed.since), int(node.ready))
            return 0
        unsure = seen_until is not None and node.ready_since > max(seen_until, told.since)
        if unsure and seen_until is not None and not told.value:
            # That it stayed lost is not known either.
            self._tell(node.name, Aspect.READY, max(seen_until, placed.since), 1)
        told = self._told[node.name, Aspect.READY]
        if told.value != int(node.ready):
            self._tell(node.name, Aspect.READY, max(at, told.since), int(node.ready))
        return at if unsure else 0

    def _doubt(self, server: str, seats: int, start: int, end: int) -> None:
        """Tell that so many seats' condition over [start, end) cannot be known."""
        if start < end:
            self._tell(server, Aspect.DOUBTED, start, seats)
            self._tell(server, Aspect.DOUBTED, end, 0)

    def _tell(self, server: str, aspect: Aspect, since: int, value: int) -> None:
        fact = Health(server, aspect, since, value, self._telling.now())
        subject = (server, aspect)
        self._told[subject] = self._telling.tell(subject, self._told.get(subject), fact)
