"""The meter, wired to the world: what the observer tells it and what it asks for."""

from collections.abc import Callable

from gpugrant.config import Settings
from gpugrant.decide.world import World
from gpugrant.meter.facts import Account, Dimensions
from gpugrant.meter.intervals import NodeFacts
from gpugrant.meter.meter import Meter
from gpugrant.meter.store import Store
from gpugrant.model.node import Node
from gpugrant.model.objects import Grant, Quota
from gpugrant.model.pod import Pod
from gpugrant.run.accounts import calendars_of, dimensions_of, terms_of
from gpugrant.run.stock import Stock

# How far other watches may be behind that of pods before what is not known counts as gone.
LATEST_SECONDS = 60


class Metering:
    """The observer's meter. Made before observer and writer: ``strip``, ``gone``, ``fresh`` come later.

    ``clock`` is the API server's, in epoch seconds. ``fresh`` says until when the cache of pods is known to be so, and
    is that clock while there is no cache: nothing is dated by the host's.

    Nothing is booked before all has been seen once: what a pod's account is rests on objects of four kinds
    that come in any order, and it stays as it was at bind.
    """

    def __init__(
        self,
        url: str,
        world: World,
        on_admitted: Callable[[Account, int], None],
        clock: Callable[[], float],
    ) -> None:
        self.strip: Callable[[Pod], None] = lambda _: None
        self.gone: dict[str, int] = {}
        self.fresh = clock
        self._world = world
        self._clock = clock
        self._seen_once = False
        self._stocked = False
        self._read_by: object = None  # what the terms of grants were last read by
        self.store = Store(url, now=clock)
        self.meter = Meter(
            self.store,
            resolve=self._resolve,
            on_recorded=self._recorded,
            clock=self._now,
            node_facts=lambda name: NodeFacts(self.gone.get(name, 0)),
            on_admitted=on_admitted,
        )
        self.stock = Stock(world, self.meter.observe, lambda: int(clock()))

    def _recorded(self, pod: Pod) -> None:
        self.strip(pod)

    def _now(self) -> float:
        return self.fresh()

    def _resolve(self, pod: Pod) -> Dimensions | None:
        if not self._seen_once:
            return None
        # Of a pod just bound, what it rests on may be yet to come: each kind has a watch of its own.
        late = self._clock() - (pod.scheduled_at or pod.created) >= LATEST_SECONDS
        if pod.namespace not in self._world.namespaces and not late:
            return None
        return dimensions_of(self._world, self._world.accounted(pod), gone=late or pod.node in self.gone)

    def first_look_complete(self) -> None:
        """Take note that own kinds, nodes, namespaces and pods have all been seen once."""
        self._seen_once = True
        self.world_changed()
        self.meter.listing_complete()

    def observe_pod(self, pod: Pod) -> None:
        """Take note of a pod as it is now."""
        self.meter.observe_pod(pod)
        self.stock.observe_pod(pod)

    def pod_gone(self, pod: Pod, at: int, seen: int | None = None) -> None:
        """Take note that a pod's object is gone."""
        self.meter.pod_gone(pod, at, seen)
        self.stock.pod_gone(pod)

    def observe_node(self, node: Node, seen_until: int | None = None) -> None:
        """Take note of a node as it is now."""
        self.stock.observe_node(node, seen_until)

    def node_gone(self, name: str, at: int, seen_until: int | None = None) -> None:
        """Take note that a node's object is gone."""
        self.stock.node_gone(name, at, seen_until)

    def observe_quota(self, quota: Quota) -> None:
        """Take note of a tenant's name."""
        self.stock.observe_quota(quota)

    def planned(self) -> None:
        """Take note of what a plan has decided about servers."""
        tally = self.meter.tally()
        if not self._seen_once or tally is None:
            return  # what was told before is not known yet
        if not self._stocked:
            self._stocked = True
            self._world.take_booked(tally.held_on())
            self.stock.load(self.store.in_force(), self.store.kept_until)
            for pod in self._world.pods.values():  # what was seen before now was not compared with what was told
                self.stock.observe_pod(pod, unwatched=True)
        self.stock.take()

    def observe_grant(self, grant: Grant) -> None:
        """Take note of a grant's term."""
        terms = terms_of(self._world, grant) if self._seen_once else None
        if terms is not None:
            self.meter.observe_terms(terms)

    def world_changed(self, namespace: str = "") -> None:
        """Take note that pools, settings or a namespace changed: terms may mean something else by now."""
        if not self._seen_once:
            return
        pools = (one.pool for _, one in sorted(self._world.pools.items()))
        read_by = (
            self._world.settings,
            [(pool.name, pool.spec.programme, pool.spec.gpu_type) for pool in pools if pool.spec],
        )
        every = read_by != self._read_by
        self._read_by = read_by
        for state in list(self._world.grants.values()) if every or namespace else ():
            if every or state.grant.namespace == namespace:
                self.observe_grant(state.grant)

    def observe_settings(self, digest: str, text: str, settings: Settings) -> None:
        """Take note of the settings now in force."""
        self.meter.observe_settings(digest, text, calendars_of(settings))
