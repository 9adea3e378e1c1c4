"""Taking stock: what the world and the nodes say of every seat, told to the ledger as dated facts, each once.

Health comes with the nodes' events; whose a server is comes out of plans. Facts are told when they change. What
changed while nobody watched is doubted for as long as that may be: such seats are Unobserved, never guessed.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from gpugrant.api.grant import instant_of
from gpugrant.config import Programme
from gpugrant.decide.state import OWN_USE, GrantState, PoolState, Server
from gpugrant.decide.world import World
from gpugrant.meter.facts import (
    Announced,
    Aspect,
    Claimed,
    Contracted,
    Health,
    Instalment,
    Named,
    Owner,
    Placed,
    PoolFact,
    Seated,
    ServerFact,
    Unwell,
)
from gpugrant.meter.spans import Dated
from gpugrant.model.node import Node
from gpugrant.model.objects import Quota
from gpugrant.model.pod import Pod

_F = TypeVar("_F", Placed, Health, Announced, Claimed, Unwell, Seated, Contracted)
StockFact = ServerFact | PoolFact | Named


class Stock:
    """What was told last, and the telling of what is otherwise now. ``put`` queues a fact for the ledger."""

    def __init__(self, world: World, put: Callable[[StockFact], None], now: Callable[[], int]) -> None:
        self._world = world
        self._put = put
        self._now = now
        self._placed: dict[str, Placed] = {}
        self._health: dict[tuple[str, Aspect], Health] = {}
        self._announced: dict[str, Announced] = {}
        self._claims: dict[str, dict[str, Claimed]] = {}
        self._unwell: dict[str, Unwell] = {}
        self._seated: dict[str, Seated] = {}
        self._contracted: dict[str, Contracted] = {}
        self._named: dict[str, Named] = {}
        self._of_pool: dict[str, set[str]] = {}  # servers by the pool they were told to be of
        self._second: dict[
            object, list[Any]
        ] = {}  # what was told of a subject in the last second that had any
        self._unsure: Counter[str] = Counter()  # seats by server, of pods whose devices changed unwatched
        self._since = 0  # until when it was watched before this process began
        self._looked = False

    def load(self, facts: Iterable[StockFact], watermark: int) -> None:
        """Start from what the ledger has: the facts in force, and until when they were kept up."""
        self._since = watermark
        for fact in facts:
            match fact:
                case Placed():
                    self._note_placed(fact)
                case Health():
                    self._health[fact.server, fact.aspect] = fact
                case Announced():
                    self._announced[fact.server] = fact
                case Claimed():
                    self._claims.setdefault(fact.server, {})[fact.grant_uid] = fact
                case Unwell():
                    self._unwell[fact.uid] = fact
                case Seated():
                    self._seated[fact.grant_uid] = fact
                case Contracted():
                    self._contracted[fact.pool] = fact
                case Named():
                    self._named[fact.tenant] = fact

    # -- what is seen --------------------------------------------------------------------------------

    def observe_node(self, node: Node, seen_until: int | None = None) -> None:
        """Tell how a server is. ``seen_until``: till when it was watched, where this was not seen happening."""
        if self._looked and node.name in self._placed:
            self._tell_health(node, self._placed[node.name], seen_until)

    def node_gone(self, name: str, at: int, seen_until: int | None = None) -> None:
        """Tell that a node's object is gone."""
        if self._looked:
            self._tell_gone(name, at, seen_until)

    def _tell_gone(self, name: str, at: int, seen_until: int | None) -> None:
        placed = self._placed.get(name)
        if placed is None or not self._is_present(name):
            return
        if seen_until is not None and seen_until < at:
            self._doubt(name, placed.seats or 1, seen_until, at)
        self._tell_aspect(name, Aspect.PRESENT, at, 0)
        if placed.seats:
            self._place(Placed(name, at))

    def _is_present(self, name: str) -> bool:
        told = self._health.get((name, Aspect.PRESENT))
        return told is None or bool(told.value)

    def observe_pod(self, pod: Pod, *, unwatched: bool = False) -> None:
        """Tell how many of a pod's seats are called unhealthy; ``unwatched``: it may have changed before now."""
        told = self._unwell.get(pod.uid)
        if pod.ended:
            self._unwell.pop(pod.uid, None)
        elif pod.node and pod.unwell != (told.seats if told else 0):
            since = _after(told, self._now())
            if unwatched:
                self._unsure[pod.node] += abs(pod.unwell - (told.seats if told else 0))
            fact = self._unlike(("pod", pod.uid), Unwell(pod.uid, pod.node, since, pod.unwell))
            self._unwell[pod.uid] = fact
            self._put(fact)

    def pod_gone(self, pod: Pod) -> None:
        """Forget a pod."""
        self._unwell.pop(pod.uid, None)

    def observe_quota(self, quota: Quota) -> None:
        """Tell a tenant's display name."""
        name = (quota.spec.display_name or "") if quota.spec else ""
        told = self._named.get(quota.name)
        if name != (told.display_name if told else ""):
            self._named[quota.name] = fact = Named(quota.name, self._now(), name)
            self._put(fact)

    def take(self) -> None:
        """After a plan: tell whose every server of the pools that it touched is now."""
        world = self._world
        stirred, world.stirred = world.stirred, set()
        if not self._looked:
            stirred |= self._of_pool.keys() | world.pools.keys()
        for name in sorted(stirred):
            self._take_pool(name, world.pools.get(name))
        if not self._looked:
            self._take_unplaced()
        if stirred:
            self._take_shared_grants()
        self._looked = True

    # -- pools and servers ---------------------------------------------------------------------------

    def _take_pool(self, name: str, state: PoolState | None) -> None:
        spec = state.pool.spec if state else None
        servers = state.servers if state and spec else set()
        for left in sorted(self._of_pool.get(name, set()) - servers):
            self._leave(left, name)
        if state is None or spec is None:
            if (
                state is None and name in self._contracted
            ):  # an object that does not parse changes no contract
                self._tell_contract(Contracted(name, self._now()))
            return
        rules = self._world.settings.programmes.get(spec.programme) or Programme()
        for server in sorted(servers):
            self._take_server(self._world.servers[server], state, rules)
        self._tell_contract(
            _contract(state, self._dated(state.pool.created, name in self._contracted), rules)
        )

    def _take_unplaced(self) -> None:
        """At the first look: tell how the servers are that were of a pool once. Pods may hold on there."""
        for name, placed in self._placed.items():
            if placed.seats:
                continue
            server = self._world.servers.get(name)
            if server is not None and server.node is not None:
                self._tell_health(server.node, placed, self._since)
            else:
                self._tell_gone(name, self._now(), self._since)

    def _leave(self, name: str, pool: str) -> None:
        """Tell that a server is of this pool no more, unless it came to another one."""
        server = self._world.servers.get(name)
        if server is not None and server.pool and server.pool != pool:
            return  # told there
        if server is None or server.node is None:
            self._tell_gone(name, self._now(), None if self._looked else self._since)
        else:
            self._place(Placed(name, self._now()))

    def _take_server(self, server: Server, state: PoolState, rules: Programme) -> None:
        spec, node = state.pool.spec, server.node
        if node is None or spec is None:
            return
        told = self._placed.get(server.name)
        idle = Owner.OWN_USE if server.share == OWN_USE and spec.own_use == "Open" else Owner.FREE
        fact = Placed(
            server.name,
            self._dated(max(node.created, state.pool.created), told is not None),
            spec.programme,
            spec.provider,
            state.pool.name,
            spec.gpu_type,
            server.share,
            "" if server.fabric.startswith("node:") else server.fabric,
            state.size,
            idle,
        )
        self._place(fact)
        self._tell_health(node, self._placed[server.name], None if self._looked else self._since)
        self._tell_window(node, rules)
        self._tell_claims(server)

    def _place(self, fact: Placed) -> None:
        told = self._placed.get(fact.server)
        if told is not None and _but_since(told) == _but_since(fact):
            return
        fact = self._unlike(fact.server, replace(fact, since=_after(told, fact.since)))
        self._note_placed(fact)
        self._put(fact)

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

    def _note_placed(self, fact: Placed) -> None:
        told = self._placed.get(fact.server)
        if told is not None and told.pool:
            self._of_pool.get(told.pool, set()).discard(fact.server)
        if fact.pool:
            self._of_pool.setdefault(fact.pool, set()).add(fact.server)
        self._placed[fact.server] = fact

    def _dated(self, created: int, known: bool) -> int:
        """Return since when something holds: now; of what was there before the first look, since it was made."""
        return self._now() if known or self._looked else max(created, self._since)

    # -- health --------------------------------------------------------------------------------------

    def _tell_health(self, node: Node, placed: Placed, seen_until: int | None) -> None:
        """Tell what is otherwise about a server; of one of no pool (any more) only what needs no number of seats."""
        now = self._now()
        ready = self._health.get((node.name, Aspect.READY))
        new = bool(placed.seats) and (ready is None or ready.since < placed.since)
        if not self._is_present(node.name):
            self._tell_aspect(node.name, Aspect.PRESENT, placed.since if new else now, 1)
        unsure_until = self._tell_ready(node, placed, None if new else seen_until)
        resource = self._world.pools[placed.pool].resource if placed.pool in self._world.pools else ""
        known = min(placed.seats, node.seats_installed(resource))
        offered = min(known, node.seats_allocatable(resource))
        unsure = self._unsure.pop(node.name, 0)
        doubted = 0 if new else min(placed.seats or 1, unsure)
        for aspect, value, otherwise in (
            (Aspect.CORDONED, int(node.unschedulable), 0),
            (Aspect.CAPACITY, known, placed.seats),
            (Aspect.OFFERED, offered, known),
        ):
            told = self._health.get((node.name, aspect))
            was = told.value if told else otherwise
            if value == was and (told is not None or value == otherwise):
                continue
            if not placed.seats and aspect is not Aspect.CORDONED:
                continue
            if seen_until is not None and not new:
                part = (placed.seats or 1) if aspect is Aspect.CORDONED else abs(value - was)
                doubted = max(doubted, part)
            self._tell_aspect(node.name, aspect, placed.since if new else now, value)
        if seen_until is not None and (doubted or unsure_until):
            # One doubt over all that may have been: two would end each other.
            seats = (placed.seats or 1) if unsure_until else doubted
            self._doubt(node.name, seats, max(seen_until, placed.since), now if doubted else unsure_until)

    def _tell_ready(self, node: Node, placed: Placed, seen_until: int | None) -> int:
        """Tell of the Ready condition; return until when it cannot be known what it was, 0 for never.

        The condition says when it changed last. A change that nobody watched may not have been the only one.
        """
        now, told = self._now(), self._health.get((node.name, Aspect.READY))
        at = min(node.ready_since, now) if node.ready_since else now
        if told is None or (placed.seats and told.since < placed.since):
            self._tell_aspect(node.name, Aspect.READY, max(at, placed.since), int(node.ready))
            return 0
        unsure = seen_until is not None and node.ready_since > max(seen_until, told.since)
        if unsure and seen_until is not None and not told.value:
            # That it stayed lost is not known either.
            self._tell_aspect(node.name, Aspect.READY, max(seen_until, placed.since), 1)
        told = self._health[node.name, Aspect.READY]
        if told.value != int(node.ready):
            self._tell_aspect(node.name, Aspect.READY, max(at, told.since), int(node.ready))
        return at if unsure else 0

    def _doubt(self, server: str, seats: int, start: int, end: int) -> None:
        """Tell that so many seats' condition over [start, end) cannot be known."""
        if start < end:
            self._tell_aspect(server, Aspect.DOUBTED, start, seats)
            self._tell_aspect(server, Aspect.DOUBTED, end, 0)

    def _tell_aspect(self, server: str, aspect: Aspect, since: int, value: int) -> None:
        since = _after(self._health.get((server, aspect)), since)
        fact = self._unlike((server, aspect), Health(server, aspect, since, value, self._now()))
        self._health[server, aspect] = fact
        self._put(fact)

    def _tell_window(self, node: Node, rules: Programme) -> None:
        start, end = _window(node.maintenance)
        told = self._announced.get(node.name)
        if (start, end) == ((told.start, told.end) if told else (0, 0)):
            return
        since = _after(told, self._now())
        fact = Announced(node.name, since, start, end, rules.maintenance_notice_seconds)
        fact = self._unlike(("window", node.name), fact)
        self._announced[node.name] = fact
        self._put(fact)

    # -- grants --------------------------------------------------------------------------------------

    def _tell_claims(self, server: Server) -> None:
        told = self._claims.setdefault(server.name, {})
        have = {booking.grant for booking in server.bookings}
        for uid in sorted(have | told.keys()):
            before = told.get(uid)
            if (before is not None and before.has) == (uid in have):
                continue
            state = self._world.grants.get(uid)
            since = self._dated(state.grant.created if state else 0, before is not None)
            fact = Claimed(server.name, uid, _after(before, since), uid in have)
            told[uid] = fact = self._unlike((server.name, uid), fact)
            self._put(fact)

    def _take_shared_grants(self) -> None:
        world = self._world
        for uid, state in world.grants.items():
            if state.shared or uid in self._seated:
                self._tell_seats(uid, state)
        for uid in [uid for uid in self._seated if uid not in world.grants and self._seated[uid].seats]:
            fact = Seated(uid, _after(self._seated[uid], self._now()))
            self._seated[uid] = fact = self._unlike(("seats", uid), fact)
            self._put(fact)

    def _tell_seats(self, uid: str, state: GrantState) -> None:
        pool = self._world.pools.get(state.pool) if state.shared else None
        spec = pool.pool.spec if pool else None
        told = self._seated.get(uid)
        since = _after(told, self._dated(state.grant.created, told is not None))
        fact = Seated(uid, since)
        if pool is not None and spec is not None and state.seats:
            place = (spec.programme, spec.provider, pool.pool.name, spec.gpu_type, state.line[2])
            fact = Seated(uid, since, *place, state.seats)
        if _but_since(fact) != _but_since(told or Seated(uid, 0)):
            self._seated[uid] = fact = self._unlike(("seats", uid), fact)
            self._put(fact)

    def _tell_contract(self, fact: Contracted) -> None:
        told = self._contracted.get(fact.pool)
        if told is None or _but_since(told) != _but_since(fact):
            fact = self._unlike(("contract", fact.pool), replace(fact, since=_after(told, fact.since)))
            self._contracted[fact.pool] = fact
            self._put(fact)


