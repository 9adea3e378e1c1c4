"""The gauges' figures, read off the planner's world."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime

from gpugrant.decide.grant_status import ready_verdict
from gpugrant.decide.judge import tenant_limit
from gpugrant.decide.pool_status import granted_seats
from gpugrant.decide.servers import wanted_owner
from gpugrant.decide.state import OWN_USE, PUBLIC, GrantState, Server
from gpugrant.decide.world import World
from gpugrant.expose.figures import Figures, GrantFigures, QuotaFigures, ShareFigures, WaitingFigures
from gpugrant.meter import facts
from gpugrant.meter.facts import Failure
from gpugrant.meter.spans import is_announced
from gpugrant.meter.tally import Tally

Announced = Callable[[Server], bool]


def announced_at(now: int, tally: Tally | None = None) -> Announced:
    """Return what says whether a server is in a maintenance window that was announced long enough before.

    The ledger knows since when a window was announced, and its rule decides. Without a ledger the node's annotation
    is all there is, and the window in it counts.
    """
    if tally is None:
        return lambda server: server.node is not None and _in_window(server.node.maintenance, now)
    known = tally.histories.of(facts.Announced)
    return lambda server: is_announced(known.get(server.name, ()), now)


def figures(world: World, now: int, tally: Tally | None = None) -> Figures:
    """Return all gauges' figures at this moment; one walk over the servers."""
    announced = announced_at(now, tally)
    return Figures(
        shares=_share_figures(world, now, announced),
        grants=tuple(_grant_figures(world, s, now) for _, s in sorted(world.grants.items())),
        quotas=_quota_figures(world, now),
        waiting=_waiting_figures(world),
        failures=failures(world, announced),
    )


def _split(
    world: World, server: Server, size: int, now: int, announced: Announced
) -> tuple[int, int, int, int, int, int]:
    """Return a server's seats as free, granted, held, reserved, failed, maintenance; disjoint."""
    failed = min(size, world.seats_failed(server))
    maintenance = 0
    if _in_maintenance(server, announced):
        failed, maintenance = 0, size
    rest = size - failed - maintenance
    held = min(rest, server.seats_held)
    reserved = min(rest - held, server.seats_used - server.seats_held)
    rest -= held + reserved
    granted = rest if wanted_owner(world, server, now) else 0
    return rest - granted, granted, held, reserved, failed, maintenance


def _in_maintenance(server: Server, announced: Announced) -> bool:
    """Say whether a server is cordoned as was announced; one that is not Ready is Failed all the same."""
    return bool(server.node and server.node.ready and server.node.unschedulable and announced(server))


def _in_window(window: str, now: int) -> bool:
    """Say whether a moment lies in START/END, two RFC 3339 times with an offset; False for anything else."""
    start, _, end = window.partition("/")
    try:
        edges = [datetime.fromisoformat(edge) for edge in (start, end)]
    except ValueError:
        return False
    return all(edge.tzinfo for edge in edges) and edges[0].timestamp() <= now < edges[1].timestamp()


def _share_figures(world: World, now: int, announced: Announced) -> tuple[ShareFigures, ...]:
    found = []
    for name, pool in sorted(world.pools.items()):
        spec = pool.pool.spec
        if spec is None:
            continue
        sums = {share: [0] * 6 for share in (PUBLIC, OWN_USE)}
        for server_name in pool.servers:
            server = world.servers[server_name]
            row = sums[server.share or PUBLIC]
            for at, seats in enumerate(_split(world, server, pool.size, now, announced)):
                row[at] += seats
        for share, row in sums.items():
            free, granted, held, reserved, failed, maintenance = row
            # Grants on shared servers have no servers of their own: their unused seats are taken off what is free.
            idle = max(0, granted_seats(world, name, share, now) - granted - held - reserved)
            moved = min(free, idle) if _has_shared(world, name, share) else 0
            found.append(
                ShareFigures(
                    programme=spec.programme,
                    provider=spec.provider,
                    pool=name,
                    gpu_type=spec.gpu_type,
                    share=share,
                    promised=spec.public_share.gpus if spec.public_share and share == PUBLIC else None,
                    free=free - moved,
                    granted=granted + moved,
                    held=held,
                    reserved=reserved,
                    failed=failed,
                    maintenance=maintenance,
                )
            )
    return tuple(found)


def _has_shared(world: World, pool: str, share: str) -> bool:
    return any(s.pool == pool and s.shared and s.line[2] == share for s in world.grants.values())


