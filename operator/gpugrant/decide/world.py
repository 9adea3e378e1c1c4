"""The planner's view of the cluster, kept up to date one fact at a time.

put_* and drop_* take facts; each costs time in proportion to what changed, never to the fleet, and notes what has
to be decided again. ``plan.make_plan`` reads the notes. A world fed by events and a world made from a snapshot
decide alike: nothing here depends on the order in which facts came.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import defaultdict
from typing import Any

from gpugrant import names
from gpugrant.config import Settings
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
from gpugrant.decide.seats import FreeSeats
from gpugrant.decide.state import OWN_USE, Gang, GrantState, Lane, LaneKey, PoolState, Server, Tally, Usage
from gpugrant.model.node import Node
from gpugrant.model.objects import Grant, Namespace, Pool, Quota
from gpugrant.model.pod import Pod
from gpugrant.model.snapshot import Snapshot

LARGEST_GANG = 100_000


class Entry:
    """What a pod was counted as, so that it can be counted back exactly."""

    __slots__ = ("gang", "grant", "kind", "lane", "seats", "server", "tenant")

    def __init__(self, kind: str, seats: int) -> None:
        self.kind = kind  # waiting, reserved, held, fenced, loose
        self.seats = seats
        self.server = ""
        self.grant = ""
        self.tenant = ""
        self.lane: LaneKey | None = None
        self.gang: tuple[str, str] | None = None


class World:
    """Facts, indexes over them, decisions assumed until the API confirms them, and what is dirty."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.servers: dict[str, Server] = {}
        self.by_hostname: dict[str, str] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.pools: dict[str, PoolState] = {}
        self.quotas: dict[str, Quota] = {}
        self.grants: dict[str, GrantState] = {}
        self.grant_at: dict[tuple[str, str], str] = {}
        self.pods: dict[str, Pod] = {}
        self.entries: dict[str, Entry] = {}
        self.usage: dict[str, Usage] = defaultdict(Usage)
        self.gangs: dict[tuple[str, str], Gang] = {}
        self.gang_of_ended: dict[str, tuple[str, str]] = {}
        self.lanes: dict[str, dict[LaneKey, Lane]] = defaultdict(dict)  # by tenant
        self.buckets: dict[tuple[str, ...], FreeSeats] = defaultdict(FreeSeats)
        self.fenced: dict[str, set[str]] = defaultdict(set)  # provider -> own pods without a server yet
        self.resources: frozenset[str] = frozenset({names.DEFAULT_RESOURCE})
        # decided, and assumed until confirmed
        self.assumed: dict[str, ReleasePod] = {}
        self.writing: dict[str, WriteServer] = {}
        self.telling: dict[tuple[str, str, str], dict[str, object]] = {}
        self.told: dict[str, str] = {}  # uid -> message on its way to the pod
        self.evicting: dict[str, int] = {}
        self.labelling: set[str] = set()
        self.policies: SetPolicies | None = None
        # memory that no object carries
        self.places: dict[str, str] = {}  # uid -> server where the seats of a released pod are reserved
        self.backoff: dict[str, tuple[int, int]] = {}  # unit -> (tries, until)
        self.parked: dict[str, int] = {}  # uid -> until (0: till something about its tenant changes)
        self.failures: dict[str, int] = defaultdict(int)
        self.never_fits: dict[tuple[object, ...], str] = {}
        self.why_waiting: dict[str, str] = {}
        self.recheck: list[tuple[int, str]] = []  # (when, server)
        self.retry_at: dict[str, int] = {}
        self.status_at: dict[tuple[str, str, str], int] = {}
        # what has to be decided again
        self.dirty_pools: set[str] = set()
        self.dirty_lines: set[tuple[str, str, str]] = set()
        self.dirty_servers: set[str] = set()
        self.dirty_tenants: set[str] = set()
        self.dirty_status: set[tuple[str, str, str]] = set()  # kind, namespace, name
        self.tally: dict[tuple[str, str], Tally] = defaultdict(Tally)  # by pool and share
        self.granted: dict[tuple[str, str], int] = {}
        self.waiting_seats: dict[str, dict[LaneKey, int]] = defaultdict(lambda: defaultdict(int))
        self.used_seconds: dict[str, int] = {}  # by grant uid, from the meter
        self.month_seconds: dict[str, int] = {}
        self.leaving: dict[str, set[str]] = {}  # grant -> servers it leaves once nothing could bind there
        self.fence_waits: set[str] = set()  # servers that a grant gets once no fenced pod could come there
        self.tainted: dict[str, set[str]] = defaultdict(set)  # resource -> nodes that carry our taint for it
        self.unlabelled: set[str] = set()
        self.tell_again: set[tuple[str, str, str]] = set()
        self.hour = 0
        self.now = 0  # of the plan being made
        self.figures_changed: set[tuple[str, str, str]] = set()
        self.unexplained: dict[str, set[str]] = defaultdict(set)  # tenant -> uids
        self.all_dirty = True
        self.placement_changed = False  # nodes' labels or taints: what never fitted may fit
        self._tenants_stale = True
        self._tenant_grants: dict[str, list[str]] = {}
        self.deadlines: list[tuple[int, str]] = []  # bind time-outs: (when, uid)
        self.wakes: list[int] = []
        self.edges: list[tuple[int, str]] = []  # (when a grant starts, ends, leaves grace; uid)

    @classmethod
    def of(cls, snapshot: Snapshot) -> World:
        """Return a world made from scratch."""
        world = cls(snapshot.settings)
        for namespace in snapshot.namespaces.values():
            world.put_namespace(namespace)
        for pool in snapshot.pools.values():
            world.put_pool(pool)
        for node in snapshot.nodes.values():
            world.put_node(node)
        for quota in snapshot.quotas.values():
            world.put_quota(quota)
        for grant in snapshot.grants.values():
            world.put_grant(grant)
        for pod in snapshot.pods.values():
            world.put_pod(pod)
        return world

    # -- settings, namespaces, our own kinds ---------------------------------------------------------

    def set_settings(self, settings: Settings) -> None:
        """Take new settings: everything is judged again."""
        self.settings = settings
        self._recount_all()

    def put_namespace(self, namespace: Namespace) -> None:
        """Take a namespace; its pods are counted again when what it stands for has changed."""
        old = self.namespaces.get(namespace.name)
        if old == namespace:
            return
        self.namespaces[namespace.name] = namespace
        if old is None or (old.tenant, old.provider) != (namespace.tenant, namespace.provider):
            self._recount_namespace(namespace.name)

    def drop_namespace(self, name: str) -> None:
        """Forget a namespace."""
        if self.namespaces.pop(name, None):
            self._recount_namespace(name)

    def put_pool(self, pool: Pool) -> None:
        """Take a pool."""
        old = self.pools.get(pool.name)
        if old and old.pool.spec == pool.spec and old.pool.uid == pool.uid:
            old.pool = pool
            self.dirty_status.add(("GpuPool", "", pool.name))
            return
        self.pools[pool.name] = PoolState(pool)
        self._pools_changed()

    def drop_pool(self, name: str) -> None:
        """Forget a pool."""
        if self.pools.pop(name, None):
            self._pools_changed()

    def put_quota(self, quota: Quota) -> None:
        """Take a tenant's quota."""
        old = self.quotas.get(quota.name)
        self.quotas[quota.name] = quota
        self.dirty_status.add(("TenantQuota", "", quota.name))
        if old is None or old.spec != quota.spec:
            self._tenant_changed(quota.name)

    def drop_quota(self, name: str) -> None:
        """Forget a tenant's quota."""
        if self.quotas.pop(name, None):
            self._tenant_changed(name)

    def put_grant(self, grant: Grant) -> None:
        """Take a grant."""
        old = self.grants.get(grant.uid)
        self.dirty_status.add(("GpuGrant", grant.namespace, grant.name))
        if old and old.grant.spec == grant.spec and old.grant.deleting == grant.deleting:
            old.grant = grant
            return
        if old:
            self.dirty_lines.add(old.line)
            old.grant = grant
        else:
            self.grants[grant.uid] = GrantState(grant)
            self.grant_at[grant.namespace, grant.name] = grant.uid
        self.dirty_lines.add(self.line_of(grant))
        self._tenant_changed(self.tenant_of(grant.namespace))

    def drop_grant(self, uid: str) -> None:
        """Forget a grant. What its pods hold stays counted until they end."""
        state = self.grants.pop(uid, None)
        if state is None:
            return
        key = (state.grant.namespace, state.grant.name)
        if self.grant_at.get(key) == uid:
            del self.grant_at[key]
        self.dirty_lines.update((state.line, self.line_of(state.grant)))
        self._tenant_changed(state.tenant or self.tenant_of(state.grant.namespace))
        self.dirty_servers.update(state.servers)
        self.dirty_servers.update(self.buckets[("grant", uid)].names())

    def line_of(self, grant: Grant) -> tuple[str, str, str]:
        """Return the line a grant stands in: programme, GPU type, share."""
        if grant.spec is None:
            return ("", "", "")
        programme = grant.spec.programme
        if programme is None:
            offering = {
                s.pool.spec.programme
                for s in self.pools.values()
                if s.pool.spec and s.pool.spec.gpu_type == grant.spec.gpu_type
            }
            known = offering if len(offering) == 1 else self.known_programmes()
            programme = next(iter(known)) if len(known) == 1 else ""
        return (programme, grant.spec.gpu_type, grant.spec.share)

    def known_programmes(self) -> set[str]:
        """Return the programmes that the settings or pools name."""
        return {
            *self.settings.programmes,
            *(s.pool.spec.programme for s in self.pools.values() if s.pool.spec),
        }

    def tenant_of(self, namespace: str) -> str:
        """Return the tenant a namespace belongs to, or ''."""
        known = self.namespaces.get(namespace)
        return known.tenant if known else ""

    # -- nodes ---------------------------------------------------------------------------------------

    def put_node(self, node: Node) -> None:
        """Take a node."""
        server = self.servers.get(node.name)
        if server is None:
            server = self.servers[node.name] = Server(node.name)
        old, server.node = server.node, node
        if old is None or old.labels.get(names.HOSTNAME_LABEL) != node.labels.get(names.HOSTNAME_LABEL):
            self.by_hostname[node.labels.get(names.HOSTNAME_LABEL, node.name)] = node.name
        if old is None or _placement(old, self.resources) != _placement(node, self.resources):
            self.placement_changed = True
        if old is None or _matters(old) != _matters(node):
            self._claim(server)
            self._server_changed(server)
        if old is None or old.labels.get(names.GRANT_UID_LABEL) != node.labels.get(names.GRANT_UID_LABEL):
            for uid in {
                node.labels.get(names.GRANT_UID_LABEL),
                old and old.labels.get(names.GRANT_UID_LABEL),
            }:
                state = self.grants.get(uid or "")
                if state:
                    self.dirty_status.add(("GpuGrant", state.grant.namespace, state.grant.name))
        if old is None or old.labels.get(names.SHARED_FOR_LABEL) != node.labels.get(names.SHARED_FOR_LABEL):
            self._server_changed(server)  # a shared server is in nobody's calendar while it is open
        if old is not None and any(
            k in names.NODE_LABELS and v != node.labels.get(k) for k, v in old.labels.items()
        ):
            self._share_may_change(server.pool)
        self._note_taints(server, old, node)
        self.dirty_servers.add(node.name)
        self.stand(server)

    def _note_taints(self, server: Server, old: Node | None, new: Node | None) -> None:
        for node, note in ((old, set.discard), (new, set.add)):
            for taint in node.taints if node else ():
                if taint.value == names.TAINT_VALUE and node and node.seats_installed(taint.key):
                    note(self.tainted[taint.key], server.name)

    def drop_node(self, name: str) -> None:
        """Forget a node; pods that name it stay counted until they end."""
        server = self.servers.get(name)
        if server is None or server.node is None:
            return
        self.by_hostname.pop(server.node.labels.get(names.HOSTNAME_LABEL, name), None)
        self._server_changed(server)
        self._unclaim(server)
        self._note_taints(server, server.node, None)
        server.node = None
        server.share = ""
        server.bookings = []
        self.stand(server)
        self.writing.pop(name, None)
        if not server.pods:
            del self.servers[name]

    def set_overhead(self, node: str, cpu_milli: int, memory: int) -> None:
        """Take what pods without GPUs use of a server (requests)."""
        server = self.servers.get(node)
        if server:
            server.overhead_cpu, server.overhead_memory = cpu_milli, memory

    def _claim(self, server: Server) -> None:
        node = server.node
        assert node
        claims = tuple(
            name
            for name, state in sorted(self.pools.items())
            if state.pool.spec and _selects(state, node.labels)
        )
        if claims != server.claims or (claims and server.pool == "" and len(claims) == 1):
            self._unclaim(server)
            server.claims = claims
            for name in claims:
                (self.pools[name].servers if len(claims) == 1 else self.pools[name].doubtful).add(server.name)
            server.pool = claims[0] if len(claims) == 1 else ""
            self._recount_server(server)
        spec = self.pools[server.pool].pool.spec if server.pool else None
        fabric = node.labels.get(spec.fabric_label, "") if spec else ""
        server.fabric = fabric or f"node:{node.name}"

    def _unclaim(self, server: Server) -> None:
        for name in server.claims:
            state = self.pools.get(name)
            if state:
                state.servers.discard(server.name)
                state.doubtful.discard(server.name)
                self.dirty_pools.add(name)
                self.dirty_status.add(("GpuPool", "", name))
        server.claims, server.pool = (), ""

    def _server_changed(self, server: Server) -> None:
        for name in server.claims:
            self.dirty_pools.add(name)
            self.dirty_status.add(("GpuPool", "", name))

    def _pools_changed(self) -> None:
        self.resources = frozenset(
            {names.DEFAULT_RESOURCE} | {s.resource for s in self.pools.values() if s.pool.spec}
        )
        for state in self.pools.values():
            state.servers.clear()
            state.doubtful.clear()
        for server in self.servers.values():
            server.claims, server.pool = (), ""
            if server.node:
                self._claim(server)
        self._recount_all()

    def seats_free(self, server: Server) -> int:
        """Return how many seats may still be given out on a server now."""
        state = self.pools.get(server.pool)
        if state is None or server.node is None:
            return 0
        offered = min(state.size, server.node.seats_allocatable(state.resource))
        return max(0, offered - server.seats_used)

    def seats_failed(self, server: Server) -> int:
        """Return how many of a whole server's seats cannot be used (R11)."""
        state = self.pools.get(server.pool)
        if state is None or server.node is None:
            return 0
        if not server.node.ready or server.node.unschedulable:
            return state.size
        return max(0, state.size - server.node.seats_allocatable(state.resource))

    def healthy(self, server: Server) -> bool:
        """Say whether a server can take pods: Ready and not cordoned."""
        return server.node is not None and server.node.ready and not server.node.unschedulable

    def stand(self, server: Server) -> None:
        """Put a server into the bucket its labels say, by its free seats."""
        key: tuple[str, ...] = ()
        if server.pool and self.healthy(server):
            uid = server.label(names.GRANT_UID_LABEL)
            shared = server.label(names.SHARED_FOR_LABEL)
            share = server.label(names.SHARE_LABEL)
            if uid:
                key = ("grant", uid)
            elif shared and server.label(names.POOL_LABEL) == server.pool:
                key = ("shared", server.pool, share, shared)
            elif not server.pods:
                key = ("idle", server.pool, share)
        if server.bucket and server.bucket != key:
            self.buckets[server.bucket].drop(server.name)
        if key:
            if self.buckets[key].put(server.name, self.seats_free(server)):
                self._more_room(key)
        server.bucket = key
        self._tally(server)

    def _tally(self, server: Server) -> None:
        pool, share, installed, failed, held = server.tallied
        if pool:
            tally = self.tally[pool, share]
            tally.installed -= installed
            tally.failed -= failed
            tally.held -= held
        state = self.pools.get(server.pool)
        if state is None or server.node is None:
            server.tallied = ("", "", 0, 0, 0)
            return
        server.tallied = (server.pool, server.share, state.size, self.seats_failed(server), server.seats_held)
        tally = self.tally[server.pool, server.share]
        tally.installed += server.tallied[2]
        tally.failed += server.tallied[3]
        tally.held += server.tallied[4]

    def _share_may_change(self, pool: str) -> None:
        state = self.pools.get(pool)
        if state and state.shares_pending:
            self.dirty_pools.add(pool)

    def _more_room(self, bucket: tuple[str, ...]) -> None:
        if bucket[0] == "grant":
            state = self.grants.get(bucket[1])
            if state:
                self._tenant_waits(state.tenant)
        elif bucket[0] == "shared" and bucket[3] != names.SHARED_FOR_ANYONE:
            self._tenant_waits(bucket[3])
        else:
            for tenant in list(self.lanes):
                self._tenant_waits(tenant)

    def _tenant_waits(self, tenant: str) -> None:
        if self.lanes.get(tenant):
            self.dirty_tenants.add(tenant)

    # -- pods ----------------------------------------------------------------------------------------

    def put_pod(self, pod: Pod) -> None:
        """Take a pod with GPUs."""
        old = self.pods.get(pod.uid)
        if old is not None and old.version == pod.version and old == pod:
            return
        self._count_back(pod.uid)
        if not self.parked.get(pod.uid, 1):
            del self.parked[pod.uid]  # it changed: judge it again
        self._count(pod)

    def drop_pod(self, uid: str) -> None:
        """Forget a pod."""
        self._count_back(uid)
        self.pods.pop(uid, None)
        key = self.gang_of_ended.pop(uid, None)
        if key and key in self.gangs:
            self.gangs[key].bound_once.discard(uid)
            self._tidy_gang(key)
        self._forget_memory(uid)

    def _forget_memory(self, uid: str) -> None:
        memories: tuple[dict[str, Any], ...] = (
            self.assumed,
            self.places,
            self.told,
            self.evicting,
            self.parked,
        )
        for memory in memories:
            memory.pop(uid, None)
        self.why_waiting.pop(uid, None)
        self.labelling.discard(uid)
        for key in (uid, f"explain/{uid}"):
            self.failures.pop(key, None)
            self.retry_at.pop(key, None)

    def seats_of(self, pod: Pod) -> int:
        """Return how many seats a pod asks for, of whatever pools offer."""
        return sum(count for name, count in pod.shape.resources if name in self.resources)

    def gang_key(self, pod: Pod) -> tuple[str, str] | None:
        """Return the gang a pod belongs to, None for a pod on its own."""
        if not pod.gang_size or parse_gang_size(pod.gang_size) is None:
            return None
        return (pod.namespace, pod.gang or pod.controller or pod.name)

    def unit_key(self, pod: Pod) -> str:
        """Return what back-off is counted by: the gang, else the controller, else the pod's name."""
        gang = self.gang_key(pod)
        return "/".join(gang) if gang else f"{pod.namespace}/{pod.controller or pod.name}"

    def _count(self, pod: Pod) -> None:
        gang_key = self.gang_key(pod)
        if pod.ended:
            self.pods.pop(pod.uid, None)
            self._forget_memory(pod.uid)
            if gang_key and pod.scheduled_at:
                self.gang_of_ended[pod.uid] = gang_key
                self._gang(gang_key, pod).bound_once.add(pod.uid)
            return
        self.pods[pod.uid] = pod
        self.told.pop(pod.uid, None) if pod.waiting else None
        entry = Entry("loose", self.seats_of(pod))
        entry.tenant = self.tenant_of(pod.namespace)
        self.entries[pod.uid] = entry
        if not pod.gpu_label:
            self.unlabelled.add(pod.uid)
        if names.GATE in pod.gates:
            release = self.assumed.get(pod.uid)
            if pod.deleting:
                pass
            elif release:
                self._reserve(pod, entry, release.grant_uid, release.server)
            else:
                self._wait(pod, entry)
        else:
            self._count_released(pod, entry)
        if gang_key and entry.kind != "loose":
            entry.gang = gang_key
            gang = self._gang(gang_key, pod)
            if entry.kind == "waiting":
                gang.waiting.add(pod.uid)
                if len(gang.waiting) + len(gang.living) == gang.size:
                    self.unpark(gang.waiting)
            else:
                gang.living.add(pod.uid)
                if entry.kind == "held":
                    gang.bound_once.add(pod.uid)
                    if len(gang.bound_once) >= gang.size:
                        gang.whole = True

    def _count_released(self, pod: Pod, entry: Entry) -> None:
        self.assumed.pop(pod.uid, None)
        if pod.node:
            self.places.pop(pod.uid, None)
            entry.kind, entry.server, entry.grant = "held", pod.node, pod.grant_uid
            if pod.grant_uid:
                usage = self.usage[pod.grant_uid]
                usage.held += entry.seats
                usage.pods[pod.uid] = entry.seats
                self._grant_figures(pod.grant_uid)
            self._occupy(pod, pod.node)
            if not pod.grant_uid and self.servers[pod.node].share != OWN_USE:
                self._server_changed(
                    self.servers[pod.node]
                )  # nobody's grant: no grant is placed here meanwhile
        elif pod.deleting:
            pass  # core refuses to bind what is being deleted: it holds nothing and never will
        elif pod.grant_uid:
            place = self.places.get(pod.uid) or self.by_hostname.get(
                dict(pod.shape.selector).get(names.HOSTNAME_LABEL, ""), ""
            )
            self._reserve(pod, entry, pod.grant_uid, place)
            heapq.heappush(self.deadlines, (self.bind_deadline(pod), pod.uid))
        else:
            provider = dict(pod.shape.selector).get(names.OWN_USE_LABEL, "")
            if provider:
                entry.kind, entry.tenant = "fenced", provider
                self.fenced[provider].add(pod.uid)

    def bind_deadline(self, pod: Pod) -> int:
        """Return when a released pod that is still unbound is taken back."""
        return (pod.released_at or pod.created) + self.settings.bind_timeout_seconds

    def _reserve(self, pod: Pod, entry: Entry, grant_uid: str, place: str) -> None:
        entry.kind, entry.grant, entry.server = "reserved", grant_uid, place
        usage = self.usage[grant_uid]
        usage.reserved += entry.seats
        usage.pods[pod.uid] = entry.seats
        usage.unbound.add(pod.uid)
        self._grant_figures(grant_uid)
        if place:
            self._occupy(pod, place)

    def _wait(self, pod: Pod, entry: Entry) -> None:
        entry.kind = "waiting"
        product = dict(pod.shape.selector).get(names.PRODUCT_LABEL, "")
        resource = ",".join(name for name, _ in pod.shape.resources if name in self.resources)
        if pod.shape.dra:
            resource = "claims"
        entry.lane = (pod.namespace if pod.grant else "", pod.grant, resource, product)
        self.waiting_seats[entry.tenant][entry.lane] += entry.seats
        if pod.uid not in self.parked:
            self._enqueue(pod, entry)
        self.unexplained[entry.tenant].add(pod.uid)
        self.dirty_tenants.add(entry.tenant)
        for uid in self.grants_of(entry.tenant):
            self._grant_figures(uid)

    def _enqueue(self, pod: Pod, entry: Entry) -> None:
        assert entry.lane is not None
        lane = self.lanes[entry.tenant].get(entry.lane)
        if lane is None:
            lane = self.lanes[entry.tenant][entry.lane] = Lane(entry.lane)
        insort(lane.queue, queue_key(pod))

    def _dequeue(self, pod: Pod, entry: Entry) -> None:
        assert entry.lane is not None
        lane = self.lanes[entry.tenant].get(entry.lane)
        if lane is None:
            return
        key = queue_key(pod)
        at = bisect_left(lane.queue, key)
        if at < len(lane.queue) and lane.queue[at] == key:
            del lane.queue[at]
        if not lane.queue:
            del self.lanes[entry.tenant][entry.lane]
            if not self.lanes[entry.tenant]:
                del self.lanes[entry.tenant]

    def park(self, uid: str, until: int) -> None:
        """Take a waiting pod out of its lane: its turn cannot come before ``until`` (0: before a change)."""
        if uid in self.parked:
            self.parked[uid] = until
            return
        self._dequeue(self.pods[uid], self.entries[uid])
        self.parked[uid] = until
        if until:
            heapq.heappush(self.wakes, until)

    def ahead_of(self, uid: str) -> int:
        """Return how many pods of the same lane come before a waiting pod."""
        entry = self.entries[uid]
        lane = self.lanes.get(entry.tenant, {}).get(entry.lane) if entry.lane else None
        return bisect_left(lane.queue, queue_key(self.pods[uid])) if lane else 0

    def tally_failed(self, pool: str) -> int:
        """Return how many seats of a pool are failed now."""
        return sum(self.tally[pool, share].failed for share in ("Public", "OwnUse", ""))

    def waiting_on(self, state: GrantState) -> int:
        """Return the seats of pods that wait for a grant: those that name it, and those it is the first for."""
        spec = state.grant.spec
        found = 0
        for (namespace, grant, resource, product), seats in self.waiting_seats.get(state.tenant, {}).items():
            if grant:
                own = self.grant_at.get((namespace, grant))
                found += seats if grant == state.grant.name and own in (None, state.grant.uid) else 0
                continue
            fitting = [
                s
                for s in (self.grants[u] for u in self.grants_of(state.tenant))
                if s.grant.spec
                and (not product or s.grant.spec.gpu_type == product)
                and self.resource_of_type(s.grant.spec.gpu_type) == resource
            ]
            first = min(fitting, key=lambda s: (s.end, s.grant.name, s.grant.namespace), default=None)
            found += seats if first is state else 0
        return found if spec else 0

    def assume(self, pod: Pod, release: ReleasePod) -> None:
        """Count a pod as released from now on, until the API confirms or denies it."""
        self._count_back(pod.uid)
        self.assumed[pod.uid] = release
        self.places[pod.uid] = release.server
        self._count(pod)

    def wake(self, at: int) -> None:
        """Ask for a plan at ``at`` though nothing happens."""
        heapq.heappush(self.wakes, at)

    def resource_of_type(self, gpu_type: str) -> str:
        """Return the resource that pools of a GPU type offer, '' where there is none."""
        for state in self.pools.values():
            if state.pool.spec and state.pool.spec.gpu_type == gpu_type:
                return state.resource
        return ""

    def unpark(self, uids: set[str]) -> None:
        """Bring waiting pods back into their lanes."""
        for uid in [u for u in uids if u in self.parked]:
            del self.parked[uid]
            entry = self.entries.get(uid)
            if entry and entry.kind == "waiting":
                self._enqueue(self.pods[uid], entry)
                self.unexplained[entry.tenant].add(uid)
                self.dirty_tenants.add(entry.tenant)

    def unpark_due(self, now: int) -> None:
        """Bring back those whose back-off is over."""
        self.unpark({uid for uid, until in self.parked.items() if until and until <= now})

    def grants_of(self, tenant: str) -> list[str]:
        """Return the uids of a tenant's grants."""
        if self._tenants_stale:
            self._tenant_grants = defaultdict(list)
            for uid, state in self.grants.items():
                self._tenant_grants[self.tenant_of(state.grant.namespace)].append(uid)
            self._tenants_stale = False
        return self._tenant_grants.get(tenant, []) if tenant else []

    def _occupy(self, pod: Pod, name: str) -> None:
        server = self.servers.get(name)
        if server is None:
            server = self.servers[name] = Server(name)
        server.pods[pod.uid] = pod
        self._use(server, pod, +1)
        self.stand(server)
        self._usage_changed(server)

    def _use(self, server: Server, pod: Pod, sign: int) -> None:
        state = self.pools.get(server.pool)
        seats = pod.shape.amount(state.resource) if state else 0
        server.seats_used += sign * seats
        if pod.node:
            server.seats_held += sign * seats
        server.cpu_used += sign * pod.shape.cpu_milli
        server.memory_used += sign * pod.shape.memory

    def _usage_changed(self, server: Server) -> None:
        if server.pool:
            self.figures_changed.add(("GpuPool", "", server.pool))
        label = server.label(names.GRANT_UID_LABEL)
        for booking in server.bookings:
            state = self.grants.get(booking.grant)
            if state and booking.grant != label:  # who waits for this server says what is in the way
                self.figures_changed.add(("GpuGrant", state.grant.namespace, state.grant.name))
            if state and state.surplus and not server.pods:
                self.dirty_lines.add(state.line)

    def _count_back(self, uid: str) -> None:
        entry = self.entries.pop(uid, None)
        if entry is None:
            return
        pod = self.pods[uid]
        if entry.kind == "waiting":
            assert entry.lane is not None
            self.waiting_seats[entry.tenant][entry.lane] -= entry.seats
            if not self.waiting_seats[entry.tenant][entry.lane]:
                del self.waiting_seats[entry.tenant][entry.lane]
            if uid not in self.parked:
                self._dequeue(pod, entry)
            self.unexplained[entry.tenant].discard(uid)
            self.dirty_tenants.add(entry.tenant)
            for grant in self.grants_of(entry.tenant):
                self._grant_figures(grant)
        elif entry.kind == "fenced":
            self.fenced[entry.tenant].discard(uid)
            self.dirty_servers |= self.fence_waits
            self.fence_waits.clear()
            for state in self.pools.values():
                self._share_may_change(state.pool.name)
        if entry.grant:
            usage = self.usage[entry.grant]
            if entry.kind == "held":
                usage.held -= entry.seats
            else:
                usage.reserved -= entry.seats
                usage.unbound.discard(uid)
                if not usage.unbound:
                    self.dirty_servers |= self.leaving.pop(entry.grant, set())
            usage.pods.pop(uid, None)
            self._grant_figures(entry.grant)
            self._tenant_waits(entry.tenant)
            if not usage.pods and entry.grant not in self.grants:
                self.usage.pop(entry.grant, None)
        if entry.server and entry.kind in ("held", "reserved"):
            server = self.servers.get(entry.server)
            if server and server.pods.pop(uid, None):
                self._use(server, pod, -1)
                self.stand(server)
                self._usage_changed(server)
                self.dirty_servers.add(server.name)
                if not server.pods:
                    self._share_may_change(server.pool)
                if not entry.grant and server.share != OWN_USE:
                    self._server_changed(server)
                if server.node is None and not server.pods:
                    del self.servers[server.name]
        if entry.gang:
            gang = self.gangs[entry.gang]
            if len(gang.waiting) + len(gang.living) == gang.size:
                self.unpark(gang.waiting - {uid})  # not whole any more
            gang.waiting.discard(uid)
            gang.living.discard(uid)
            gang.bound_once.discard(uid)
            self._tidy_gang(entry.gang)

    def _gang(self, key: tuple[str, str], pod: Pod) -> Gang:
        gang = self.gangs.get(key)
        if gang is None:
            gang = self.gangs[key] = Gang(key, parse_gang_size(pod.gang_size) or 1)
        return gang

    def _tidy_gang(self, key: tuple[str, str]) -> None:
        gang = self.gangs[key]
        if not gang.living and not gang.waiting:
            gang.whole = False
            if not gang.bound_once:
                del self.gangs[key]
        elif not gang.living:
            gang.whole = False

    def _grant_figures(self, uid: str) -> None:
        state = self.grants.get(uid)
        if state:
            self.figures_changed.add(("GpuGrant", state.grant.namespace, state.grant.name))
            if state.tenant:
                self.figures_changed.add(("TenantQuota", "", state.tenant))

    # -- recounts: rare, and in proportion to what they touch ------------------------------------------

    def _recount_server(self, server: Server) -> None:
        server.seats_used = server.seats_held = server.cpu_used = server.memory_used = 0
        for pod in server.pods.values():
            self._use(server, pod, +1)

    def _recount_namespace(self, name: str) -> None:
        self._tenants_stale = True
        self.all_dirty = True
        for pod in [p for p in self.pods.values() if p.namespace == name]:
            self._count_back(pod.uid)
            self._count(pod)

    def _recount_all(self) -> None:
        for server in self.servers.values():
            self._recount_server(server)
            self.stand(server)
        for pod in list(self.pods.values()):
            self._count_back(pod.uid)
            self._count(pod)
        self.all_dirty = True

    def _tenant_changed(self, tenant: str) -> None:
        self._tenants_stale = True
        self.dirty_status.add(("TenantQuota", "", tenant))
        for uid in self.grants_of(tenant):
            self.dirty_lines.add(self.line_of(self.grants[uid].grant))
        self.dirty_tenants.add(tenant)
        self.reconsider(tenant)

    def reconsider(self, tenant: str) -> None:
        """Judge all waiting pods of a tenant again, those set aside too."""
        mine = {u for u in self.parked if u in self.entries and self.entries[u].tenant == tenant}
        self.unpark({u for u in mine if self.parked[u] == 0})
        for lane in self.lanes.get(tenant, {}).values():
            self.unexplained[tenant].update(key[3] for key in lane.queue)
        self.dirty_tenants.add(tenant)

    # -- what became of decisions ----------------------------------------------------------------------

    def confirm(self, action: Action) -> None:
        """Take that a write succeeded; its result came in by put_*."""
        match action:
            case ReleasePod():
                if names.GATE not in self.pods[action.uid].gates if action.uid in self.pods else True:
                    self.assumed.pop(action.uid, None)
                self.failures.pop(action.uid, None)
            case WriteServer():
                self.writing.pop(action.node, None)
                self.dirty_servers.add(action.node)
                self.failures.pop(action.node, None)
                server = self.servers.get(action.node)
                if server and server.bucket:
                    self._more_room(server.bucket)
            case SetStatus():
                self.telling.pop((action.kind, action.namespace, action.name), None)
                self.failures.pop(f"{action.kind}/{action.namespace}/{action.name}", None)
            case LabelPod():
                self.labelling.discard(action.uid)
            case ExplainPod() | EvictPod() | SetPolicies():
                pass

    def forget(self, action: Action, error: str = "") -> None:
        """Take that a write failed or was dropped: decide again, each time a little later."""
        match action:
            case ReleasePod():
                self.assumed.pop(action.uid, None)
                self.places.pop(action.uid, None)
                pod = self.pods.get(action.uid)
                if pod and self.entries[action.uid].kind == "reserved" and names.GATE in pod.gates:
                    self._count_back(action.uid)
                    self._count(pod)
                if error and pod:
                    self._later(action.uid)
            case WriteServer():
                self.writing.pop(action.node, None)
                self._later(action.node)
                if (server := self.servers.get(action.node)) and server.bucket:
                    self._more_room(server.bucket)
                self.dirty_servers.add(action.node)
            case SetStatus():
                key = (action.kind, action.namespace, action.name)
                self.telling.pop(key, None)
                self._later("/".join(key))
                self.dirty_status.add(key)
            case ExplainPod():
                self.told.pop(action.uid, None)
                entry = self.entries.get(action.uid)
                if entry and entry.kind == "waiting":
                    self.unexplained[entry.tenant].add(action.uid)
                    self.dirty_tenants.add(entry.tenant)
                    self._later(f"explain/{action.uid}")
            case EvictPod():
                self.evicting.pop(action.uid, None)
                self._later(action.uid)
            case LabelPod():
                self.labelling.discard(action.uid)
                self.unlabelled.add(action.uid)
                self._later(action.uid)
            case SetPolicies():
                self.policies = None

    def _later(self, key: str) -> None:
        self.failures[key] += 1
        self.retry_at[key] = -1  # the next plan, which knows the time, sets it

    def may_try(self, key: str) -> bool:
        """Say whether a write may be tried: not while one that failed has to wait for its next turn."""
        return key not in self.retry_at

    def retry_due(self, now: int) -> list[str]:
        """Return what may be tried again now; the delay doubles from none to half a minute."""
        due = []
        for key in list(self.retry_at):
            if self.retry_at[key] == -1:
                self.retry_at[key] = now + 2 ** min(self.failures[key], 6) // 2
                self.wake(self.retry_at[key])
            if self.retry_at[key] <= now:
                del self.retry_at[key]
                due.append(key)
        return due


