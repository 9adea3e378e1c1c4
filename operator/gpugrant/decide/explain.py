"""Answers for people: why something waits, what a change would do. The same words the decisions used."""

from gpugrant.decide.actions import Action, EvictPod, ExplainPod, ReleasePod, WriteServer
from gpugrant.decide.grant_status import ready_verdict
from gpugrant.decide.judge import CHECKS
from gpugrant.decide.match import candidate_grants, may_start
from gpugrant.decide.plan import make_plan
from gpugrant.decide.pool_status import pool_status
from gpugrant.decide.reasons import Verdict, place_in_line
from gpugrant.decide.world import World


def why(world: World, now: int, kind: str, namespace: str, name: str) -> list[str]:
    """Return the chain of verdicts on a pod or a grant, first to last.

    Raises LookupError where there is no such object.
    """
    plan = make_plan(world, now)
    if kind == "grant":
        return _why_grant(world, now, namespace, name)
    for pod in world.pods.values():
        if (pod.namespace, pod.name) != (namespace, name):
            continue
        lines = []
        for action in plan.actions:
            if isinstance(action, ReleasePod) and action.uid == pod.uid:
                return [f"released onto {action.server}, grant {action.grant}"]
            if isinstance(action, EvictPod) and action.uid == pod.uid:
                lines.append(f"to be evicted: {action.message}")
            if isinstance(action, ExplainPod) and action.uid == pod.uid:
                lines.append(action.message)
        if not lines and pod.waiting:
            lines.append(pod.waiting)
        entry = world.entries[pod.uid]
        if entry.kind == "held":
            lines.append(f"runs on {pod.node}, grant {pod.grant or 'none'}")
        elif entry.kind == "reserved":
            lines.append(f"released, waits for the scheduler to bind it to {entry.server or 'a server'}")
        elif entry.kind == "waiting":
            lines.append(place_in_line(world.ahead_of(pod.uid)).removeprefix("; "))
            found = candidate_grants(world, pod, entry.tenant)
            if not isinstance(found, Verdict):
                for state in found:
                    obstacle = may_start(state, now)
                    usage = world.usage.get(state.grant.uid)
                    free = state.seats - (usage.taken if usage else 0)
                    lines.append(
                        f"grant {state.grant.key}: {obstacle.message if obstacle else f'{free} GPUs free'}"
                    )
        return lines
    raise LookupError(f"no GPU pod {namespace}/{name}")


def _why_grant(world: World, now: int, namespace: str, name: str) -> list[str]:
    uid = world.grant_at.get((namespace, name))
    if uid is None:
        raise LookupError(f"no grant {namespace}/{name}")
    state = world.grants[uid]
    earlier = [
        other
        for other in (world.grants[u] for u in world.grants_of(state.tenant))
        if other is not state and other.line == state.line and other.accepted.ok and now < other.end
    ]
    lines = []
    for check in CHECKS:
        verdict = check(world, state, earlier)
        word = check.__name__.strip("_").replace("_", " ")
        lines.append(f"{word}: {f'{verdict.reason}: {verdict.message}' if verdict else 'yes'}")
        if verdict:
            break
    ready = ready_verdict(world, state, now)
    lines.append(f"accepted: {state.accepted.reason}: {state.accepted.message}")
    lines.append(f"allocated: {state.allocated.reason}: {state.allocated.message}")
    lines.append(f"ready: {ready.reason}: {ready.message}")
    return lines


def preview(world: World, now: int, objects: list[tuple[str, str, str]]) -> list[str]:
    """Return what would become of these objects (kind, namespace, name), and what else would be done for them.

    The world is as it would be after they were applied; nothing is written.
    """
    plan = make_plan(world, now)
    lines = []
    for kind, namespace, name in objects:
        uid = world.grant_at.get((namespace, name))
        if kind == "GpuGrant" and uid:
            ready = ready_verdict(world, world.grants[uid], now)
            lines.append(f"grant {namespace}/{name}: {ready.reason}: {ready.message}")
        elif kind == "GpuPool" and name in world.pools:
            status = pool_status(world, world.pools[name], now)
            ready_now = next(c for c in status["conditions"] if c["type"] == "Ready")
            lines.append(f"pool {name}: {ready_now['reason']}: {ready_now['message']}")
    return lines + [line for action in plan.actions if (line := _in_words(action))]


def _in_words(action: Action) -> str:
    match action:
        case ReleasePod():
            return (
                f"pod {action.namespace}/{action.name}: released onto {action.server}, grant {action.grant}"
            )
        case ExplainPod():
            return f"pod {action.namespace}/{action.name}: {action.message}"
        case EvictPod():
            return f"pod {action.namespace}/{action.name}: evicted: {action.message}"
        case WriteServer():
            changes = ", ".join(f"{k}={v}" if v else f"{k} removed" for k, v in action.labels)
            return f"node {action.node}: {changes or 'taint'}"
        case _:
            return ""
