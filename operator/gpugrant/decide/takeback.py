"""Taking back what did not bind in time, and ending what a term does not cover any more (R3, R5, R7)."""

import heapq

from gpugrant.decide.actions import Action, EvictPod
from gpugrant.decide.state import GrantState
from gpugrant.decide.telling import spoken
from gpugrant.decide.units import gang_is_whole
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod

FIRST_BACKOFF_SECONDS = 10
LONGEST_BACKOFF_SECONDS = 600
# An eviction that was accepted and changed nothing is asked for again.
REPEAT_SECONDS = 30
JOBS = " (a Job counts this as a failed try unless its podFailurePolicy ignores DisruptionTarget)"


def take_back_overdue(world: World, now: int) -> list[Action]:
    """Evict what was released longer than the bind time-out ago and is not bound; a gang whole."""
    actions: list[Action] = []
    while world.deadlines and world.deadlines[0][0] <= now:
        _, uid = heapq.heappop(world.deadlines)
        pod = world.pods.get(uid)
        if pod is None or world.entries[uid].kind not in ("reserved", "held") or uid in world.assumed:
            continue
        due = world.bind_deadline(pod)
        if due > now:  # the time-out was lengthened meanwhile
            heapq.heappush(world.deadlines, (due, uid))
            continue
        victims = [] if pod.node else [pod]
        gang_key = world.gang_key(pod)
        if gang_key and not pod.replacement:
            gang = world.gangs[gang_key]
            if not gang_is_whole(world, gang, now):
                victims = [world.pods[u] for u in sorted(gang.living)]
        if not victims:
            continue
        key = world.unit_key(pod)
        tries, until = world.backoff.get(key, (0, 0))
        if until <= now:
            wait = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS << min(tries, 10))
            world.backoff[key] = (tries + 1, now + wait)
        whole = f"the gang of {len(victims)} pods was" if len(victims) > 1 else "the pod was"
        message = (
            f"{whole} not all bound within {world.settings.bind_timeout_seconds} s and is taken back; "
            f"next try in {spoken(max(0, world.backoff[key][1] - now))}{JOBS}"
        )
        unbound = next((victim.uid for victim in victims if not victim.node), "")
        for victim in victims:
            actions += evict(world, victim, "TakenBack", message, now, unbound)
        heapq.heappush(world.deadlines, (now + REPEAT_SECONDS, uid))
    return actions


def end_what_is_over(world: World, states: list[GrantState], now: int) -> list[Action]:
    """Evict the pods of grants whose grace is over, or that are to be drained."""
    actions: list[Action] = []
    for state in states:
        spec = state.grant.spec
        if spec is None:
            continue
        if state.end and now >= state.grace_end:
            grace = spoken(spec.term.grace_seconds)
            message = (
                f"grant {state.grant.name} ended on {spec.term.end}, and its grace of {grace} is over{JOBS}"
            )
        elif spec.suspend == "Drain":
            message = f"grant {state.grant.name} is suspended with Drain{JOBS}"
        else:
            continue
        usage = world.usage.get(state.grant.uid)
        for uid in sorted(usage.pods) if usage else ():
            if uid in world.pods and uid not in world.assumed:
                actions += evict(world, world.pods[uid], "Evicting", message, now)
        if usage and usage.pods:
            heapq.heappush(world.edges, (now + REPEAT_SECONDS, state.grant.uid))
    return actions


def evict(world: World, pod: Pod, reason: str, message: str, now: int, unbound: str = "") -> list[Action]:
    """Return the eviction of a pod, unless it is under way; ``unbound`` names the pod it is for.

    A pod that its tenant deletes with years of grace is not on its way: an eviction with less shortens that.
    """
    ceiling = world.settings.grace_period_ceiling_seconds
    asked = world.evicting.get(pod.uid)
    if 0 < pod.deleting <= now + ceiling or (asked is not None and now < asked + REPEAT_SECONDS):
        return []
    if not world.may_try(pod.uid):
        return []
    world.evicting[pod.uid] = now
    grace = min(pod.grace_seconds, ceiling)
    return [EvictPod(pod.uid, pod.namespace, pod.name, grace, True, reason, message, unbound)]