def queue_key(pod: Pod) -> tuple[int, int, str, str]:
    """Return a pod's place among those that wait: priority, then age."""
    return (-pod.priority, pod.created, pod.name, pod.uid)


def parse_gang_size(text: str) -> int | None:
    """Return a gang's size, None where the annotation makes no sense."""
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        return None
    size = int(text)
    return size if 1 <= size <= LARGEST_GANG else None


def _matters(node: Node) -> tuple[object, ...]:
    """Return what of a node allocation depends on; our own labels follow decisions and do not count."""
    theirs = {k: v for k, v in node.labels.items() if k not in names.NODE_LABELS}
    return (
        theirs,
        node.unschedulable,
        0 if node.ready else node.ready_since or -1,
        node.capacity,
        node.allocatable,
        node.maintenance,
    )


def _placement(node: Node, ours: frozenset[str]) -> tuple[object, ...]:
    """Return what of a node the scheduler's own rules look at."""
    theirs = {k: v for k, v in node.labels.items() if k not in names.NODE_LABELS}
    return theirs, tuple(t for t in node.taints if t.key not in ours)


def _selects(state: PoolState, labels: dict[str, str]) -> bool:
    spec = state.pool.spec
    assert spec
    wanted = (
        spec.node_selector.match_labels
        if spec.node_selector and spec.node_selector.match_labels
        else {names.PROVIDER_LABEL: spec.provider, names.PRODUCT_LABEL: spec.gpu_type}
    )
    return all(labels.get(k) == v for k, v in wanted.items())
