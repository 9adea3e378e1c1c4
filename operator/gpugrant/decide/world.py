"""The planner's view of the cluster, kept up to date one fact at a time.

put_* and drop_* take facts; each costs time in proportion to what changed, never to the fleet, and notes what has
to be decided again. ``plan.make_plan`` reads the notes. A world fed by events and a world made from a snapshot
decide alike: nothing here depends on the order in which facts came.
"""

from __future__ import annotations

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
from gpugrant.decide.holding import Holding
from gpugrant.decide.state import GrantState, PoolState
from gpugrant.model.objects import Grant, Namespace, Pool, Quota
from gpugrant.model.snapshot import Snapshot


class World(Holding):
    """All facts, and what became of decisions."""

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

    def set_settings(self, settings: Settings) -> None:
        """Take new settings: everything is judged again."""
        self.settings = settings
        self._recount_all()

    def put_namespace(self, namespace: Namespace) -> None:
        """Take a namespace; its pods are counted again when what it stands for has changed."""
        old = self.namespaces.get(namespace.name)
        if old == namespace:
            return
        if old:
            self.spaces[old.tenant].discard(namespace.name)
        self.spaces[namespace.tenant].add(namespace.name)
        self.namespaces[namespace.name] = namespace
        if old is None or (old.tenant, old.provider) != (namespace.tenant, namespace.provider):
            self._recount_namespace(namespace.name)

    def drop_namespace(self, name: str) -> None:
        """Forget a namespace."""
        if known := self.namespaces.pop(name, None):
            self.spaces[known.tenant].discard(name)
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
            self.stirred.add(name)
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

    def _pools_changed(self) -> None:
        self.resources = frozenset(
            {names.DEFAULT_RESOURCE} | {s.resource for s in self.pools.values() if s.pool.spec}
        )
        for state in self.pools.values():
            state.servers.clear()
            state.doubtful.clear()
            state.oversized.clear()
        for server in self.servers.values():
            server.claims, server.pool = (), ""
            if server.node:
                self._claim(server)
        self._recount_all()

    def _tenant_changed(self, tenant: str) -> None:
        self._tenants_stale = True
        self.dirty_status.add(("TenantQuota", "", tenant))
        for uid in self.grants_of(tenant):
            self.dirty_lines.add(self.line_of(self.grants[uid].grant))
        self.dirty_tenants.add(tenant)
        self.reconsider(tenant)

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
                self._later("policies")
