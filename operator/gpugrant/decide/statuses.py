"""The status of our objects, as documents to write; the words people read in kubectl (R6).

Absent optional fields are None, which removes them in a merge patch.
"""

from typing import Any

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.judge import tenant_limit
from gpugrant.decide.reasons import Verdict, counted, rfc3339
from gpugrant.decide.release import spoken
from gpugrant.decide.state import OWN_USE, PUBLIC, GrantState, PoolState
from gpugrant.decide.world import World
from gpugrant.model.objects import Quota

Doc = dict[str, Any]


def condition(old: Doc, kind: str, ok: bool, reason: str, message: str, generation: int, now: int) -> Doc:
    """Return a condition; its transition time moves only when its status does."""
    status = "True" if ok else "False"
    since = rfc3339(now)
    for known in old.get("conditions") or ():
        if known.get("type") == kind and known.get("status") == status:
            since = known.get("lastTransitionTime") or since
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message[:1024],
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


def differs(wanted: Doc, written: Doc) -> bool:
    """Say whether a merge patch of ``wanted`` would change ``written``."""
    for key, value in wanted.items():
        have = written.get(key)
        if isinstance(value, dict) and isinstance(have, dict):
            if differs(value, have):
                return True
        elif isinstance(value, dict):
            if have is not None or any(v is not None for v in value.values()):
                return True
        elif value != have:
            return True
    return False


# -- pools -------------------------------------------------------------------------------------------


def pool_status(world: World, state: PoolState, now: int) -> Doc:
    """Return a pool's status."""
    pool, old = state.pool, state.pool.status
    if pool.spec is None:
        return {
            "observedGeneration": pool.generation,
            "conditions": [
                condition(old, "Ready", False, reasons.INVALID_SPEC, pool.error, pool.generation, now)
            ],
        }
    shares = {share: world.tally[pool.name, share] for share in (PUBLIC, OWN_USE, "")}
    installed = sum(t.installed for t in shares.values())
    failed = sum(t.failed for t in shares.values())
    promised = pool.spec.public_share.gpus if pool.spec.public_share else installed
    met, share_reason, share_words = _share_met(state, shares[PUBLIC].installed, promised, installed)
    valid, valid_reason, valid_words = _nodes_valid(world, state)
    if not installed:
        ready = Verdict(False, reasons.NO_SERVERS, f"no node matches the pool: {_selector_words(state)}")
    elif not met:
        ready = Verdict(True, reasons.SHARE_SHORT, share_words)
    elif not valid:
        ready = Verdict(True, valid_reason, valid_words)
    else:
        ready = Verdict(True, reasons.READY, f"{counted(len(state.servers), 'server')}, {installed} GPUs")
    granted = {share: granted_seats(world, pool.name, share, now) for share in (PUBLIC, OWN_USE)}

    def share_doc(share: str, promised_gpus: int) -> Doc:
        tally = shares[share]
        return {
            "installed": tally.installed,
            "promised": promised_gpus,
            "granted": granted[share],
            "free": max(0, tally.installed - tally.failed - granted[share]),
            "held": tally.held,
        }

    gen = pool.generation
    conditions = [
        condition(old, "Ready", ready.ok, ready.reason, ready.message, gen, now),
        condition(old, "ShareMet", met, share_reason, share_words, gen, now),
        condition(old, "NodesValid", valid, valid_reason, valid_words, gen, now),
    ]
    if pool.spec.delivery:
        conditions.append(
            _later(
                old,
                "DeliveryNotAccounted",
                "spec.delivery is kept; contracted capacity is not accounted yet",
                gen,
                now,
            )
        )
    return {
        "observedGeneration": gen,
        "conditions": conditions,
        "servers": len(state.servers),
        "gpus": {"installed": installed, "healthy": installed - failed, "failed": failed},
        "public": share_doc(PUBLIC, promised),
        "ownUse": share_doc(OWN_USE, max(0, installed - promised)),
        "summary": {
            "public": f"{shares[PUBLIC].held}/{granted[PUBLIC]}/{promised}",
            "ownUse": f"{shares[OWN_USE].held}/{shares[OWN_USE].installed}",
            "why": "" if ready.reason == reasons.READY else ready.message,
        },
    }


def _share_met(state: PoolState, public: int, promised: int, installed: int) -> tuple[bool, str, str]:
    if public >= promised and installed:
        return True, reasons.SHARE_MET, f"{public} of {promised} promised GPUs are public"
    short = promised - public
    if not installed:
        return (
            False,
            reasons.NO_SERVERS,
            f"public share {promised} GPUs short of the promise: no server is there",
        )
    if state.shares_pending:
        return (
            False,
            reasons.SERVERS_IN_USE,
            f"public share {short} GPUs short of the promise: own-use servers become public as they empty",
        )
    return False, reasons.SHARE_SHORT, f"public share {short} GPUs short of the promise of {promised}"


