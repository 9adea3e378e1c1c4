"""Who has which servers when: the calendar that grants are placed on (R4, R7).

A grant has its servers over its whole term, so that one in the future finds them free. Servers are chosen so that
large fabrics stay unbroken: the smallest that fits is taken, and single servers come out of the most broken ones.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable

from msgspec import Struct

from gpugrant import names
from gpugrant.decide.state import OWN_USE, Booking, GrantState, PoolState, Server
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


class Fabric:
    """Servers of one fabric and share: those nobody has booked from now on, and the others."""

    __slots__ = ("booked", "gaps", "idle", "last_start", "name", "size", "soonest_end", "unwell")

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self.idle: list[Server] = []  # not booked, and fit to be given; by name
        self.unwell: list[Server] = []  # not booked, but failed or in somebody's use
        self.booked: list[Server] = []
        self.soonest_end = NEVER  # the first end of a booked server's last booking
        self.last_start = -NEVER  # the last start of a booked server's first booking
        self.gaps = False  # some server has several bookings, with room between them perhaps

    def note(self, server: Server, spans: list[tuple[int, int]]) -> None:
        """Take up what is booked of a server."""
        self.soonest_end = min(self.soonest_end, max(end for _, end in spans))
        self.last_start = max(self.last_start, min(start for start, _ in spans))
        self.gaps = self.gaps or len(spans) > 1

    def may_have_room_beside(self, start: int, end: int) -> bool:
        """Say whether a booked server could be free over [start, end); False is sure."""
        return self.gaps or start >= self.soonest_end or end <= self.last_start


class Calendar:
    """The servers of one line's pools with their bookings, and what earlier grants in line are waiting for."""

    def __init__(self, world: World, pools: list[PoolState], share: str, now: int) -> None:
        self.world = world
        self.share = share
        self.now = now
        self.shared: dict[str, list[GrantState]] = defaultdict(list)  # pool -> grants on shared servers
        self._shadows: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._shadowed: set[tuple[str, str]] = set()  # (pool, fabric)
        self._shadow_spans: dict[str, list[tuple[int, int, int]]] = defaultdict(
            list
        )  # pool -> start, end, servers
        self._shared_shadows: dict[str, list[tuple[GrantState, int]]] = defaultdict(list)
        self._fabrics: dict[str, dict[str, Fabric]] = {}
        self._usable: dict[str, int] = {}
        self._spans: dict[str, Counter[tuple[int, int]]] = {}  # pool -> bookings by (start, end)
        self._labelled: dict[str, Counter[str]] = defaultdict(Counter)  # grant -> servers it had, by fabric
        for pool in pools:
            self._take_up(pool)

    def _take_up(self, pool: PoolState) -> None:
        name = pool.pool.name
        fabrics = self._fabrics[name] = {}
        spans = self._spans[name] = Counter()
        self._usable[name] = 0
        for server in (self.world.servers[n] for n in sorted(pool.servers)):
            if server.share != self.share:
                continue
            fabric = fabrics.get(server.fabric)
            if fabric is None:
                fabric = fabrics[server.fabric] = Fabric(server.fabric)
            fabric.size += 1
            self._usable[name] += self.world.healthy(server)
            uid = server.label(names.GRANT_UID_LABEL)
            if uid:
                self._labelled[uid][server.fabric] += 1
            booked = [(b.start, b.end) for b in server.bookings if b.end > self.now]
            spans.update(booked)
            if booked:
                fabric.booked.append(server)
                fabric.note(server, booked)
            elif self._may_be_given(server, well=True):
                fabric.idle.append(server)
            else:
                fabric.unwell.append(server)

    # -- places ----------------------------------------------------------------------------------------

    def find_now(self, wish: Wish, pool: PoolState) -> Place | None:
        """Return a place in a pool that is free over the whole wish, or None."""
        if not self._leaves_room_for_shared(wish, pool):
            return None
        free = self._free_by_fabric(wish, pool)
        spec = wish.state.grant.spec
        assert spec
        mine = self._labelled.get(wish.state.grant.uid, Counter())
        if spec.placement == "OneFabric":
            large = [f for f, here in free.items() if len(here) >= wish.count]
            if not large:
                return None
            fabrics = self._fabrics[pool.pool.name]
            best = min(large, key=lambda f: (-mine[f], len(free[f]) - wish.count, fabrics[f].size, f))
            return Place(pool.pool.name, best, _pick(free[best], wish))
        chosen: list[Server] = []
        for fabric in sorted(free, key=lambda f: (-mine[f], len(free[f]), f)):
            chosen += free[fabric]
            if len(chosen) >= wish.count:
                return Place(pool.pool.name, "", _pick(chosen, wish, keep_order=True))
        return None

    def book(self, wish: Wish, place: Place) -> None:
        """Give a place to a grant."""
        start, end, uid = wish.state.start, wish.state.end, wish.state.grant.uid
        fabrics = self._fabrics[place.pool]
        for name in place.servers:
            server = self.world.servers[name]
            fabric = fabrics[server.fabric]
            at = bisect_left(fabric.idle, name, key=_name)
            if at < len(fabric.idle) and fabric.idle[at] is server:
                del fabric.idle[at]
                fabric.booked.append(server)
            server.bookings.append(Booking(start, end, uid))
            fabric.note(server, [(b.start, b.end) for b in server.bookings if b.end > self.now])
            self._spans[place.pool][start, end] += 1
            self.world.dirty_servers.add(name)

    def unbook(self, state: GrantState, servers: Iterable[str]) -> None:
        """Take servers back from a grant."""
        for name in servers:
            server = self.world.servers.get(name)
            if server is None:
                continue
            server.bookings = [b for b in server.bookings if b.grant != state.grant.uid]
            self.world.dirty_servers.add(name)
            self.world.share_may_change(server.pool)
            fabric = self._fabrics.get(server.pool, {}).get(server.fabric)
            if fabric is None or server not in fabric.booked:
                continue
            self._spans[server.pool][state.start, state.end] -= 1
            if not any(b.end > self.now for b in server.bookings):
                fabric.booked.remove(server)
                insort(
                    fabric.idle if self._may_be_given(server, well=True) else fabric.unwell, server, key=_name
                )

    def clear_shadows(self) -> None:
        """Forget what waiting grants keep others from."""
        self._shadows.clear()
        self._shadowed.clear()
        self._shadow_spans.clear()
        self._shared_shadows.clear()

    def cast_shadow(self, wish: Wish, pools: list[PoolState]) -> None:
        """Reserve the place a waiting grant will get soonest, so that later ones cannot delay it.

        Failed servers count: they may heal any moment, and then they are the waiting grant's.
        """
        spec = wish.state.grant.spec
        assert spec
        best: tuple[int, int, str, list[Server]] | None = None
        for pool in pools:
            groups: dict[str, list[tuple[int, str, Server]]] = defaultdict(list)
            for fabric in self._fabrics[pool.pool.name].values():
                if wish.fabric and fabric.name != wish.fabric:
                    continue
                group = groups[fabric.name if spec.placement == "OneFabric" else ""]
                for server in (*fabric.idle, *fabric.unwell, *fabric.booked):
                    if server.name not in wish.taken and self._may_be_given(server, well=False):
                        since = free_from(server, wish.end, self._shadows.get(server.name, ()))
                        group.append((max(since, wish.start), server.name, server))
            for name, group in groups.items():
                if len(group) < wish.count:
                    continue
                first = sorted(group)[: wish.count]
                when = first[-1][0]
                if when < wish.end and (best is None or (when, len(group), name) < best[:3]):
                    best = (when, len(group), name, [server for _, _, server in first])
        if best:
            self._shadow_spans[best[3][0].pool].append((best[0], wish.end, wish.count))
            for server in best[3]:
                self._shadows[server.name].append((best[0], wish.end))
                self._shadowed.add((server.pool, server.fabric))

    def cast_shared_shadow(self, state: GrantState, pools: list[PoolState], seats: int) -> None:
        """Keep later grants from the servers that a waiting grant on shared servers will need."""
        if pools:
            self._shared_shadows[pools[0].pool.name].append((state, seats))

    def largest_free_fabric(self, wish: Wish, pools: list[PoolState]) -> int:
        """Return how many servers of one fabric are free for the wish, at best."""
        return max((len(free) for p in pools for free in self._free_by_fabric(wish, p).values()), default=0)

    def count_free(self, wish: Wish, pools: list[PoolState]) -> int:
        """Return how many servers are free for the wish in all."""
        return sum(len(free) for pool in pools for free in self._free_by_fabric(wish, pool).values())

    def _free_by_fabric(self, wish: Wish, pool: PoolState) -> dict[str, list[Server]]:
        found: dict[str, list[Server]] = {}
        for name, fabric in self._fabrics[pool.pool.name].items():
            if wish.fabric and name != wish.fabric:
                continue
            free = fabric.idle
            if wish.taken or (pool.pool.name, name) in self._shadowed:
                free = [s for s in free if self._is_free(s, wish)]
            if fabric.booked and fabric.may_have_room_beside(wish.start, wish.end):
                free = free + [
                    s for s in fabric.booked if self._may_be_given(s, well=True) and self._is_free(s, wish)
                ]
            if free:
                found[name] = free
        return found

    def _is_free(self, server: Server, wish: Wish) -> bool:
        if server.name in wish.taken:
            return False
        return free_from(server, wish.end, self._shadows.get(server.name, ())) <= wish.start

    def _may_be_given(self, server: Server, well: bool) -> bool:
        if well and (not self.world.healthy(server) or self.world.seats_failed(server)):
            return False
        if server.pods and any(self._is_foreign(uid) for uid in server.pods):
            return False
        return not server.label(names.SHARED_FOR_LABEL)

    def _is_foreign(self, uid: str) -> bool:
        """Say whether a pod is nobody's grant: unmanaged, exempt, or own use, and so in the way until it ends."""
        entry = self.world.entries.get(uid)
        return entry is not None and not entry.grant and self.share != OWN_USE

    # -- shared servers --------------------------------------------------------------------------------

    def fits_shared(self, state: GrantState, pool: PoolState, start: int, seats: int) -> bool:
        """Say whether the servers that shared grants need are there over the whole term, with this one."""
        assert pool.pool.spec
        most = pool.pool.spec.max_shared_servers
        name = pool.pool.name
        needs = [(g, g.seats) for g in self.shared[name] if g is not state]
        needs += [*((g, n) for g, n in self._shared_shadows[name] if g is not state), (state, seats)]
        kept = sum(count for _, _, count in self._shadow_spans[name])
        if most is None and self._at_worst(pool, needs) + kept <= self._usable[name]:
            return True  # even if all of it were at one time
        total, shared = self._peaks(pool, start, state.end, needs, self._shadow_spans[name])
        return total <= self._usable[name] and (most is None or shared <= most)

    def _leaves_room_for_shared(self, wish: Wish, pool: PoolState) -> bool:
        name = pool.pool.name
        needs = [*((g, g.seats) for g in self.shared[name]), *self._shared_shadows[name]]
        if not needs or self._at_worst(pool, needs) + wish.count <= self._usable[name]:
            return True
        total, _ = self._peaks(pool, wish.start, wish.end, needs, ())
        return total + wish.count <= self._usable[name]

    def _at_worst(self, pool: PoolState, needs: list[tuple[GrantState, int]]) -> int:
        """Return the servers in use if everything were at one time."""
        return self._spans[pool.pool.name].total() + sum(-(-seats // pool.size) for _, seats in needs)

    def _peaks(
        self,
        pool: PoolState,
        start: int,
        end: int,
        needs: list[tuple[GrantState, int]],
        shadows: Iterable[tuple[int, int, int]],
    ) -> tuple[int, int]:
        """Return the most servers in use at one time in [start, end): in all, and for shared grants.

        One sweep over the instants at which something begins or ends.
        """
        assert pool.pool.spec
        per_tenant = pool.pool.spec.shared_tenancy == "PerTenant"
        events: list[tuple[int, int, str, int]] = []  # when, ends before beginnings, tenant ('' own), amount
        booked = [(first, last, count) for (first, last), count in self._spans[pool.pool.name].items()]
        for first, last, count in (*booked, *shadows):
            if first < end and last > start:
                events += ((max(first, start), 1, "", count), (last, 0, "", -count))
        for state, seats in needs:
            if state.start < end and state.end > start:
                who = f"tenant {state.tenant if per_tenant else ''}"
                events += ((max(state.start, start), 1, who, seats), (state.end, 0, who, -seats))
        own = need = total = most = 0
        seats_of: dict[str, int] = defaultdict(int)
        for when, _, who, amount in sorted(events):
            if when >= end:
                break
            if who:
                need -= -(-seats_of[who] // pool.size)
                seats_of[who] += amount
                need += -(-seats_of[who] // pool.size)
            else:
                own += amount
            total, most = max(total, own + need), max(most, need)
        return total, most


def _name(server: Server) -> str:
    return server.name


def _pick(servers: list[Server], wish: Wish, keep_order: bool = False) -> tuple[str, ...]:
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
