"""A tenant's status: per limit granted and held."""

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.judge import tenant_limit
from gpugrant.decide.reasons import Verdict, counted
from gpugrant.decide.statuses import Doc, condition, not_enforced
from gpugrant.decide.world import World
from gpugrant.model.objects import Quota


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
                "held": world.held_by(quota.name, line),
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
            True, reasons.NO_NAMESPACE, f"no namespace has the label {names.TENANT_LABEL}: {quota.name} yet"
        )
    )
    conditions = [condition(old, "Ready", ready.ok, ready.reason, ready.message, gen, now)]
    if hours:
        conditions.append(
            not_enforced(
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
