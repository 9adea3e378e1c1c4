"""A grant's status: accepted, allocated, ready, degraded; where, used and left; what comes next."""

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.reasons import Verdict, counted, rfc3339
from gpugrant.decide.state import GrantState
from gpugrant.decide.statuses import Doc, condition, not_enforced
from gpugrant.decide.telling import spoken
from gpugrant.decide.world import World


def grant_status(world: World, state: GrantState, now: int) -> Doc:
    """Return a grant's status."""
    grant, old, gen = state.grant, state.grant.status, state.grant.generation
    usage = world.usage.get(grant.uid)
    ready = ready_verdict(world, state, now)
    degraded, degraded_words = failed_seats(world, state)
    conditions = [
        condition(
            old, "Accepted", state.accepted.ok, state.accepted.reason, state.accepted.message, gen, now
        ),
        condition(
            old, "Allocated", state.allocated.ok, state.allocated.reason, state.allocated.message, gen, now
        ),
        condition(old, "Ready", ready.ok, ready.reason, ready.message, gen, now),
        condition(
            old,
            "Degraded",
            degraded,
            reasons.SEATS_FAILED if degraded else reasons.ALL_HEALTHY,
            degraded_words,
            gen,
            now,
        ),
        *_not_enforced(world, state, now),
    ]
    held = usage.held if usage else 0
    used = world.used_seconds.get(grant.uid, 0)
    left = _seconds_left(state, used, now)
    placed = bool(state.pool)
    return {
        "observedGeneration": gen,
        "conditions": conditions,
        "allocation": {
            "pool": state.pool,
            "fabric": state.fabric,
            "servers": list(state.servers),
            "gpus": state.seats,
        }
        if placed
        else None,
        "usage": {
            "held": held,
            "reserved": usage.reserved if usage else 0,
            "waiting": world.waiting_on(state),
            "gpuSeconds": used,
            "gpuSecondsLeft": left,
        },
        "positionInLine": state.position or None,
        "summary": {
            "why": _why(state, ready),
            "leftHours": str(left // 3600) if left is not None and placed else "",
            "lastDay": grant.spec.term.last_day(state.zone).isoformat() if grant.spec and state.zone else "",
            "next": _next(state, now),
        },
    }


def ready_verdict(world: World, state: GrantState, now: int) -> Verdict:
    """Return the state word of a grant, the reason of Ready."""
    spec = state.grant.spec
    usage = world.usage.get(state.grant.uid)
    if spec is None or (not state.accepted.ok and not state.pool):
        return Verdict(False, reasons.REJECTED, state.accepted.message)
    if now >= state.end:
        if now < state.grace_end and usage and usage.taken:
            return Verdict(
                False, reasons.GRACE, f"the term ended; what runs is evicted at {rfc3339(state.grace_end)}"
            )
        return Verdict(False, reasons.ENDED, f"the term ended on {spec.term.end}")
    if not state.accepted.ok:
        return Verdict(
            False, reasons.REJECTED, f"{state.accepted.message}; what runs stays, nothing new starts"
        )
    if spec.suspend != "None":
        return Verdict(False, reasons.SUSPENDED, f"spec.suspend is {spec.suspend}: nothing new starts")
    if not state.allocated.ok:
        return Verdict(False, reasons.WAITLISTED, state.allocated.message)
    if now < state.start:
        return Verdict(False, reasons.SCHEDULED, f"starts on {spec.term.start}")
    if not state.shared:
        missing = [
            n for n in state.servers if n in world.servers and not _is_labelled(world, n, state.grant.uid)
        ]
        if missing:
            return _busy(world, state, missing, now)
    return Verdict(True, reasons.ACTIVE, state.allocated.message)


def _is_labelled(world: World, name: str, uid: str) -> bool:
    server = world.servers[name]
    return server.node is None or server.label(names.GRANT_UID_LABEL) == uid


def _busy(world: World, state: GrantState, missing: list[str], now: int) -> Verdict:
    count = f"{len(missing)} of {counted(len(state.servers), 'server')}"
    for name in missing:
        other = world.grants.get(world.servers[name].label(names.GRANT_UID_LABEL))
        if other and other.grant.uid != state.grant.uid and world.servers[name].pods:
            return Verdict(
                len(missing) < len(state.servers),
                reasons.PREDECESSOR_IN_GRACE,
                f"{count} still used by {other.grant.key}, whose grace ends at {rfc3339(other.grace_end)}",
            )
    if any(world.servers[name].pods for name in missing):
        return Verdict(
            len(missing) < len(state.servers), reasons.SERVERS_BUSY, f"{count} still used by others"
        )
    return Verdict(len(missing) < len(state.servers), reasons.SERVERS_BUSY, f"{count} being handed over")


def failed_seats(world: World, state: GrantState) -> tuple[bool, str]:
    """Say whether seats of a grant are failed, and which."""
    failed, first = 0, ""
    pool = world.pools.get(state.pool)
    if pool is None:
        return False, "no seats"
    for name in state.servers:
        server = world.servers.get(name)
        if server is None or server.node is None:
            failed += pool.size
            first = first or f"node {name} is gone"
            continue
        seats = world.seats_failed(server)
        if seats:
            failed += seats
            node = server.node
            first = first or (
                f"node {name} NotReady since {rfc3339(node.ready_since)}"
                if not node.ready
                else f"node {name} is cordoned"
                if node.unschedulable
                else f"node {name} has {seats} unhealthy GPUs"
            )
    if not failed:
        return False, "all seats are healthy"
    return True, f"{first}; {failed} of {state.seats} GPUs failed"


def _not_enforced(world: World, state: GrantState, now: int) -> list[Doc]:
    grant, spec, gen = state.grant, state.grant.spec, state.grant.generation
    if spec is None:
        return []
    found = []
    if spec.budget:
        found.append(
            not_enforced(
                grant.status,
                "BudgetNotEnforced",
                "spec.budget is kept and shown; nothing is held or drained for it yet",
                gen,
                now,
            )
        )
    if spec.idle and spec.idle.lend:
        found.append(
            not_enforced(grant.status, "LendingNotEnforced", "idle seats are not lent yet", gen, now)
        )
    usage = world.usage.get(grant.uid)
    if usage and state.pool and usage.taken > min(state.seats, spec.gpus):
        found.append(
            not_enforced(
                grant.status,
                "EvictionNotEnforced",
                f"{usage.taken} GPUs are held or reserved, {state.seats} granted: nothing new starts; "
                "what runs is not evicted yet",
                gen,
                now,
            )
        )
    return found


def _seconds_left(state: GrantState, used: int, now: int) -> int | None:
    spec = state.grant.spec
    if spec is None:
        return None
    seats = state.seats or spec.gpus
    # As of the full hour: the figure is shown in hours, and nothing is written while nothing happens.
    left = seats * max(0, state.end - max(now // 3600 * 3600, state.start))
    if spec.budget:
        left = min(left, max(0, spec.budget.gpu_hours * 3600 - used))
    return int(left)


def _why(state: GrantState, ready: Verdict) -> str:
    if ready.reason == reasons.REJECTED:
        return f"{state.accepted.reason}: {state.accepted.message}"
    if ready.reason == reasons.ACTIVE and state.allocated.reason != reasons.GROWTH_WAITLISTED:
        return ""
    return ready.message


def _next(state: GrantState, now: int) -> str:
    spec = state.grant.spec
    if spec is None or not state.accepted.ok:
        return ""
    if now < state.start:
        return f"starts {spec.term.start}"
    if now < state.end:
        return f"ends {spec.term.end}, then {spoken(spec.term.grace_seconds)} of grace"
    return ""
