"""The plan: what the facts ask to be done now. The one central function, in numbered steps.

It reads the world's notes of what changed and touches only that; a world made from scratch has everything noted and
gets the same plan.
"""

import heapq

from gpugrant.decide.actions import Action, LabelPod, Plan, SetPolicies, SetStatus
from gpugrant.decide.grant_status import failed_seats, grant_status
from gpugrant.decide.line import Line, keep_bookings, pools_of_line, run_line
from gpugrant.decide.pool_status import pool_status
from gpugrant.decide.quota_status import quota_status
from gpugrant.decide.release import release_tenant
from gpugrant.decide.servers import rewrite_server
from gpugrant.decide.shares import assign_shares
from gpugrant.decide.state import OWN_USE, PUBLIC, GrantState
from gpugrant.decide.statuses import differs
from gpugrant.decide.takeback import end_what_is_over, take_back_overdue
from gpugrant.decide.world import World
from gpugrant.model.snapshot import Snapshot

# Figures in a status (held, waiting …) follow within this many seconds; reasons follow at once.
FIGURES_SECONDS = 2
# So often the policies' lists are looked at: somebody may have applied the manifests again. Reading is no write.
POLICIES_SECONDS = 60


def plan(snapshot: Snapshot, now: int) -> Plan:
    """Return the plan for a snapshot, from scratch. ``now`` is epoch seconds."""
    return make_plan(World.of(snapshot), now)


def make_plan(world: World, now: int) -> Plan:
    """Return what to do now, and note it in the world as assumed."""
    actions: list[Action] = []
    if now < world.now:  # the clock was set back: what had passed is to come again
        world.all_dirty = True
    world.now = now
    # 1. Time: terms that begin or end, back-offs and delays that are over.
    _let_time_pass(world, now)
    # 2. Which lines have to be gone through again, and which pools' shares.
    lines = _dirty_lines(world)
    # 3. What grants have, they keep.
    states = {line: keep_bookings(world, line, now) for line in lines}
    # 4. Shares: whole fabrics first, never out of what is in use.
    pools, world.dirty_pools = sorted(world.dirty_pools), set()
    world.stirred.update(pools, (pool.pool.name for line in lines for pool in pools_of_line(world, line)))
    for name in pools:
        state = world.pools.get(name)
        if state and state.pool.spec:
            assign_shares(world, state)
            world.dirty_servers |= state.servers
    world.largest_fabric.clear()
    # 5. Judge and place grants along each line.
    for line in lines:
        run_line(world, line, states[line], now)
        actions += end_what_is_over(world, states[line], now)
        _note_line(world, line, states[line], now)
    # 6. Servers' labels and taints.
    servers, world.dirty_servers = sorted(world.dirty_servers), set()
    for name in servers:
        server = world.servers.get(name)
        write = rewrite_server(world, server, now) if server else None
        if write:
            world.writing[write.node] = write
            actions.append(write)
    # 7. Take back what did not bind in time.
    actions += take_back_overdue(world, now)
    # 8. Release what waits, tenant by tenant, and say why the rest waits.
    while world.dirty_tenants:
        tenants, world.dirty_tenants = sorted(world.dirty_tenants), set()
        for tenant in tenants:
            actions += release_tenant(world, tenant, now)
        world.dirty_tenants -= set(tenants)  # what was assumed just now is no news
    # 9. GPU pods older than the install; the policies' lists.
    actions += _adopt(world, now)
    actions += _policies(world)
    # 10. Statuses.
    actions += _tell(world, now)
    return Plan(tuple(actions), _wake_at(world, now))


def _let_time_pass(world: World, now: int) -> None:
    while world.edges and world.edges[0][0] <= now:
        _, uid = heapq.heappop(world.edges)
        state = world.grants.get(uid)
        if state:
            world.dirty_lines.add(state.line)
            world.dirty_servers.update(state.servers)
            world.reconsider(state.tenant)
    while world.wakes and world.wakes[0] <= now:
        heapq.heappop(world.wakes)
    while world.recheck and world.recheck[0][0] <= now:
        world.dirty_servers.add(heapq.heappop(world.recheck)[1])
    for key in world.retry_due(now):
        if key in world.servers:
            world.dirty_servers.add(key)
        uid = key.removeprefix("explain/")
        if uid in world.entries and world.entries[uid].kind == "waiting":
            world.unpark({uid})
            world.unexplained[world.entries[uid].tenant].add(uid)
            world.dirty_tenants.add(world.entries[uid].tenant)
    world.unpark_due(now)
    if world.placement_changed:
        world.placement_changed = False
        world.never_fits.clear()
        for tenant in {world.entries[uid].tenant for uid in world.parked}:
            world.reconsider(tenant)
    if now // 3600 != world.hour:
        world.hour = now // 3600
        world.backoff = {unit: (n, until) for unit, (n, until) in world.backoff.items() if until > now - 3600}
        world.figures_changed.update(
            ("GpuGrant", s.grant.namespace, s.grant.name) for s in world.grants.values()
        )