def _grant_figures(world: World, state: GrantState, now: int) -> GrantFigures:
    usage = world.usage.get(state.grant.uid)
    pool = world.pools.get(state.pool)
    failed = sum(
        (world.seats_failed(world.servers[n]) if n in world.servers and world.servers[n].node else pool.size)
        for n in state.servers
        if pool
    )
    held, reserved = (usage.held, usage.reserved) if usage else (0, 0)
    spec = state.grant.spec
    return GrantFigures(
        programme=state.programme,
        gpu_type=state.line[1],
        share=state.line[2],
        tenant=state.tenant,
        tenant_namespace=state.grant.namespace,
        grant=state.grant.name,
        uid=state.grant.uid,
        provider=pool.pool.spec.provider if pool and pool.pool.spec else "",
        pool=state.pool,
        award=spec.award.id if spec and spec.award else "",
        track=_track(world, state),
        state=ready_verdict(world, state, now).reason,
        wanted=spec.gpus if spec else 0,
        granted=max(0, state.seats - failed - held - reserved),
        held=held,
        reserved=reserved,
        failed=min(failed, max(0, state.seats - held - reserved)),
        end=state.end,
        budget_gpu_seconds=spec.budget.gpu_hours * 3600 if spec and spec.budget else None,
    )


def _track(world: World, state: GrantState) -> str:
    """Return the grant's track of the programme, else its tenant's."""
    quota = world.quotas.get(state.tenant)
    own = state.grant.spec.track if state.grant.spec else None
    return own or (quota.spec.track if quota and quota.spec else None) or ""


def _quota_figures(world: World, now: int) -> tuple[QuotaFigures, ...]:
    found = []
    lines: dict[tuple[str, tuple[str, str, str]], list[GrantState]] = defaultdict(list)
    for state in world.grants.values():
        if state.tenant and state.line[0]:
            lines[state.tenant, state.line].append(state)
    for name, quota in world.quotas.items():
        for limit in quota.spec.limits if quota.spec else ():
            lines[name, (limit.programme, limit.gpu_type, limit.share)] += []
    for (tenant, line), states in sorted(lines.items(), key=lambda item: item[0]):
        found.append(
            QuotaFigures(
                programme=line[0],
                gpu_type=line[1],
                share=line[2],
                tenant=tenant,
                limit=tenant_limit(world, tenant, line),
                granted=sum(s.seats for s in states if s.pool and now < s.end),
                held=sum(world.usage[s.grant.uid].held for s in states if s.grant.uid in world.usage),
            )
        )
    return tuple(found)


def _waiting_figures(world: World) -> tuple[WaitingFigures, ...]:
    sums: dict[tuple[str, str, str, str], int] = defaultdict(int)
    types: dict[tuple[str, tuple[str, str, str, str]], tuple[str, str]] = {}
    for uid, entry in world.entries.items():
        if entry.kind != "waiting" or entry.lane is None:
            continue
        key = (entry.tenant, entry.lane)
        if key not in types:
            types[key] = _asked_type(world, entry.tenant, entry.lane)
        programme, gpu_type = types[key]
        sums[programme, gpu_type, entry.tenant, world.why_waiting.get(uid, "Queued")] += entry.seats
    return tuple(
        WaitingFigures(programme=p, gpu_type=g, tenant=t, reason=r, gpus=n)
        for (p, g, t, r), n in sorted(sums.items())
    )


def _asked_type(world: World, tenant: str, lane: tuple[str, str, str, str]) -> tuple[str, str]:
    """Return programme and GPU type of the grant that a lane's pods would use first."""
    _, grant, resource, product = lane
    fitting = [
        state
        for state in (world.grants[uid] for uid in world.grants_of(tenant))
        if state.grant.spec
        and (state.grant.name == grant if grant else world.resource_of_type(state.line[1]) == resource)
        and (not product or state.line[1] == product)
    ]
    runs_now = min(
        fitting,
        key=lambda s: (not s.pool, not s.start <= world.now < s.end, s.end, s.grant.name),
        default=None,
    )
    return (runs_now.programme, runs_now.line[1]) if runs_now else ("", product)


def failures(world: World, announced: Announced) -> tuple[Failure, ...]:
    """Return what is failed now, by server and cause; maintenance as announced is none."""
    found = []
    for name, pool in sorted(world.pools.items()):
        spec = pool.pool.spec
        if spec is None or not world.tally_failed(name):
            continue
        for server_name in sorted(pool.servers):
            server = world.servers[server_name]
            seats = world.seats_failed(server)
            node = server.node
            if not seats or node is None or _in_maintenance(server, announced):
                continue
            cause = (
                "NotReady"
                if not node.ready
                else "Cordoned"
                if node.unschedulable
                else "MissingSeats"
                if node.seats_installed(pool.resource) < pool.size
                else "Unhealthy"
            )
            found.append(
                Failure(
                    programme=spec.programme,
                    provider=spec.provider,
                    pool=name,
                    gpu_type=spec.gpu_type,
                    share=server.share,
                    server=server_name,
                    cause=cause,
                    since=node.ready_since if cause == "NotReady" else 0,
                    seats=seats,
                )
            )
    return tuple(found)
