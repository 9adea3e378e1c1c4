"""The line: which grants get which servers, in the order of R5.

An earlier grant that has to wait casts a shadow on the servers it will get soonest; a later one is only placed
where it stays out of it. What is allocated stays allocated.
"""

import heapq
from collections import defaultdict

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.bookings import Calendar, Place, Wish
from gpugrant.decide.judge import judge, line_order, pools_for, quota_room, read_terms
from gpugrant.decide.reasons import Verdict, rfc3339
from gpugrant.decide.state import Booking, GrantState, PoolState
from gpugrant.decide.world import World

Line = tuple[str, str, str]


def keep_bookings(world: World, line: Line, now: int) -> list[GrantState]:
    """Read the terms of a line's grants, book again what they have; return them in line order."""
    states = sorted(
        (s for s in world.grants.values() if world.line_of(s.grant) == line),
        key=lambda s: line_order(s.grant),
    )
    members = {s.grant.uid for s in states}
    for pool in pools_of_line(world, line):
        for name in pool.servers:
            server = world.servers[name]
            if server.bookings:
                server.bookings = [
                    b for b in server.bookings if b.grant in world.grants and b.grant not in members
                ]
    for state in states:
        read_terms(world, state)
    # What was promised stays promised: a term that is made longer ends, server by server, where the next one begins.
    for state in sorted(states, key=lambda s: -s.start):
        _keep(world, state, now)
        edges = (state.start, state.end, state.grace_end)
        if edges != state.edges:
            state.edges = edges
            for instant in edges:
                heapq.heappush(world.edges, (instant, state.grant.uid))
    return states


def pools_of_line(world: World, line: Line) -> list[PoolState]:
    """Return the pools a line's grants may be in, by name."""
    return [
        pool
        for _, pool in sorted(world.pools.items())
        if pool.pool.spec and (pool.pool.spec.programme, pool.pool.spec.gpu_type) == line[:2]
    ]


def _keep(world: World, state: GrantState, now: int) -> None:
    """Keep the servers a grant has already, as this process or the status remembers them."""
    had = state.grant.allocation
    if not state.pool and had:
        state.pool, state.fabric, state.servers, state.seats = had.pool, had.fabric, had.servers, had.gpus
    spec = state.grant.spec
    pool = world.pools.get(state.pool)
    if pool is None or pool.pool.spec is None or spec is None or now >= state.grace_end:
        state.pool, state.fabric, state.servers, state.seats = "", "", (), 0
        return
    if (pool.pool.spec.programme, pool.pool.spec.gpu_type) != state.line[:2]:
        state.pool, state.fabric, state.servers, state.seats = "", "", (), 0
        return
    if state.shared or now >= state.end:
        return  # what is over books nothing; its servers stay named until the grace is over
    kept = []
    state.cut_at = 0
    for name in state.servers:
        server = world.servers.get(name)
        if server and server.node:
            share = server.share or server.label(names.SHARE_LABEL)
            if (
                share
                and share != spec.share
                and any(p.grant_uid == state.grant.uid for p in server.pods.values())
            ):
                share = server.share = (
                    spec.share
                )  # somebody changed the label by hand; what runs tells better
                world.stand(server)
            if server.pool != state.pool or (share and share != spec.share):
                continue
            others = [
                b for b in server.bookings if b.end > now and b.start < state.end and state.start < b.end
            ]
            end = min((b.start for b in others), default=state.end)
            if end <= max(now, state.start):
                continue
            if end < state.end:
                state.cut_at = min(end, state.cut_at or end)
            server.bookings.append(Booking(state.start, end, state.grant.uid))
        kept.append(name)  # a server whose node is gone stays theirs: it comes back under its name
    state.servers = tuple(kept)
    if not kept and not (world.usage[state.grant.uid].pods if state.grant.uid in world.usage else ()):
        state.pool, state.fabric, state.seats = "", "", 0  # all of it went to others: back into the line