def _after(told: Dated | None, since: int) -> int:
    """Return since when the next fact of a subject holds: facts of one subject are told in order."""
    return since if told is None else max(since, told.since)


def _contract(state: PoolState, since: int, rules: Programme) -> Contracted:
    spec = state.pool.spec
    assert spec
    return Contracted(
        state.pool.name,
        since,
        spec.programme,
        spec.provider,
        spec.gpu_type,
        tuple(
            Instalment(
                instant_of(part.due, ZoneInfo(rules.time_zone)),
                part.gpus,
                part.gpus if part.public_gpus is None else part.public_gpus,
            )
            for part in spec.delivery or ()
        ),
        spec.public_share.gpus if spec.public_share else -1,
    )


def _window(text: str) -> tuple[int, int]:
    """Return the maintenance window of a node's annotation, START/END; (0, 0) for none or one that is none."""
    start, slash, end = text.partition("/")
    if not slash:
        return 0, 0
    try:
        moments = [datetime.fromisoformat(one.strip()) for one in (start, end)]
    except ValueError:
        return 0, 0
    if any(one.tzinfo is None for one in moments):
        return 0, 0
    first, last = (int(one.timestamp()) for one in moments)
    return (first, last) if first < last else (0, 0)


def _but_since(fact: Placed | Seated | Contracted) -> Placed | Seated | Contracted:
    return replace(fact, since=0)