def _nodes_valid(world: World, state: PoolState) -> tuple[bool, str, str]:
    if state.doubtful:
        which = sorted(state.doubtful)
        others = sorted({n for name in which for n in world.servers[name].claims} - {state.pool.name})
        return (
            False,
            reasons.CLAIMED_TWICE,
            f"{counted(len(which), 'node')} also match {', '.join(others)} ({_some(which)}): "
            "make the pools' nodeSelectors disjoint",
        )
    if state.oversized:
        large = sorted(state.oversized)
        return (
            False,
            reasons.TOO_MANY_SEATS,
            f"{counted(len(large), 'node')} offer more than gpusPerServer = {state.size} ({_some(large)}): "
            "raise gpusPerServer or select other nodes",
        )
    return True, reasons.ALL_VALID, "every node belongs to one pool and has the seats it should"


def _some(which: list[str]) -> str:
    return ", ".join(which[:3]) + (f" and {len(which) - 3} more" if len(which) > 3 else "")


def _selector_words(state: PoolState) -> str:
    spec = state.pool.spec
    assert spec
    if spec.node_selector:
        return ", ".join(f"{k}={v}" for k, v in spec.node_selector.match_labels.items())
    return f"{names.PROVIDER_LABEL}={spec.provider}, {names.PRODUCT_LABEL}={spec.gpu_type}"


def granted_seats(world: World, pool: str, share: str, now: int) -> int:
    """Return how many seats of a share grants have now."""
    return world.granted.get((pool, share), 0)


def _later(old: Doc, kind: str, words: str, generation: int, now: int) -> Doc:
    return condition(old, kind, True, reasons.NOT_ENFORCED, words, generation, now)


# -- grants ------------------------------------------------------------------------------------------


def grant_status(world: World, state: GrantState, now: int) -> Doc:
    """Return a grant's status."""
    grant, old, gen = state.grant, state.grant.status, state.grant.generation
    usage = world.usage.get(grant.uid)
    ready = ready_verdict(world, state, now)
    degraded, degraded_words = _degraded(world, state)
    conditions = [
        condition(
            old, "Accepted", state.accepted.ok, state.accepted.reason, state.accepted.message, gen, now
        ),
        condition(
            old, "Allocated", state.allocated.ok, state.allocated.reason, state.allocated.message, gen, now
        ),
        condition(old, "Ready", ready.ok, ready.reason, ready.message, gen, now),
        condition(
            old, "Degraded", degraded, "SeatsFailed" if degraded else "AllHealthy", degraded_words, gen, now
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


def _degraded(world: World, state: GrantState) -> tuple[bool, str]:
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
            _later(
                grant.status,
                "BudgetNotEnforced",
                "spec.budget is kept and shown; nothing is held or drained for it yet",
                gen,
                now,
            )
        )
    if spec.idle and spec.idle.lend:
        found.append(_later(grant.status, "LendingNotEnforced", "idle seats are not lent yet", gen, now))
    usage = world.usage.get(grant.uid)
    if usage and state.pool and usage.taken > min(state.seats, spec.gpus):
        found.append(
            _later(
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


# -- quotas ------------------------------------------------------------------------------------------


def quota_status(world: World, quota: Quota, now: int) -> Doc:
    """Return a tenant's status."""
    gen, old = quota.generation, quota.status
    lines = {(s.line) for uid in world.grants_of(quota.name) if (s := world.grants[uid]).line[0]}
    hours = False
    for limit in quota.spec.limits if quota.spec else ():
        lines.add((limit.programme, limit.gpu_type, limit.share))
        hours = hours or limit.gpu_hours_per_month is not None
    rows: list[Doc] = []
    for line in sorted(lines):
        states = [world.grants[u] for u in world.grants_of(quota.name) if world.grants[u].line == line]
        seconds = sum(world.month_seconds.get(s.grant.uid, 0) for s in states)
        most = tenant_limit(world, quota.name, line)
        rows.append(
            {
                "programme": line[0],
                "gpuType": line[1],
                "share": line[2],
                **({} if most is None else {"limit": most}),
                "granted": sum(s.seats for s in states if s.pool and now < s.end),
                "held": sum(world.usage[s.grant.uid].held for s in states if s.grant.uid in world.usage),
                "gpuHoursThisMonth": seconds // 3600,
            }
        )
    spaces = sorted(world.spaces.get(quota.name, ()))
    ready = (
        Verdict(False, reasons.INVALID_SPEC, quota.error)
        if quota.spec is None
        else Verdict(True, reasons.READY, counted(len(spaces), "namespace"))
        if spaces
        else Verdict(
            True, "NoNamespace", f"no namespace has the label {names.TENANT_LABEL}: {quota.name} yet"
        )
    )
    conditions = [condition(old, "Ready", ready.ok, ready.reason, ready.message, gen, now)]
    if hours:
        conditions.append(
            _later(
                old,
                "GpuHoursNotEnforced",
                "limits[].gpuHoursPerMonth is kept and shown; nothing is held for it yet",
                gen,
                now,
            )
        )
    held, granted = sum(r["held"] for r in rows), sum(r["granted"] for r in rows)
    limited = bool(rows) and all("limit" in r for r in rows)
    total = str(sum(r["limit"] for r in rows)) if limited else "-"
    return {
        "observedGeneration": gen,
        "conditions": conditions,
        "namespaces": spaces,
        "limits": rows,
        "summary": {
            "gpus": f"{held}/{granted}/{total}",
            "hours": str(sum(r["gpuHoursThisMonth"] for r in rows)),
            "why": "" if ready.reason == reasons.READY else ready.message,
        },
    }