def run_line(world: World, line: Line, states: list[GrantState], now: int) -> None:
    """Judge and place all grants of a line."""
    pools = pools_of_line(world, line)
    calendar = Calendar(world, pools, line[2], now)
    # Who is placed comes first in the tenant's quota, and may move the shadow of one that waits: go on until nothing
    # changes any more.
    before: object = None
    while before != (before := [(s.pool, s.servers, s.accepted.reason) for s in states]):
        _judge_all(world, calendar, states, now)
        calendar.clear_shadows()
        for state in states:
            _place(world, calendar, state, now)
    _say_why_not(world, calendar, states, now)


def _judge_all(world: World, calendar: Calendar, states: list[GrantState], now: int) -> None:
    calendar.shared.clear()
    accepted: dict[str, list[GrantState]] = defaultdict(list)  # by tenant
    for state in sorted(states, key=lambda s: (not s.pool, line_order(s.grant))):
        # What is over stands as it was granted, whoever came since.
        state.accepted = judge(world, state, accepted[state.tenant] if now < state.end else [])
        if now < state.end:
            _let_go_if_conflicted(world, calendar, state)
        if state.accepted.ok and now < state.end:
            accepted[state.tenant].append(state)
        if state.shared and state.pool and now < state.end:
            calendar.shared[state.pool].append(state)


