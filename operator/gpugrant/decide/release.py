"""Which waiting pods go now, and what the others are told (R3, R5, R6).

Within a grant it is first come first served: the first unit that could run but has no room now holds back those
behind it, so that small pods never starve a large gang. What can never fit, is not whole yet or was taken back
a moment ago is set aside and holds back nobody.
"""

import heapq

from msgspec import Struct

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.actions import Action, ExplainPod, ReleasePod, WriteServer
from gpugrant.decide.match import asked_resource, candidate_grants, may_start
from gpugrant.decide.pack import Packer, could_ever_fit, find_to_open, limit_left, shared_for
from gpugrant.decide.reasons import Verdict
from gpugrant.decide.state import Gang, GrantState, Lane, LaneKey
from gpugrant.decide.waiting import parse_gang_size
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod

# A server is on its way: that is a matter of moments, and no news for anybody.
OPENING = Verdict(False, reasons.NO_ROOM, "")


class Unit(Struct, frozen=True):
    """What is released together: a pod, or the waiting members of a gang."""

    pods: list[Pod]
    key: str
    replacement: bool = False


def release_tenant(world: World, tenant: str, now: int) -> list[Action]:
    """Return releases, servers to open and explanations for one tenant's waiting pods."""
    actions: list[Action] = []
    blocked: dict[str, Verdict] = {}
    closed: dict[LaneKey, Verdict] = {}
    heads: list[tuple[tuple[int, int, str, str], LaneKey]] = []
    active: dict[LaneKey, list[GrantState]] = {}
    for key, lane in list(world.lanes.get(tenant, {}).items()):
        verdict = _open_lane(world, lane, tenant, now, active)
        if verdict:
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
    actions += _explain_rest(world, tenant, closed, active)
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
    unit = _unit(world, head, now)
    if isinstance(unit, Verdict):
        _set_aside(world, head, unit, actions)
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
            _explain(world, pod, verdict.message, actions)
        return None
    never: Verdict | None = None
    waits: Verdict | None = None
    for state in _where_the_gang_lives(world, head, grants):
        if state.grant.uid in blocked:
            waits = waits or blocked[state.grant.uid]
            continue
        obstacle = _try_grant(world, unit, state, now, actions)
        if obstacle is None:
            return None
        if obstacle.lasting:
            never = never or obstacle
        else:
            waits = waits or obstacle
    if waits is None:
        assert never
        for pod in unit.pods:
            _set_aside(world, pod, never, actions)
        return None
    for state in grants:
        blocked.setdefault(state.grant.uid, waits)
    return waits


def _where_the_gang_lives(world: World, pod: Pod, grants: list[GrantState]) -> list[GrantState]:
    """Return the grants a pod may go to: where others of its gang run, if that is one of them."""
    gang = world.gangs.get(world.gang_key(pod) or ("", ""))
    homes = {world.entries[u].grant for u in gang.living} if gang else set()
    return [s for s in grants if s.grant.uid in homes] or grants


def _unit(world: World, head: Pod, now: int) -> Unit | Verdict:
    """Return what is to be released together with ``head``, or why it is not its turn."""
    if len(head.gates) > 1:
        others = ", ".join(g for g in head.gates if g != names.GATE)
        return Verdict(False, reasons.OTHER_GATES, f"waits for another gate to be taken off first: {others}")
    if head.gang_size and parse_gang_size(head.gang_size) is None:
        return Verdict(
            False,
            reasons.GANG_INVALID,
            f"annotation {names.GANG_SIZE_ANNOTATION}: {head.gang_size!r} is no gang size: "
            "write a whole number of pods",
        )
    key = world.gang_key(head)
    if key is None:
        return Unit([head], world.unit_key(head))
    gang = world.gangs[key]
    if gang_is_whole(world, gang, now):
        return Unit([head], world.unit_key(head), replacement=True)
    ready = sorted(
        (world.pods[u] for u in gang.waiting if len(world.pods[u].gates) == 1),
        key=lambda p: (-p.priority, p.created, p.name),
    )
    missing = gang.size - len(gang.living)
    if len(ready) < missing:
        return Verdict(
            False,
            reasons.GANG_INCOMPLETE,
            f"gang of {gang.size} pods has {len(ready) + len(gang.living)} so far",
        )
    asked = {str(asked_resource(world, p)) for p in ready}
    if len(asked) > 1:
        return Verdict(
            False, reasons.GANG_INVALID, "the pods of the gang ask for different kinds of accelerators"
        )
    return Unit(ready[: max(1, missing)], world.unit_key(head))


def gang_is_whole(world: World, gang: Gang, now: int) -> bool:
    """Say whether a gang has run whole, so that a lost member is replaced singly.

    After a restart that is not remembered: members that are all bound, longer than the bind time-out after their
    release, must have been whole, or else they would have been taken back.
    """
    if gang.whole:
        return bool(gang.living)
    members = [world.pods[u] for u in gang.living]
    gang.whole = bool(members) and all(p.node and now >= world.bind_deadline(p) for p in members)
    return gang.whole


