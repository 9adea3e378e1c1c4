"""Which servers of a pool are public (R2): whole fabrics first, stable, never out of what is in use.

A promise that is met is left alone. While it is not, servers without a share join the public one, and idle
servers may be exchanged so that whole fabrics become public; more than that, own use is only taken when the pool's
spec has changed since the promise was last met, or the pool says backfill: FreeOwnUse.
"""

from collections import defaultdict

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.state import OWN_USE, PUBLIC, PoolState, Server
from gpugrant.decide.world import World


def assign_shares(world: World, state: PoolState) -> None:
    """Set ``share`` on each server of the pool."""
    spec = state.pool.spec
    assert spec
    servers = [world.servers[name] for name in sorted(state.servers)]
    state.shares_pending = False
    if spec.public_share is None:
        for server in servers:
            _give(world, state, server, PUBLIC)
        return
    for server in servers:  # what the labels say is where things stand
        if not server.share:
            server.share = server.label(names.SHARE_LABEL)
            world.stand(server)
    promised = -(-spec.public_share.gpus // state.size)
    public = sum(1 for s in servers if s.share == PUBLIC)
    unassigned = sum(1 for s in servers if not s.share)
    target = min(
        promised,
        len(servers) if _may_convert(state) or not _pins_met(state, servers) else public + unassigned,
    )
    if spec.backfill == "FreeOwnUse":  # so many more as are failed; they go back when those are well again
        failed = sum(1 for s in servers if s.share == PUBLIC and not world.healthy(s))
        target = min(promised + failed, len(servers))
    if public == target and _pins_met(state, servers):
        wanted = {s.name for s in servers if s.share == PUBLIC}
    else:
        wanted = _choose(world, servers, target, frozenset(spec.public_share.fabrics))
    for server in servers:
        _give(world, state, server, PUBLIC if server.name in wanted else OWN_USE)
    if sum(1 for s in servers if s.share == PUBLIC) != target:
        state.shares_pending = True  # what is in use was left out of the choice: look again when it empties


def _may_convert(state: PoolState) -> bool:
    """Say whether own use may shrink: only for another promise than the one that was judged last.

    ShareMet is False after it was True when a public server was lost; that alone takes nothing from own use. While
    servers that should change are in use, the reason says so and the change stays due, over restarts too.
    """
    spec, status = state.pool.spec, state.pool.status
    assert spec and spec.public_share
    if (status.get("public") or {}).get("promised") != spec.public_share.gpus:
        return True
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    return "ShareMet" not in conditions or conditions["ShareMet"].get("reason") == reasons.SERVERS_IN_USE


def _pins_met(state: PoolState, servers: list[Server]) -> bool:
    spec = state.pool.spec
    assert spec and spec.public_share
    pins = frozenset(spec.public_share.fabrics)
    return all(s.share == PUBLIC for s in servers if s.fabric in pins)


def _choose(world: World, servers: list[Server], target: int, pins: frozenset[str]) -> set[str]:
    """Return the names of ``target`` public servers."""
    fabrics: dict[str, list[Server]] = defaultdict(list)
    for server in servers:
        fabrics[server.fabric].append(server)
    fixed_public = {s.name for s in servers if s.share == PUBLIC and in_use(world, s)}
    fixed_own = {s.name for s in servers if s.share == OWN_USE and (in_use(world, s) or not world.healthy(s))}
    chosen = set(fixed_public)

    def order(fabric: str) -> tuple[int, int, int, str]:
        here = fabrics[fabric]
        return (
            0 if fabric in pins else 1,
            0 if any(s.name in fixed_public for s in here) else 1,
            -len(here),
            fabric,
        )

    left: list[str] = []
    for fabric in sorted(fabrics, key=order):
        free = {s.name for s in fabrics[fabric]} - fixed_own - chosen
        whole = not any(s.name in fixed_own for s in fabrics[fabric])
        if (whole or fabric in pins) and len(free) <= target - len(chosen):
            chosen |= free
        else:
            left.append(fabric)
    # The rest comes out of as few fabrics as can be: the smallest that covers it, else the largest.
    while len(chosen) < target and left:
        missing = target - len(chosen)
        room = {f: [s for s in fabrics[f] if s.name not in chosen and s.name not in fixed_own] for f in left}
        covering = [f for f in left if len(room[f]) >= missing]
        pick = (
            min(covering, key=lambda f: (f not in pins, len(room[f]), f))
            if covering
            else max(left, key=lambda f: (len(room[f]), f))
        )
        left.remove(pick)
        by_share = sorted(room[pick], key=lambda s: (s.share != PUBLIC, s.name))
        chosen |= {s.name for s in by_share[:missing]}
    return chosen


def in_use(world: World, server: Server) -> bool:
    """Say whether a server must keep its share: pods on it, a grant's claim, or a fenced pod that could bind."""
    return bool(
        server.pods
        or any(booking.end > world.now for booking in server.bookings)
        or server.label(names.GRANT_UID_LABEL)
        or server.label(names.SHARED_FOR_LABEL)
        or fenced_could_bind(world, server)
    )


def fenced_could_bind(world: World, server: Server) -> bool:
    """Say whether an own-use pod that has no server yet could still come here."""
    provider = server.label(names.OWN_USE_LABEL)
    if not provider or not world.fenced.get(provider):
        return False
    free = world.seats_free(server)
    return any(0 < world.entries[uid].seats <= free for uid in world.fenced[provider])


def _give(world: World, state: PoolState, server: Server, share: str) -> None:
    if server.share == share:
        return
    if server.share and in_use(world, server):
        state.shares_pending = True
        return
    if not server.share and server.label(names.SHARE_LABEL) not in ("", share) and in_use(world, server):
        server.share = server.label(names.SHARE_LABEL)
        state.shares_pending = True
        return
    server.share = share
    world.stand(server)
    world.dirty_servers.add(server.name)
