"""All that is observed, wired to one world: caches of pods, nodes, namespaces; our own kinds; settings.

Everything here runs on one event loop and calls the world synchronously, in the order of events; the
planner is woken through ``changed`` and drains what has come by simply planning on the world as it is.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from prometheus_client import CollectorRegistry

from gpugrant import names
from gpugrant.config import Settings, SettingsError, load_settings
from gpugrant.model.node import Node
from gpugrant.model.objects import Grant, Namespace, Pool, Quota
from gpugrant.model.pod import Pod
from gpugrant.observe.adopt import Adoption
from gpugrant.observe.cache import Cache, Receiver
from gpugrant.observe.client import ApiError, Client
from gpugrant.observe.cluster_kinds import NAMESPACES, NODES, PODS, SETTINGS, SettingsText
from gpugrant.observe.health import CacheHealth, CacheMetrics
from gpugrant.observe.kinds import OWN_KINDS, Own, OwnKinds
from gpugrant.observe.listeners import Meter, World

log = logging.getLogger(__name__)

SettingsTold = Callable[[SettingsText, Settings | None, str, str], None]


class Observer:
    """Feeds one world (and, where there is one, the meter) with what the API server says."""

    def __init__(
        self,
        client: Client,
        world: World,
        registry: CollectorRegistry,
        clock: Callable[[], int],
        meter: Meter | None = None,
        settings_told: SettingsTold | None = None,
    ) -> None:
        self.world = world
        self.changed = asyncio.Event()
        self.settings = Settings()
        self.nodes_gone: dict[str, int] = {}  # when the object of a node went that pods may still name
        self._nodes_told: set[str] = set()
        self._meter = meter
        self._clock = clock
        self._settings_told = settings_told
        self._settings_digest = ""
        metrics = CacheMetrics(registry)
        self.health = {
            kind: CacheHealth(kind, metrics) for kind in ("pods", "nodes", "namespaces", "settings")
        }
        self.pods = Cache(
            client, PODS, Receiver(self._put_labelled, self._drop_labelled), self.health["pods"]
        )
        self.nodes = Cache(
            client,
            NODES,
            Receiver(self._put_node, self._drop_node),
            self.health["nodes"],
        )
        self.namespaces = Cache(
            client,
            NAMESPACES,
            Receiver(self._put_namespace, self._drop_namespace),
            self.health["namespaces"],
        )
        self.settings_map = Cache(
            client, SETTINGS, Receiver(self._put_settings, self._drop_settings), self.health["settings"]
        )
        self.own = OwnKinds(client, self._put_own, self._drop_own)
        self.adoption = Adoption(
            client, self._put_adopted, self._drop_adopted, self._overhead, self.resources
        )

    @property
    def caches(self) -> tuple[Cache[Any], ...]:
        """Return all LIST+WATCH caches."""
        return (self.settings_map, self.namespaces, self.nodes, self.pods)

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return the loops that keep caches and own kinds true, to be run as tasks."""
        return [
            *(cache.run() for cache in self.caches),
            *(self.own.run(kind) for kind in OWN_KINDS),
            self.adoption.run(),
        ]

    async def look_once(self) -> None:
        """LIST everything once and watch nothing: for commands. Raises ApiError."""
        for kind in OWN_KINDS:  # pools first: each that comes later has every pod counted again
            await self.own.sweep(kind)
        for cache in self.caches:
            await cache.list_once()
        await self.adoption.sweep()

    async def first_look(self) -> None:
        """Wait until everything has been seen once; caches must be running. Then a plan may be made."""
        await asyncio.gather(*(cache.synced.wait() for cache in self.caches))
        await self.own.sweep_all()
        while True:
            try:
                await self.adoption.sweep()
                break
            except ApiError as error:
                log.warning("cannot list all pods: %s; trying again", error)
                await asyncio.sleep(1)
        for pod in self.world.account_anew():  # kinds come in any order
            log.warning("pod %s/%s is marked with a grant of another tenant: not believed", pod.namespace, pod.name)

    def resources(self) -> frozenset[str]:
        """Return the resource names that pools name."""
        return frozenset(
            pool.spec.resource_name for pool in self.own.of("GpuPool") if isinstance(pool, Pool) and pool.spec
        )

    def pod(self, uid: str) -> Pod | None:
        """Return a GPU pod as it is known now."""
        return self.pods.get(uid) or self.adoption.get(uid)

    def node(self, name: str) -> Node | None:
        """Return a node as it is known now."""
        return self.nodes.get(name)

    def feed_node(self, body: bytes) -> None:
        """Take in the answer to a write on a node."""
        self.nodes.feed(body)

    def feed_pod(self, uid: str, body: bytes) -> None:
        """Take in the answer to a write on a pod."""
        self.pods.feed(body)
        self.adoption.feed(uid, body)

    def pod_gone(self, uid: str) -> None:
        """Take in that a pod is no more."""
        self.pods.gone(uid, uid)
        self.adoption.gone(uid)

    # -- from the caches to the world ----------------------------------------------------------------

    def _put_labelled(self, pod: Pod) -> None:
        self.adoption.labelled(pod.uid)
        self._put_pod(pod)

    def _put_pod(self, pod: Pod) -> None:
        pod = pod.still_knowing(self.world.pods.get(pod.uid))
        self.world.put_pod(pod)
        if self._meter is not None:
            self._meter.observe_pod(pod)
        self.changed.set()

    def _drop_labelled(self, _key: str, pod: Pod, missed: float | None) -> None:
        self._drop_pod(pod, missed)

    def _put_adopted(self, pod: Pod) -> None:
        if self.pods.get(pod.uid) is None:  # a LIST may be older than the label
            self._put_pod(pod)

    def _drop_adopted(self, pod: Pod, missed: float) -> None:
        if self.pods.get(pod.uid) is None:
            self._drop_pod(pod, missed)

    def _drop_pod(self, pod: Pod, missed: float | None) -> None:
        """Forget a pod; where it went unseen, the meter is told until when it would have been seen."""
        pod = pod.still_knowing(self.world.pods.get(pod.uid))
        self.world.drop_pod(pod.uid)
        if self._meter is not None:
            self._meter.pod_gone(pod, self._clock(), self._seen_until(missed))
        self.changed.set()

    def _put_node(self, node: Node) -> None:
        self.nodes_gone.pop(node.name, None)
        self.world.put_node(node)
        if node.name not in self._nodes_told:  # the world forgot, or never could take, what is used there
            self._nodes_told.add(node.name)
            self.adoption.tell_overhead(node.name)
        if self._meter is not None:
            self._meter.observe_node(node, self._seen_until(self.health["nodes"].missed()))
        self.changed.set()

    def _drop_node(self, name: str, _node: Node, missed: float | None) -> None:
        self.nodes_gone[name] = self._clock()
        self._nodes_told.discard(name)
        self.world.drop_node(name)
        if self._meter is not None:
            self._meter.node_gone(name, self._clock(), self._seen_until(missed))
        self.changed.set()

    def _seen_until(self, missed: float | None) -> int | None:
        """Return a monotonic time as epoch seconds."""
        return None if missed is None else self._clock() - int(time.monotonic() - missed)

    def _put_namespace(self, namespace: Namespace) -> None:
        self.world.put_namespace(namespace)
        self._world_changed(namespace.name)
        self.changed.set()

    def _drop_namespace(self, name: str, _namespace: Namespace, _missed: float | None) -> None:
        self.world.drop_namespace(name)
        self.changed.set()

    def _world_changed(self, namespace: str = "") -> None:
        if self._meter is not None:
            self._meter.world_changed(namespace)

    def _overhead(self, node: str, cpu_milli: int, memory: int) -> None:
        self.world.set_overhead(node, cpu_milli, memory)
        self.changed.set()

    def _put_own(self, item: Own) -> None:
        match item:
            case Pool():
                self.world.put_pool(item)
                self._world_changed()
            case Quota():
                self.world.put_quota(item)
                if self._meter is not None:
                    self._meter.observe_quota(item)
            case Grant():
                self.world.put_grant(item)
                if self._meter is not None:
                    self._meter.observe_grant(item)
        self.changed.set()

    def _drop_own(self, item: Own) -> None:
        match item:
            case Pool():
                self.world.drop_pool(item.name)
                self._world_changed()
            case Quota():
                self.world.drop_quota(item.name)
            case Grant():
                self.world.drop_grant(item.uid)
        self.changed.set()

    # -- settings ------------------------------------------------------------------------------------

    def remember_settings(self, text: str) -> None:
        """Start from the settings that were good last, as the ledger has them; a bad version changes nothing then."""
        try:
            self.settings = load_settings(text)
        except SettingsError as error:  # written by a version of ours that allowed more
            log.error("settings of the ledger cannot be read any more: %s", error)
            return
        self.world.set_settings(self.settings)

    def _put_settings(self, config_map: SettingsText) -> None:
        """Load a version of the settings; a bad one is refused in words and the last good one stays."""
        digest = hashlib.sha256(config_map.text.encode()).hexdigest()
        if digest == self._settings_digest:
            return
        self._settings_digest = digest
        settings: Settings | None = None
        message = ""
        try:
            settings = load_settings(config_map.text)
        except SettingsError as error:
            message = str(error)
            log.error("settings %s refused, the last good ones stay: %s", digest[:12], message)
        else:
            log.info("settings %s loaded (sha256 of the text)", digest)
            self.settings = settings
            self.world.set_settings(settings)
            if self._meter is not None:
                self._meter.observe_settings(digest, config_map.text, settings)
                self._meter.world_changed()  # dates mean midnight in the programme's zone
            self.changed.set()
        if self._settings_told is not None:
            self._settings_told(config_map, settings, digest, message)

    def _drop_settings(self, _key: str, _config_map: SettingsText, _missed: float | None) -> None:
        log.warning("ConfigMap %s is gone; the last good settings stay", names.SETTINGS_CONFIGMAP)
        self._settings_digest = ""
