"""Which waiting pods go now, and what the others are told (R3, R5, R6).

Within a grant it is first come first served: the first unit that could run but has no room now holds back those
behind it, so that small pods never starve a large gang. What can never fit, is not whole yet or was taken back
a moment ago is set aside and holds back nobody.
"""

import heapq
from collections import Counter

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.actions import Action, ReleasePod, WriteServer
from gpugrant.decide.ever import never_fits
from gpugrant.decide.match import candidate_grants, may_start
from gpugrant.decide.pack import Packer, find_to_open, limit_left, shared_for
from gpugrant.decide.reasons import Verdict
from gpugrant.decide.state import GrantState, Lane, LaneKey
from gpugrant.decide.telling import explain, explain_rest, queueing_for, set_aside, spoken
from gpugrant.decide.units import Unit, next_unit, where_the_gang_lives
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod

TOLD_AFTER_SECONDS = 10

# How far releases may run ahead of the scheduler. It takes pods up by when they were created, so that some are left
# lying until they are taken back while others, released later, pass them. So: no more than so many unbound over all,
# and far fewer while one of them is old; but a grant always has some, or one tenant's pods that cannot bind would
# stop all others.
MOST_AHEAD = 2_000
FEW = 200
OF_ONE_GRANT = 4

# A server is on its way, or the scheduler has enough to do: that is a matter of moments, and no news for anybody.
OPENING = Verdict(False, reasons.NO_ROOM, "")


def release_tenant(world: World, tenant: str, now: int) -> list[Action]:
    """Return releases, servers to open and explanations for one tenant's waiting pods."""
    actions: list[Action] = []
    blocked: dict[str, Verdict] = {}
    closed: dict[LaneKey, Verdict] = {}
    heads: list[tuple[tuple[int, int, str, str], LaneKey]] = []
    active: dict[LaneKey, list[GrantState]] = {}
    for key, lane in list(world.lanes.get(tenant, {}).items()):
        verdict = _open_lane(world, lane, tenant, now, active)
        if verdict and verdict.lasting:
            for entry in list(lane.queue):  # no grant for them: they wait outside, and cost nothing meanwhile
                set_aside(world, world.pods[entry[3]], verdict, actions)
        elif verdict:
            closed[key] = verdict
        else:
            heapq.heappush(heads, (lane.queue[0], key))
    while heads:
        _, key = heapq.heappop(heads)
        lane_now = world.lanes.get(tenant, {}).get(key)
        if lane_now is None:
            continue
        grants = active[key]
        if all(g.grant.uid in blocked for g in grants):
            closed[key] = blocked[grants[0].grant.uid]
            continue
        head = world.pods[lane_now.queue[0][3]]
        held_back = _serve_head(world, head, grants, blocked, now, actions)
        if held_back:
            closed[key] = held_back
        elif key in world.lanes.get(tenant, {}):
            heapq.heappush(heads, (world.lanes[tenant][key].queue[0], key))
    actions += explain_rest(world, tenant, closed, active)
    return actions


def _open_lane(
    world: World, lane: Lane, tenant: str, now: int, active: dict[LaneKey, list[GrantState]]
) -> Verdict | None:
    """Find the grants a lane may use now; return why there is none."""
    first = world.pods[lane.queue[0][3]]
    found = candidate_grants(world, first, tenant)
    if isinstance(found, Verdict):
        return found
    why: Verdict | None = None
    usable = []
    for state in found:
        obstacle = may_start(state, now)
        if obstacle is None:
            usable.append(state)
        elif why is None:
            why = obstacle
    active[lane.key] = usable
    return None if usable else why


def _serve_head(
    world: World,
    head: Pod,
    grants: list[GrantState],
    blocked: dict[str, Verdict],
    now: int,
    actions: list[Action],
) -> Verdict | None:
    """Release or set aside the unit at the head of a lane; return a verdict where it has to stay there."""
    unit = next_unit(world, head, now)
    if isinstance(unit, Verdict):
        set_aside(world, head, unit, actions)
        return None
    late = [p for p in unit.pods if not world.may_try(p.uid)]
    if late:
        for pod in unit.pods:
            world.park(pod.uid, max(world.retry_at.get(p.uid, now + 1) for p in late))
        return None
    tries, until = world.backoff.get(unit.key, (0, 0))
    if until > now:
        verdict = Verdict(
            False,
            reasons.BACKING_OFF,
            f"was taken back {reasons.counted(tries, 'time')}; waits to be tried again",
        )
        for pod in unit.pods:
            world.park(pod.uid, until)
            explain(world, pod, verdict.message, actions)
        return None
    never: Verdict | None = None
    waits: Verdict | None = None
    could: list[GrantState] = []  # grants where it only has no room now: nobody passes it there
    for state in where_the_gang_lives(world, head, grants):
        if state.grant.uid in blocked:
            waits = waits or blocked[state.grant.uid]
            continue  # whether it could ever fit there is asked when its turn comes
        obstacle = _try_grant(world, unit, state, now, actions)
        if obstacle is None:
            return None
        if obstacle.lasting:
            never = never or obstacle
        else:
            waits = waits or obstacle
            could.append(state)
    if waits is None:
        assert never
        for pod in unit.pods:
            set_aside(world, pod, never, actions)
        return None
    for state in could:
        blocked.setdefault(state.grant.uid, waits)
    return waits


