"""What those are told that wait: on the pod, once per change of reason (R6)."""

from collections import defaultdict

from gpugrant.decide import reasons
from gpugrant.decide.actions import Action, ExplainPod
from gpugrant.decide.reasons import Verdict
from gpugrant.decide.state import GrantState, Lane, LaneKey
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod


def spoken(seconds: int) -> str:
    """Return a duration as people say it: 4 min 12 s."""
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [f"{n} {unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (secs, "s")) if n]
    return " ".join(parts[:2]) or "0 s"


def set_aside(world: World, pod: Pod, verdict: Verdict, actions: list[Action]) -> None:
    """Take a pod out of its lane until something about it changes, and say why."""
    world.park(pod.uid, 0)
    explain(world, pod, verdict.message, actions, verdict.reason)


def explain_rest(
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
    waiting: dict[LaneKey | None, set[str]] = defaultdict(set)
    for uid in world.unexplained.get(tenant, ()):
        waiting[world.entries[uid].lane].add(uid)
    for key, verdict in closed.items():
        lane = world.lanes.get(tenant, {}).get(key)
        if lane is None:
            continue
        if not verdict.message:
            continue
        tail = verdict.message
        if active.get(key):
            tail = queueing_for(world, active[key][0])
            _explain_head(world, lane, verdict, actions)
        told = reasons.plain(tail)
        if lane.told != told:
            lane.told = told
            waiting[key].update(entry[3] for entry in lane.queue)
        for uid in sorted(waiting.get(key, ())):
            if uid in world.parked or (active.get(key) and uid == lane.queue[0][3]):
                continue
            behind = reasons.place_in_line(world.ahead_of(uid)) if active.get(key) else ""
            explain(world, world.pods[uid], tail + behind, actions, verdict.reason)
    return actions


def _explain_head(world: World, lane: Lane, verdict: Verdict, actions: list[Action]) -> None:
    head = world.pods[lane.queue[0][3]]
    explain(world, head, verdict.message + reasons.place_in_line(0), actions, verdict.reason)


def queueing_for(world: World, state: GrantState) -> str:
    """Return whose free seats a pod waits for, and how many there are."""
    spec = state.grant.spec
    assert spec
    free = max(0, state.seats - world.usage[state.grant.uid].taken)
    return f"grant {state.grant.name} ({state.seats} GPUs, {spec.gpu_type}) has {free} free"


def explain(world: World, pod: Pod, why: str, actions: list[Action], reason: str = "") -> None:
    """Tell a pod why it waits, unless that is what it was told."""
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