def _try_grant(
    world: World, unit: Unit, state: GrantState, now: int, actions: list[Action]
) -> Verdict | None:
    """Release a unit on a grant; return why not: lasting where it can never be."""
    pool = world.pools[state.pool]
    resource = pool.resource
    need = sum(p.shape.amount(resource) for p in unit.pods)
    never = _never_fits(world, unit, state, resource)
    if never:
        return Verdict(False, reasons.TOO_LARGE, never, lasting=True)
    free = state.seats - world.usage[state.grant.uid].taken
    spec = state.grant.spec
    assert spec
    name = f"grant {state.grant.name} ({state.seats} GPUs, {spec.gpu_type})"
    if need > free:
        return Verdict(False, reasons.GRANT_FULL, _queueing_for(world, state))
    if any(not world.entries[u].server for u in world.usage[state.grant.uid].unbound if u in world.entries):
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
                f"{name} has {free} free, but not where this fits: {_where(world, packer)}",
            )
        places.append(place)
    for pod, place in zip(sorted(unit.pods, key=lambda p: -p.shape.amount(resource)), places, strict=True):
        actions.append(assume_release(world, pod, state, place, resource, unit.replacement, now))
    return None


def _being_prepared(world: World, state: GrantState) -> bool:
    """Say whether servers of the grant are about to get its label."""
    return any(
        name in world.writing or name in world.dirty_servers
        for name in state.servers
        if name in world.servers and world.servers[name].label(names.GRANT_UID_LABEL) != state.grant.uid
    )


def _where(world: World, packer: Packer) -> str:
    bucket = packer.bucket()
    if not len(bucket):
        return "none of its servers is ready"
    return f"at most {bucket.largest()} on one server"


def _never_fits(world: World, unit: Unit, state: GrantState, resource: str) -> str:
    shapes: dict[object, int] = {}
    for pod in unit.pods:
        shapes[pod.shape] = shapes.get(pod.shape, 0) + 1
    memo_key = (state.grant.uid, resource, tuple(sorted(((hash(s), n) for s, n in shapes.items()))))
    known = world.never_fits.get(memo_key)
    if known is None:
        known = world.never_fits[memo_key] = could_ever_fit(world, state, unit.pods, resource)
    return known


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
        finalizer=not (namespace and namespace.metering_off),
        replacement=replacement,
        at=now,
        message=f"grant {state.grant.name} on {state.pool}, after {spoken(waited)}",
    )
    world.assume(pod, release)
    return release


def spoken(seconds: int) -> str:
    """Return a duration as people say it: 4 min 12 s."""
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [f"{n} {unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (secs, "s")) if n]
    return " ".join(parts[:2]) or "0 s"


# -- what those are told that wait -------------------------------------------------------------------


def _set_aside(world: World, pod: Pod, verdict: Verdict, actions: list[Action]) -> None:
    world.park(pod.uid, 0)
    _explain(world, pod, verdict.message, actions, verdict.reason)


def _explain_rest(
    world: World,
    tenant: str,
    closed: dict[LaneKey, Verdict],
    active: dict[LaneKey, list[GrantState]],
) -> list[Action]:
    """Explain what still waits: the head of a lane by its verdict, those behind by the grant they queue for.

    Those behind are told again only when the lane itself closes for another reason, so that a head whose reason
    flickers does not write to thousands.
    """
    actions: list[Action] = []
    for key, verdict in closed.items():
        lane = world.lanes.get(tenant, {}).get(key)
        if lane is None:
            continue
        if not verdict.message:
            continue
        tail = verdict.message
        if active.get(key):
            tail = _queueing_for(world, active[key][0])
            _explain_head(world, lane, verdict, actions)
        told = reasons.plain(tail)
        if lane.told != told:
            lane.told = told
            world.unexplained[tenant].update(entry[3] for entry in lane.queue)
        for uid in sorted(u for u in world.unexplained.get(tenant, ()) if world.entries[u].lane == key):
            if uid in world.parked or (active.get(key) and uid == lane.queue[0][3]):
                continue
            behind = reasons.place_in_line(world.ahead_of(uid)) if active.get(key) else ""
            _explain(world, world.pods[uid], tail + behind, actions, verdict.reason)
    return actions


def _explain_head(world: World, lane: Lane, verdict: Verdict, actions: list[Action]) -> None:
    head = world.pods[lane.queue[0][3]]
    _explain(world, head, verdict.message + reasons.place_in_line(0), actions, verdict.reason)


def _queueing_for(world: World, state: GrantState) -> str:
    spec = state.grant.spec
    assert spec
    free = max(0, state.seats - world.usage[state.grant.uid].taken)
    return f"grant {state.grant.name} ({state.seats} GPUs, {spec.gpu_type}) has {free} free"


def _explain(world: World, pod: Pod, why: str, actions: list[Action], reason: str = "") -> None:
    seats = world.seats_of(pod)
    message = f"waiting for {reasons.counted(seats, 'GPU')}: {why}" if seats else f"waiting: {why}"
    world.unexplained.get(world.entries[pod.uid].tenant, set()).discard(pod.uid)
    world.why_waiting[pod.uid] = reason or reasons.NO_ROOM
    known = world.told.get(pod.uid) or pod.waiting
    if reasons.same_reason(known, message):
        return
    if not world.may_try(f"explain/{pod.uid}"):
        return  # its turn comes by itself
    world.told[pod.uid] = message
    actions.append(ExplainPod(pod.uid, pod.namespace, pod.name, message))