def _dirty_lines(world: World) -> list[Line]:
    if world.all_dirty:
        world.all_dirty = False
        world.dirty_pools.update(world.pools)
        world.dirty_servers.update(world.servers)
        world.dirty_tenants.update(world.lanes)
        world.dirty_lines.update(world.line_of(s.grant) for s in world.grants.values())
        world.dirty_status.update(("TenantQuota", "", name) for name in world.quotas)
        world.dirty_status.update(("GpuPool", "", name) for name in world.pools)
        for tenant in list(world.lanes):
            world.reconsider(tenant)
    for name in world.dirty_pools:
        state = world.pools.get(name)
        if state and state.pool.spec:
            spec = state.pool.spec
            world.dirty_lines.update((spec.programme, spec.gpu_type, share) for share in (PUBLIC, OWN_USE))
    for line in world.dirty_lines:  # what leaves a grant may be what a promise waits for
        world.dirty_pools.update(p.pool.name for p in pools_of_line(world, line) if p.shares_pending)
    lines = sorted(world.dirty_lines)
    world.dirty_lines.clear()
    return lines


def _note_line(world: World, line: Line, states: list[GrantState], now: int) -> None:
    """Note whose status, servers and waiting pods the new state of a line concerns."""
    for pool in pools_of_line(world, line):
        world.granted[pool.pool.name, line[2]] = sum(
            s.seats for s in states if s.pool == pool.pool.name and s.start <= now < s.end
        )
        world.dirty_status.add(("GpuPool", "", pool.pool.name))
    world.never_fits.clear()
    for state in states:
        phase = (now >= state.start, now >= state.end, now >= state.grace_end)
        judged = (
            *(state.accepted, state.allocated, state.seats, state.servers, state.position, phase),
            failed_seats(world, state),
        )
        if judged == state.seen:
            continue
        state.seen = judged
        world.dirty_status.add(("GpuGrant", state.grant.namespace, state.grant.name))
        world.dirty_status.add(("TenantQuota", "", state.tenant))
        world.reconsider(state.tenant)
        world.dirty_servers.update(state.servers)


def _adopt(world: World, now: int) -> list[Action]:
    found: list[Action] = []
    for uid in sorted(world.unlabelled):
        pod = world.pods.get(uid)
        if pod is None or pod.gpu_label or uid in world.labelling:
            world.unlabelled.discard(uid)
        elif world.may_try(uid):
            world.unlabelled.discard(uid)
            world.labelling.add(uid)
            found.append(LabelPod(uid, pod.namespace, pod.name))
    return found


def _policies(world: World) -> list[Action]:
    """Name every resource that a pool offers, and those of pools that are gone while nodes still offer them."""
    wanted = SetPolicies(
        tuple(sorted(world.resources | {r for r, nodes in world.tainted.items() if nodes})),
        tuple(sorted(world.settings.exempt_namespaces)),
    )
    if (wanted == world.policies and world.now < world.policies_at) or not world.may_try("policies"):
        return []
    world.policies = wanted
    world.policies_at = world.now + POLICIES_SECONDS
    world.wake(world.policies_at)
    return [wanted]


def _tell(world: World, now: int) -> list[Action]:
    found: list[Action] = []
    urgent, world.dirty_status = (
        world.dirty_status | {k for k in world.tell_again if k not in world.telling},
        set(),
    )
    world.tell_again -= urgent
    for key in sorted(urgent):
        found += _status(world, key, now, True)
        world.figures_changed.discard(key)
    later: set[tuple[str, str, str]] = set()
    for key in sorted(world.figures_changed):
        if world.status_at.get(key, 0) > now:
            later.add(key)
            world.wake(world.status_at[key])
        else:
            found += _status(world, key, now, False)
    world.figures_changed = later
    return found


def _status(world: World, key: tuple[str, str, str], now: int, urgent: bool) -> list[Action]:
    kind, namespace, name = key
    if key in world.telling:
        world.tell_again.add(key)
        return []
    if not world.may_try("/".join(key)):
        world.tell_again.add(key)
        return []
    if kind == "GpuPool":
        pool = world.pools.get(name)
        if pool is None:
            return []
        uid, old, doc = pool.pool.uid, pool.pool.status, pool_status(world, pool, now)
    elif kind == "TenantQuota":
        quota = world.quotas.get(name)
        if quota is None:
            return []
        uid, old, doc = quota.uid, quota.status, quota_status(world, quota, now)
    else:
        state = world.grants.get(world.grant_at.get((namespace, name), ""))
        if state is None:
            return []
        uid, old, doc = state.grant.uid, state.grant.status, grant_status(world, state, now)
    world.status_at[key] = now + FIGURES_SECONDS
    if not differs(doc, old):
        return []
    world.telling[key] = doc
    return [SetStatus(kind, namespace, name, uid, doc, urgent)]


def _wake_at(world: World, now: int) -> int | None:
    times = [heap[0] for heap in (world.wakes,) if heap]
    if world.dirty_pools or world.dirty_lines or world.dirty_servers or world.dirty_tenants:
        times.append(now)
    times += [heap[0][0] for heap in (world.edges, world.deadlines, world.recheck) if heap]
    times += [max(due, now) for due in world.retry_at.values()]
    if world.figures_changed:
        times.append(now + FIGURES_SECONDS)
    if world.grants:
        times.append((world.hour + 1) * 3600)
    return max(now + 1, min(times)) if times else None