def _try_grant(
    world: World, unit: Unit, state: GrantState, now: int, actions: list[Action]
) -> Verdict | None:
    """Release a unit on a grant; return why not: lasting where it can never be."""
    pool = world.pools[state.pool]
    resource = pool.resource
    need = sum(p.shape.amount(resource) for p in unit.pods)
    never = _never_fits(world, unit, state, resource)
    if never:
        return never
    free = state.seats - world.usage[state.grant.uid].taken
    spec = state.grant.spec
    assert spec
    name = f"grant {state.grant.name} ({state.seats} GPUs, {spec.gpu_type})"
    if need > free:
        return Verdict(False, reasons.GRANT_FULL, queueing_for(world, state))
    if _scheduler_is_behind(world, state, now):
        return OPENING
    if world.usage[state.grant.uid].placeless:
        # Released before a restart, bound to no server: until the scheduler has chosen, nobody knows whose seats.
        return Verdict(
            False, reasons.NO_ROOM, f"{name}: pods that were released before are still being bound"
        )
    left = limit_left(world, state)
    if left is not None and need > left:
        return Verdict(
            False,
            reasons.LIMIT_REACHED,
            f"tenant {state.tenant} may take {max(0, left)} more {spec.gpu_type} now",
        )
    packer = Packer(world, state, resource)
    places: list[str] = []
    for pod in sorted(unit.pods, key=lambda p: -p.shape.amount(resource)):
        place = packer.place(pod)
        if place is None:
            opened = _open_server(world, state, pod, resource, actions) if state.shared else ""
            if opened or _being_prepared(world, state):
                return OPENING
            return Verdict(
                False,
                reasons.NO_ROOM,
                f"{name} has {free} free, but not where this fits: {_where(packer, pod, resource, len(places), unit)}",
            )
        places.append(place)
    for pod, place in zip(sorted(unit.pods, key=lambda p: -p.shape.amount(resource)), places, strict=True):
        actions.append(assume_release(world, pod, state, place, resource, unit.replacement, now))
    return None


def _scheduler_is_behind(world: World, state: GrantState, now: int) -> bool:
    """Say whether enough was released on a grant for now: what waits too long for the scheduler is taken back."""
    if len(world.usage[state.grant.uid].unbound) < OF_ONE_GRANT or world.unbound < FEW:
        return False
    oldest = world.oldest_unbound()
    late = oldest is not None and now - oldest >= world.settings.bind_timeout_seconds // 3
    if late or world.unbound >= MOST_AHEAD:
        world.held_back.add(state.tenant)
        return True
    return False


def _being_prepared(world: World, state: GrantState) -> bool:
    """Say whether servers of the grant are about to get its label."""
    return any(
        name in world.writing or name in world.dirty_servers
        for name in state.servers
        if name in world.servers and world.servers[name].label(names.GRANT_UID_LABEL) != state.grant.uid
    )


def _where(packer: Packer, pod: Pod, resource: str, placed: int, unit: Unit) -> str:
    """Return why one pod of a unit has no place, after so many of the unit had."""
    whole = f"room for {placed} of {len(unit.pods)} pods; " if len(unit.pods) > 1 else ""
    return whole + packer.why_not(pod.shape, pod.shape.amount(resource))


def _never_fits(world: World, unit: Unit, state: GrantState, resource: str) -> Verdict | None:
    """Return what stands in the way for good; worked out once for units of the same make-up."""
    shapes = Counter(pod.shape for pod in unit.pods)
    key = (state.grant.uid, resource, frozenset(shapes.items()))
    if key not in world.never_fits:
        world.never_fits[key] = never_fits(world, state, unit.pods, resource)
    return world.never_fits[key]


def _open_server(world: World, state: GrantState, pod: Pod, resource: str, actions: list[Action]) -> bool:
    """Open one more shared server, unless one is on its way."""
    spec = state.grant.spec
    assert spec
    label = shared_for(world, state)
    for write in world.writing.values():
        if (names.SHARED_FOR_LABEL, label) in write.labels and world.servers[write.node].pool == state.pool:
            return True
    name = find_to_open(world, state, pod, resource)
    if name is None:
        return False
    world.servers[name].emptied_at = 0
    write = WriteServer(name, ((names.SHARED_FOR_LABEL, label), (names.OWN_USE_LABEL, None)))
    world.writing[name] = write
    actions.append(write)
    return True


def assume_release(
    world: World, pod: Pod, state: GrantState, place: str, resource: str, replacement: bool, now: int
) -> ReleasePod:
    """Count a release as done, and return it."""
    spec = state.grant.spec
    node = world.servers[place].node
    assert spec and node
    if state.shared:
        selector = {
            names.POOL_LABEL: state.pool,
            names.SHARE_LABEL: spec.share,
            names.SHARED_FOR_LABEL: shared_for(world, state),
        }
    else:
        selector = {names.GRANT_UID_LABEL: state.grant.uid}
    hostname = node.labels.get(names.HOSTNAME_LABEL)
    if hostname and not pod.shape.spread:
        selector[names.HOSTNAME_LABEL] = hostname
    had = dict(pod.shape.selector)
    namespace = world.namespaces.get(pod.namespace)
    waited = max(0, now - pod.created)
    release = ReleasePod(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        grant=state.grant.name,
        grant_uid=state.grant.uid,
        server=place,
        selector=tuple(sorted((k, v) for k, v in selector.items() if had.get(k) != v)),
        resource=resource,
        finalizer=world.metered and not (namespace and namespace.metering_off),
        replacement=replacement,
        at=now,
        # One who did not have to wait is told nothing: that would be a third write per pod.
        message=f"grant {state.grant.name} on {state.pool}, after {spoken(waited)}"
        if pod.waiting or waited >= TOLD_AFTER_SECONDS
        else "",
    )
    world.assume(pod, release)
    return release