def _say_why_not(world: World, calendar: Calendar, states: list[GrantState], now: int) -> None:
    """Give those that wait their position and their words, now that all who could be placed are."""
    calendar.clear_shadows()
    position = 0
    for state in states:
        state.position = 0
        spec = state.grant.spec
        if spec is None or not state.accepted.ok or state.allocated.ok or now >= state.end:
            continue
        position += 1
        state.position = position
        pools = [p for p in pools_for(world, state) if spec.gpus % p.size == 0]
        verdict = state.allocated
        if pools and not state.shared:
            wish = Wish(state, spec.share, spec.gpus // pools[0].size, max(state.start, now), state.end)
            verdict = _why_not(calendar, wish, pools)
        words = f"{reasons.ordinal(position)} in line; {verdict.message}"
        state.allocated = Verdict(False, verdict.reason, words)


def _let_go_if_conflicted(world: World, calendar: Calendar, state: GrantState) -> None:
    """Take the seats of a grant that was placed a moment before its conflict of interest was known.

    Watches are not in step: a grant may be seen before the pool that forbids it. What runs, or ran, stays (R8).
    """
    usage = world.usage.get(state.grant.uid)
    if (
        not state.pool
        or state.accepted.reason != reasons.CONFLICT_OF_INTEREST
        or (usage and usage.pods)
        or world.used_seconds.get(state.grant.uid)
    ):
        return
    calendar.unbook(state, state.servers)
    state.pool, state.fabric, state.servers, state.seats = "", "", (), 0


def _place(world: World, calendar: Calendar, state: GrantState, now: int) -> None:
    spec = state.grant.spec
    if now >= state.end and spec:
        state.allocated = Verdict(False, reasons.TERM_OVER, "the term is over")
        return
    if state.pool and spec:
        _adjust(world, calendar, state, now)
        return
    if not state.accepted.ok or spec is None:
        state.allocated = Verdict(False, reasons.NOT_ACCEPTED, state.accepted.message)
        return
    pools = pools_for(world, state)
    start = max(state.start, now)
    if state.shared:
        for pool in pools:
            if calendar.fits_shared(state, pool, start, spec.gpus):
                calendar.shared[pool.pool.name].append(state)
                _take(state, Place(pool.pool.name), spec.gpus)
                return
        calendar.cast_shared_shadow(state, pools, spec.gpus)
        state.allocated = Verdict(
            False,
            reasons.WAITLISTED,
            f"no room for {spec.gpus} more GPUs on shared servers before {spec.term.end}",
        )
        return
    fitting = [pool for pool in pools if spec.gpus % pool.size == 0]
    for pool in fitting:
        wish = Wish(state, spec.share, spec.gpus // pool.size, start, state.end)
        place = calendar.find_now(wish, pool)
        if place:
            calendar.book(wish, place)
            _take(state, place, spec.gpus)
            return
    if fitting:
        wish = Wish(state, spec.share, spec.gpus // fitting[0].size, start, state.end)
        state.allocated = Verdict(False, reasons.WAITLISTED)
        calendar.cast_shadow(wish, fitting)
    else:
        state.allocated = Verdict(
            False, reasons.WAITLISTED, "no pool has servers of a size that divides spec.gpus"
        )


def _why_not(calendar: Calendar, wish: Wish, pools: list[PoolState]) -> Verdict:
    spec = wish.state.grant.spec
    assert spec
    need = reasons.counted(wish.count, "server")
    if spec.placement == "OneFabric":
        largest = calendar.largest_free_fabric(wish, pools)
        if largest >= wish.count:
            return Verdict(
                False,
                reasons.BEHIND_IN_LINE,
                f"{need} are free, but kept for grants that come before it or for shared grants",
            )
        return Verdict(
            False,
            reasons.NO_FABRIC_LARGE_ENOUGH,
            f"largest free fabric has {largest} of {need}",
        )
    return Verdict(
        False,
        reasons.WAITLISTED,
        f"{calendar.count_free(wish, pools)} of {need} are free over the whole term",
    )


def _take(state: GrantState, place: Place, seats: int) -> None:
    state.pool, state.fabric, state.servers, state.seats = place.pool, place.fabric, place.servers, seats
    _allocated(state)


def _allocated(state: GrantState) -> None:
    where = f"fabric {state.fabric} of {state.pool}" if state.fabric else state.pool
    if state.shared:
        words = f"{state.seats} GPUs on shared servers of {where}"
    else:
        words = f"{reasons.counted(len(state.servers), 'server')} ({state.seats} GPUs) in {where}"
    if state.cut_at:
        words += f"; some go to grants that were promised them from {rfc3339(state.cut_at)} on"
    state.allocated = Verdict(True, reasons.ALLOCATED, words)


def _adjust(world: World, calendar: Calendar, state: GrantState, now: int) -> None:
    """Grow or shrink a grant that has its place."""
    spec = state.grant.spec
    pool = world.pools[state.pool]
    assert spec
    _allocated(state)
    if not state.accepted.ok:
        return  # what was granted stays as it was
    start = max(state.start, now)
    room = quota_room(world, state) if spec.gpus > state.seats else None
    if room is not None and spec.gpus > room:
        words = (
            f"has {state.seats} of {spec.gpus} GPUs; the tenant's limit leaves {max(0, room)} for this grant"
        )
        state.allocated = Verdict(True, reasons.GROWTH_WAITLISTED, words)
        return
    if state.shared:
        if spec.gpus <= state.seats or calendar.fits_shared(state, pool, start, spec.gpus):
            state.seats = spec.gpus
            _allocated(state)
        else:
            state.allocated = Verdict(
                True,
                reasons.GROWTH_WAITLISTED,
                f"has {state.seats} of {spec.gpus} GPUs; no room for more yet",
            )
        return
    wanted = spec.gpus // pool.size
    missing = wanted - len(state.servers)
    if missing < 0:
        _give_back(world, calendar, state, -missing)
        state.seats = min(spec.gpus, wanted * pool.size)
        _allocated(state)
    elif missing > 0:
        wish = Wish(
            state,
            spec.share,
            missing,
            start,
            state.end,
            fabric=state.fabric if spec.placement == "OneFabric" else "",
            taken=frozenset(state.servers),
        )
        place = calendar.find_now(wish, pool)
        if place:
            calendar.book(wish, place)
            state.servers = tuple(sorted(state.servers + place.servers))
            state.seats = spec.gpus
            _allocated(state)
        else:
            state.seats = len(state.servers) * pool.size
            where = f"in fabric {state.fabric}" if wish.fabric else f"in {state.pool}"
            state.allocated = Verdict(
                True,
                reasons.GROWTH_WAITLISTED,
                f"has {state.seats} of {spec.gpus} GPUs; {reasons.counted(missing, 'more server')} {where} "
                f"not free until {spec.term.end}",
            )
            calendar.cast_shadow(wish, [pool])
    else:
        state.seats = spec.gpus


def _give_back(world: World, calendar: Calendar, state: GrantState, surplus: int) -> None:
    """Give back servers that are empty; the others stay until their pods end."""
    empty = [n for n in reversed(state.servers) if not (n in world.servers and world.servers[n].pods)]
    calendar.unbook(state, empty[:surplus])
    gone = frozenset(empty[:surplus])
    state.surplus = len(gone) < surplus
    state.servers = tuple(n for n in state.servers if n not in gone)
