"""Servers: which pool claims them, what they are labelled for, how many of their seats are free."""

from __future__ import annotations

from gpugrant import names
from gpugrant.decide.books import Books
from gpugrant.decide.state import PoolState, Server
from gpugrant.model.node import Node
from gpugrant.model.pod import Pod


class Fleet(Books):
    """Books with nodes and servers."""

    def put_node(self, node: Node) -> None:
        """Take a node."""
        server = self.servers.get(node.name)
        if server is None:
            server = self.servers[node.name] = Server(node.name)
        old, server.node = server.node, node
        if old is None or old.labels.get(names.HOSTNAME_LABEL) != node.labels.get(names.HOSTNAME_LABEL):
            self.by_hostname[node.labels.get(names.HOSTNAME_LABEL, node.name)] = node.name
        refitted = old is None or _placement(old, self.resources) != _placement(node, self.resources)
        if refitted:
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
            self.share_may_change(server.pool)
        self._note_taints(server, old, node)
        self.dirty_servers.add(node.name)
        self.stand(server)
        if refitted and server.bucket:
            self._more_room(server.bucket)  # no seat more, but room for one that was waiting

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
            freed = cpu_milli < server.overhead_cpu or memory < server.overhead_memory
            server.overhead_cpu, server.overhead_memory = cpu_milli, memory
            if freed and server.bucket:
                self.placement_changed = True
                self._more_room(server.bucket)

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
                state.oversized.discard(server.name)
                self.dirty_pools.add(name)
                self.dirty_status.add(("GpuPool", "", name))
        server.claims, server.pool = (), ""

    def _server_changed(self, server: Server) -> None:
        for name in server.claims:
            self.dirty_pools.add(name)
            self.dirty_status.add(("GpuPool", "", name))

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
        if server.node.seats_installed(state.resource) > state.size:
            state.oversized.add(server.name)
        else:
            state.oversized.discard(server.name)
        server.tallied = (server.pool, server.share, state.size, self.seats_failed(server), server.seats_held)
        tally = self.tally[server.pool, server.share]
        tally.installed += server.tallied[2]
        tally.failed += server.tallied[3]
        tally.held += server.tallied[4]

    def tally_failed(self, pool: str) -> int:
        """Return how many seats of a pool are failed now."""
        return sum(self.tally[pool, share].failed for share in ("Public", "OwnUse", ""))

    def share_may_change(self, pool: str) -> None:
        """Note that something may be idle now that a promise waits for."""
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

    def _recount_server(self, server: Server) -> None:
        server.seats_used = server.seats_held = server.cpu_used = server.memory_used = 0
        for pod in server.pods.values():
            self._use(server, pod, +1)


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
    """Return what of a node, its seats apart, the scheduler's own rules look at."""
    theirs = {k: v for k, v in node.labels.items() if k not in names.NODE_LABELS}
    taints = tuple(t for t in node.taints if t.key not in ours)
    return theirs, taints, node.cpu_milli, node.memory, node.pods


def _selects(state: PoolState, labels: dict[str, str]) -> bool:
    spec = state.pool.spec
    assert spec
    wanted = (
        spec.node_selector.match_labels
        if spec.node_selector and spec.node_selector.match_labels
        else {names.PROVIDER_LABEL: spec.provider, names.PRODUCT_LABEL: spec.gpu_type}
    )
    return all(labels.get(k) == v for k, v in wanted.items())
