"""Who has which servers when: the calendar that grants are placed on (R4, R7).

A grant has its servers over its whole term, so that one in the future finds them free. Servers are chosen so that
large fabrics stay unbroken: the smallest that fits is taken, and single servers come out of the most broken ones.
"""

from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct

from gpugrant import names
from gpugrant.decide.state import OWN_USE, GrantState, PoolState, Server
from gpugrant.decide.world import World

NEVER = 1 << 62


class Place(Struct, frozen=True):
    """Where a grant would go."""

    pool: str
    fabric: str = ""
    servers: tuple[str, ...] = ()


class Wish(Struct, frozen=True):
    """What is looked for: ``count`` servers over [start, end)."""

    state: GrantState
    share: str
    count: int
    start: int
    end: int
    fabric: str = ""  # growth: only here
    taken: frozenset[str] = frozenset()  # growth: these are had already


def free_from(server: Server, end: int, shadows: Iterable[tuple[int, int]] = ()) -> int:
    """Return the first instant from which nobody else has the server until ``end``."""
    latest = 0
    for booking in server.bookings:
        if booking.start < end and booking.end > latest:
            latest = booking.end
    for start, stop in shadows:
        if start < end and stop > latest:
            latest = stop
    return latest


class Calendar:
    """The servers of one line's pools with their bookings, and what earlier grants in line are waiting for."""

    def __init__(self, world: World, pools: list[PoolState], share: str) -> None:
        self.world = world
        self.pools = pools
        self.share = share
        self.shadows: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.shared: dict[str, list[GrantState]] = defaultdict(list)  # pool -> grants on shared servers
        self.servers = {
            pool.pool.name: [
                server
                for server in (world.servers[name] for name in sorted(pool.servers))
                if server.share == share
            ]
            for pool in pools
        }

    def find_now(self, wish: Wish, pools: list[PoolState]) -> Place | None:
        """Return a place that is free over the whole wish, or None."""
        for pool in pools:
            place = self._find(wish, pool, wish.start, usable=True)
            if place:
                return place
        return None

    def cast_shadow(self, wish: Wish, pools: list[PoolState]) -> None:
        """Reserve the place a waiting grant will get soonest, so that later ones cannot delay it.

        Failed servers count: they may heal any moment, and then they are the waiting grant's.
        """
        best: tuple[int, str, Place] | None = None
        for pool in pools:
            for when in self._instants(wish, pool):
                if best and when >= best[0]:
                    break
                place = self._find(wish, pool, when, usable=False)
                if place:
                    best = (when, pool.pool.name, place)
                    break
        if best:
            for name in best[2].servers:
                self.shadows[name].append((best[0], wish.end))

    def largest_free_fabric(self, wish: Wish, pools: list[PoolState]) -> int:
        """Return how many servers of one fabric are free for the wish, at best."""
        return max(
            (
                len(free)
                for pool in pools
                for free in self._free_by_fabric(wish, pool, wish.start, True).values()
            ),
            default=0,
        )

    def count_free(self, wish: Wish, pools: list[PoolState]) -> int:
        """Return how many servers are free for the wish in all."""
        return sum(
            len(free)
            for pool in pools
            for free in self._free_by_fabric(wish, pool, wish.start, True).values()
        )

    # -- shared servers --------------------------------------------------------------------------------

    def fits_shared(self, state: GrantState, pool: PoolState, start: int, seats: int) -> bool:
        """Say whether the servers that shared grants need are there over the whole term, with this one."""
        assert pool.pool.spec
        most = pool.pool.spec.max_shared_servers
        with_it = [*self.shared[pool.pool.name], state]
        for _, own, shared in self._profile(pool, start, state.end, with_it, {state.grant.uid: seats}):
            if shared + own > self._usable(pool) or (most is not None and shared > most):
                return False
        return True

    def _leaves_room_for_shared(self, wish: Wish, pool: PoolState) -> bool:
        shared = self.shared.get(pool.pool.name)
        if not shared:
            return True
        usable = self._usable(pool)
        return all(
            own + need + wish.count <= usable
            for _, own, need in self._profile(pool, wish.start, wish.end, shared, {})
        )

    def _usable(self, pool: PoolState) -> int:
        return sum(1 for s in self.servers[pool.pool.name] if self.world.healthy(s))

    def _profile(
        self, pool: PoolState, start: int, end: int, shared: list[GrantState], sizes: dict[str, int]
    ) -> list[tuple[int, int, int]]:
        """Return (instant, servers of their own, servers for shared grants) wherever that changes in the term."""
        assert pool.pool.spec
        booked: list[tuple[int, int]] = [
            (b.start, b.end) for s in self.servers[pool.pool.name] for b in s.bookings if b.end > start
        ]
        instants = {start, *(b for b, _ in booked if start < b < end)}
        instants |= {g.start for g in shared if start < g.start < end}
        rows = []
        for instant in sorted(instants):
            own = sum(1 for b, e in booked if b <= instant < e)
            seats: dict[str, int] = defaultdict(int)
            for grant in shared:
                if grant.start <= instant < grant.end or (
                    instant == start and grant.end > start >= grant.start
                ):
                    who = grant.tenant if pool.pool.spec.shared_tenancy == "PerTenant" else ""
                    seats[who] += sizes.get(grant.grant.uid, grant.seats)
            rows.append((instant, own, sum(-(-n // pool.size) for n in seats.values())))
        return rows

    # -- choosing --------------------------------------------------------------------------------------

    def _instants(self, wish: Wish, pool: PoolState) -> list[int]:
        ends = {
            b.end for s in self.servers[pool.pool.name] for b in s.bookings if wish.start < b.end < wish.end
        }
        ends |= {stop for s in self.servers[pool.pool.name] for _, stop in self.shadows.get(s.name, ())}
        return sorted({wish.start, *(e for e in ends if wish.start < e < wish.end)})

    def _find(self, wish: Wish, pool: PoolState, when: int, usable: bool) -> Place | None:
        if usable and not self._leaves_room_for_shared(wish, pool):
            return None
        free = self._free_by_fabric(wish, pool, when, usable)
        spec = wish.state.grant.spec
        assert spec
        if spec.placement == "OneFabric":
            large = [f for f, here in free.items() if len(here) >= wish.count]
            if not large:
                return None
            sizes = self._fabric_sizes(pool)
            fabric = min(
                large,
                key=lambda f: (-self._mine(free[f], wish), len(free[f]) - wish.count, sizes[f], f),
            )
            return Place(pool.pool.name, fabric, self._pick(free[fabric], wish))
        everywhere: list[Server] = []
        for fabric in sorted(free, key=lambda f: (-self._mine(free[f], wish), len(free[f]), f)):
            everywhere += free[fabric]
        if len(everywhere) < wish.count:
            return None
        return Place(pool.pool.name, "", self._pick(everywhere, wish, keep_order=True))

    def _mine(self, servers: list[Server], wish: Wish) -> int:
        uid = wish.state.grant.uid
        return sum(1 for s in servers if s.label(names.GRANT_UID_LABEL) == uid)

    def _pick(self, servers: list[Server], wish: Wish, keep_order: bool = False) -> tuple[str, ...]:
        uid = wish.state.grant.uid

        def order(item: tuple[int, Server]) -> tuple[int, int, int, str]:
            at, server = item
            return (
                0 if server.label(names.GRANT_UID_LABEL) == uid else 1,
                1 if server.pods or server.label(names.SHARED_FOR_LABEL) else 0,
                at if keep_order else 0,
                server.name,
            )

        chosen = sorted(enumerate(servers), key=order)[: wish.count]
        return tuple(sorted(server.name for _, server in chosen))

    def _fabric_sizes(self, pool: PoolState) -> dict[str, int]:
        sizes: dict[str, int] = defaultdict(int)
        for server in self.servers[pool.pool.name]:
            sizes[server.fabric] += 1
        return sizes

    def _free_by_fabric(
        self, wish: Wish, pool: PoolState, when: int, usable: bool
    ) -> dict[str, list[Server]]:
        free: dict[str, list[Server]] = defaultdict(list)
        for server in self.servers[pool.pool.name]:
            if wish.fabric and server.fabric != wish.fabric:
                continue
            if server.name in wish.taken or not self._may_be_given(server, wish, usable):
                continue
            if free_from(server, wish.end, self.shadows.get(server.name, ())) <= when:
                free[server.fabric].append(server)
        return free

    def _may_be_given(self, server: Server, wish: Wish, usable: bool) -> bool:
        if usable and (not self.world.healthy(server) or self.world.seats_failed(server)):
            return False
        if any(self._is_foreign(uid) for uid in server.pods):
            return False
        return not server.label(names.SHARED_FOR_LABEL)

    def _is_foreign(self, uid: str) -> bool:
        """Say whether a pod is nobody's grant: unmanaged, exempt, or own use, and so in the way until it ends."""
        entry = self.world.entries.get(uid)
        return entry is not None and not entry.grant and self.share != OWN_USE
