"""Where pods fit: seats, CPU and memory per server, the pod's own constraints, best fit first (R4)."""

from collections import Counter, defaultdict

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.fit import node_obstacle
from gpugrant.decide.judge import tenant_limit
from gpugrant.decide.seats import FreeSeats
from gpugrant.decide.state import GrantState, Server
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod, Shape

_NOTHING = (0, 0, 0)  # seats, CPU, memory


class Packer:
    """Tentative seats while one unit is placed; taken over into the world only when all of it fits."""

    def __init__(self, world: World, state: GrantState, resource: str) -> None:
        self.world = world
        self.state = state
        self.resource = resource
        self.taken: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])  # server -> seats, cpu, memory

    def place(self, pod: Pod) -> str | None:
        """Return the server a pod goes to, and count it there; None where none has room now."""
        seats = pod.shape.amount(self.resource)
        for name in self.bucket().fitting(seats):
            server = self.world.servers[name]
            if self.fits(server, pod.shape, seats):
                row = self.taken[name]
                row[0] += seats
                row[1] += pod.shape.cpu_milli
                row[2] += pod.shape.memory
                return name
        return None

    def bucket(self) -> FreeSeats:
        """Return the servers of the grant that are labelled for it and can take pods."""
        return self.world.buckets[self.bucket_key()]

    def bucket_key(self) -> tuple[str, ...]:
        """Return the key of the grant's servers among the world's buckets."""
        spec = self.state.grant.spec
        assert spec
        if self.state.shared:
            return ("shared", self.state.pool, spec.share, shared_for(self.world, self.state))
        return ("grant", self.state.grant.uid)

    def _is_promised(self, server: Server) -> bool:
        """Say whether a shared server is another grant's before this one's term is over."""
        return any(b.start < self.state.end and b.end > self.world.now for b in server.bookings)

    def fits(self, server: Server, shape: Shape, seats: int) -> bool:
        """Say whether a server has room for one more pod, beside what was placed just now."""
        return self._seats_free(server) >= seats and not self._obstacle(server, shape)

    def why_not(self, shape: Shape, seats: int) -> str:
        """Return, in words, why the grant's servers have no room for one more pod now."""
        servers = self.world.servers
        bucket = self.bucket()
        if not bucket:
            return "none of its servers is ready"
        roomy = [s for s in (servers[name] for name in bucket.fitting(seats)) if self._seats_free(s) >= seats]
        if not roomy:
            return f"at most {max(0, *(self._seats_free(servers[name]) for name in bucket.names()))} on one server"
        found = Counter(self._obstacle(server, shape) for server in roomy)
        told = (f"{what} ({reasons.counted(count, 'server')})" for what, count in sorted(found.items()))
        return f"servers with {seats} free have {' or '.join(told)}"

    def _seats_free(self, server: Server) -> int:
        return self.world.seats_free(server) - self.taken.get(server.name, _NOTHING)[0]

    def _obstacle(self, server: Server, shape: Shape) -> str:
        """Return what a server has that keeps the pod off, its seats apart; "" where nothing does."""
        _, cpu, memory = self.taken.get(server.name, _NOTHING)
        node = server.node
        if node is None or server.name in self.world.writing:
            return "labels that are being written"
        if self.state.shared and self._is_promised(server):
            return "been promised to another grant"
        if server.cpu_used + server.overhead_cpu + cpu + shape.cpu_milli > node.cpu_milli:
            return "too little CPU left"
        if server.memory_used + server.overhead_memory + memory + shape.memory > node.memory:
            return "too little memory left"
        if len(server.pods) >= node.pods:
            return "as many pods as they may have"
        return node_obstacle(shape, node, self.resource)


def shared_for(world: World, state: GrantState) -> str:
    """Return the value of the shared-for label of a grant's servers."""
    spec = world.pools[state.pool].pool.spec
    assert spec
    return names.SHARED_FOR_ANYONE if spec.shared_tenancy == "Mixed" else state.tenant


def find_to_open(world: World, state: GrantState, pod: Pod, resource: str) -> str | None:
    """Return an idle server to open for a shared grant: out of the most broken fabric, None where none is free."""
    spec = state.grant.spec
    pool = world.pools[state.pool]
    assert spec and pool.pool.spec
    bucket = world.buckets[("idle", state.pool, spec.share)]
    open_now = sum(
        len(servers)
        for key, servers in world.buckets.items()
        if key[:3] == ("shared", state.pool, spec.share)
    )
    open_now += sum(
        1
        for write in world.writing.values()
        if any(k == names.SHARED_FOR_LABEL and v for k, v in write.labels)
        and write.node in pool.servers
        and not world.servers[write.node].label(names.SHARED_FOR_LABEL)
    )
    if _open_for(world, state) >= _reckoned(world, state):
        return None  # more than the line reckoned with would be others' servers
    most = pool.pool.spec.max_shared_servers
    if most is not None and open_now >= most:
        return None
    packer = Packer(world, state, resource)
    idle = [world.servers[n] for n in bucket.names()]
    size: dict[str, int] = defaultdict(int)
    free = []
    for server in idle:
        if (
            any(b.end > state.start and b.start < state.end for b in server.bookings)
            or server.name in world.writing
            or server.label(names.SHARE_LABEL) != server.share
        ):
            continue
        size[server.fabric] += 1
        if packer.fits(server, pod.shape, pod.shape.amount(resource)):
            free.append(server)
    if not free:
        return None
    return min(free, key=lambda s: (size[s.fabric], s.fabric, s.name)).name


def _open_for(world: World, state: GrantState) -> int:
    """Return how many servers are open, or about to be, for the grant's tenant (Mixed: for all)."""
    label = shared_for(world, state)
    servers = set(world.buckets[("shared", state.pool, state.line[2], label)].names())
    for write in world.writing.values():
        if (names.SHARED_FOR_LABEL, label) in write.labels and world.servers[write.node].pool == state.pool:
            servers.add(write.node)
    return len(servers)


def _reckoned(world: World, state: GrantState) -> int:
    """Return how many servers the line keeps for those grants: their seats in whole servers."""
    label = shared_for(world, state)
    same = world.grants_of(state.tenant) if label == state.tenant else world.grants
    seats = sum(
        g.seats
        for g in (world.grants[u] for u in same)
        if g.shared and g.pool == state.pool and g.line == state.line and g.start <= world.now < g.end
    )
    return -(-seats // world.pools[state.pool].size)


def limit_left(world: World, state: GrantState) -> int | None:
    """Return how many seats the tenant may still take of the grant's type; None: no limit."""
    limit = tenant_limit(world, state.tenant, state.line)
    if limit is None:
        return None
    return limit - world.taken_by(state.tenant, state.line)
