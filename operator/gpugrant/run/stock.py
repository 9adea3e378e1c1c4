"""Taking stock: what the world and the nodes say of every seat, told to the ledger as dated facts, each once.

Health comes with the nodes' events; whose a server is comes out of plans. Facts are told when they change. What
changed while nobody watched is doubted for as long as that may be: such seats are Unobserved, never guessed.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from gpugrant.api.grant import instant_of
from gpugrant.config import Programme
from gpugrant.decide.state import OWN_USE, GrantState, PoolState, Server
from gpugrant.decide.world import World
from gpugrant.meter.facts import (
    Announced,
    Claimed,
    Contracted,
    Health,
    Instalment,
    Named,
    Owner,
    Placed,
    Seated,
    Unwell,
)
from gpugrant.model.node import Node
from gpugrant.model.objects import Quota
from gpugrant.model.pod import Pod
from gpugrant.run.server_health import ServerHealth
from gpugrant.run.telling import StockFact, Telling


class Stock:
    """What was told last, and the telling of what is otherwise now. ``put`` queues a fact for the ledger."""

    def __init__(self, world: World, put: Callable[[StockFact], None], now: Callable[[], int]) -> None:
        self._world = world
        self._telling = Telling(put, now)
        self._now = now
        self._placed: dict[str, Placed] = {}
        self._health = ServerHealth(self._telling)
        self._announced: dict[str, Announced] = {}
        self._claims: dict[str, dict[str, Claimed]] = {}
        self._unwell: dict[str, Unwell] = {}
        self._seated: dict[str, Seated] = {}
        self._contracted: dict[str, Contracted] = {}
        self._named: dict[str, Named] = {}
        self._of_pool: dict[str, set[str]] = {}  # servers by the pool they were told to be of
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
                    self._health.load(fact)
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
        if placed is None or not self._health.is_present(name):
            return
        self._health.tell_gone(name, placed.seats, at, seen_until)
        if placed.seats:
            self._place(Placed(name, at))

    def observe_pod(self, pod: Pod, *, unwatched: bool = False) -> None:
        """Tell how many of a pod's seats are called unhealthy; ``unwatched``: it may have changed before now."""
        told = self._unwell.get(pod.uid)
        if pod.ended:
            self._unwell.pop(pod.uid, None)
        elif pod.node and pod.unwell != (told.seats if told else 0):
            if unwatched:
                self._health.doubt_pod(pod.node, abs(pod.unwell - (told.seats if told else 0)))
            fact = Unwell(pod.uid, pod.node, self._now(), pod.unwell)
            self._unwell[pod.uid] = self._telling.tell(("pod", pod.uid), told, fact)

    def pod_gone(self, pod: Pod) -> None:
        """Forget a pod."""
        self._unwell.pop(pod.uid, None)

    def observe_quota(self, quota: Quota) -> None:
        """Tell a tenant's display name."""
        name = (quota.spec.display_name or "") if quota.spec else ""
        told = self._named.get(quota.name)
        if name != (told.display_name if told else ""):
            self._named[quota.name] = fact = Named(quota.name, self._now(), name)
            self._telling.put(fact)

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

    def _tell_health(self, node: Node, placed: Placed, seen_until: int | None) -> None:
        pool = self._world.pools.get(placed.pool)
        self._health.tell(node, placed, pool.resource if pool else "", seen_until)

    def _place(self, fact: Placed) -> None:
        told = self._placed.get(fact.server)
        if told is not None and _but_since(told) == _but_since(fact):
            return
        self._note_placed(self._telling.tell(fact.server, told, fact))

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

    def _tell_window(self, node: Node, rules: Programme) -> None:
        start, end = _window(node.maintenance)
        told = self._announced.get(node.name)
        if (start, end) == ((told.start, told.end) if told else (0, 0)):
            return
        fact = Announced(node.name, self._now(), start, end, rules.maintenance_notice_seconds)
        self._announced[node.name] = self._telling.tell(("window", node.name), told, fact)

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
            fact = Claimed(server.name, uid, since, uid in have)
            told[uid] = self._telling.tell((server.name, uid), before, fact)

    def _take_shared_grants(self) -> None:
        world = self._world
        for uid, state in world.grants.items():
            if state.shared or uid in self._seated:
                self._tell_seats(uid, state)
        for uid in [uid for uid in self._seated if uid not in world.grants and self._seated[uid].seats]:
            told = self._seated[uid]
            self._seated[uid] = self._telling.tell(("seats", uid), told, Seated(uid, self._now()))

    def _tell_seats(self, uid: str, state: GrantState) -> None:
        pool = self._world.pools.get(state.pool) if state.shared else None
        spec = pool.pool.spec if pool else None
        told = self._seated.get(uid)
        since = self._dated(state.grant.created, told is not None)
        fact = Seated(uid, since)
        if pool is not None and spec is not None and state.seats:
            place = (spec.programme, spec.provider, pool.pool.name, spec.gpu_type, state.line[2])
            fact = Seated(uid, since, *place, state.seats)
        if _but_since(fact) != _but_since(told or Seated(uid, 0)):
            self._seated[uid] = self._telling.tell(("seats", uid), told, fact)

    def _tell_contract(self, fact: Contracted) -> None:
        told = self._contracted.get(fact.pool)
        if told is None or _but_since(told) != _but_since(fact):
            self._contracted[fact.pool] = self._telling.tell(("contract", fact.pool), told, fact)


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
