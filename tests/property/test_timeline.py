"""The timeline against a counter that looks at every seat in every second, and knows nothing of spans or sums."""

from collections import Counter, defaultdict
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from gpugrant.meter.facts import (
    Account,
    Announced,
    Aspect,
    Claimed,
    Condition,
    Contracted,
    GrantTerms,
    Health,
    Instalment,
    Owner,
    Placed,
    Seated,
    Unwell,
)
from gpugrant.meter.intervals import Hold, cut_overlaps
from gpugrant.meter.timeline import build
from gpugrant.meter.window import Built, Cell, Facts, Stay

LAST = 40  # seconds of a history
PROGRAMMES = ("one", "two")
FABRICS = ("a", "b")
POOLS = {  # name -> programme, seats of a server
    "x": ("one", 4),
    "y": ("one", 2),
    "z": ("two", 4),
}
GRANTS = ("g1", "g2", "s1", "s2")  # s: on shared servers
moments = st.integers(0, LAST)
# One of each more often, so that facts meet on the same seats.
pools = st.sampled_from(["x", "x", "x", "y", "z"])
shares = st.sampled_from(["Public", "Public", "OwnUse"])
providers = st.sampled_from(["kim", "kim", "kim", "lee"])  # whose the pool of this name is


def account_of(
    pool: str, share: str, owner: Owner = Owner.FREE, uid: str = "", provider: str = "kim"
) -> Account:
    place = (POOLS[pool][0], provider, pool, f"type-{pool}", share)
    if owner is Owner.GRANT:
        return Account(*place, owner, f"tenant-{uid}", f"space-{uid}", f"name-{uid}", uid, f"award-{uid}")
    return Account(*place, owner)


@st.composite
def histories(draw, values, most=4, first=None):
    """Return a history of (since, value), sorted, each moment once."""
    drawn = draw(st.dictionaries(moments, values, max_size=most))
    if first is not None and draw(st.integers(0, 3)):
        drawn[0] = draw(first)
    return sorted(drawn.items())


long_terms = st.tuples(st.integers(0, 9), st.integers(9, 40))
places = st.tuples(pools, shares, st.sampled_from(FABRICS), st.sampled_from([0, 0, 0, 1]), providers)
placements = st.none() | places


@st.composite
def placed_histories(draw, server):
    first = draw(places if draw(st.integers(0, 4)) else placements)
    found = []
    for since, place in [(0, first), *[one for one in draw(histories(placements, 2)) if one[0] > 0]]:
        if place is None:
            found.append(Placed(server, since))
            continue
        pool, share, fabric, fewer, provider = place
        programme, seats = POOLS[pool]
        seats -= fewer  # gpusPerServer was lowered, whatever is held there
        idle = draw(st.sampled_from([Owner.FREE, Owner.OWN_USE])) if share == "OwnUse" else Owner.FREE
        found.append(
            Placed(server, since, programme, provider, pool, f"type-{pool}", share, fabric, seats, idle)
        )
    return found


@st.composite
def facts_of_a_window(draw):
    servers = [f"server-{n}" for n in range(draw(st.integers(1, 3)))]
    placed = {server: draw(placed_histories(server)) for server in servers if draw(st.integers(0, 4))}
    health = {}
    for server in servers:
        for aspect, values in (
            (Aspect.PRESENT, st.integers(0, 1)),
            (Aspect.READY, st.integers(0, 1)),
            (Aspect.CORDONED, st.integers(0, 1)),
            (Aspect.CAPACITY, st.integers(0, 5)),
            (Aspect.OFFERED, st.integers(0, 5)),
            (Aspect.DOUBTED, st.integers(0, 2)),
        ):
            if not draw(st.integers(0, 2)):
                health[server, aspect] = [
                    Health(server, aspect, since, value) for since, value in draw(histories(values))
                ]
    announced = {
        server: [
            Announced(server, since, start, start + length, notice)
            for since, (start, length, notice) in draw(
                histories(st.tuples(moments, st.integers(0, 20), st.integers(0, 8)), 3)
            )
        ]
        for server in servers
    }
    terms = {}
    for uid in GRANTS:
        terms[uid] = [
            GrantTerms(
                uid,
                f"space-{uid}",
                f"name-{uid}",
                start,
                start + length,
                tenant=f"tenant-{uid}",
                award=f"award-{uid}",
                since=since,
            )
            for since, (start, length) in draw(
                histories(st.tuples(moments, st.integers(0, 30)), 2, first=long_terms)
            )
            or [(0, (5, 20))]
        ]
    claimed = {
        server: sorted(
            (
                Claimed(server, uid, since, has)
                for uid in ("g1", "g2")
                for since, has in draw(histories(st.booleans(), 2))
            ),
            key=lambda one: one.since,
        )
        for server in servers
    }
    seated = {}
    for uid in ("s1", "s2"):
        if draw(st.integers(0, 3)):
            seated[uid] = [
                Seated(uid, since, POOLS[pool][0], provider, pool, f"type-{pool}", share, seats)
                for since, (pool, share, seats, provider) in draw(
                    histories(
                        st.tuples(pools, shares, st.integers(0, 5), providers),
                        2,
                        first=st.tuples(pools, shares, st.integers(1, 5), providers),
                    )
                )
            ]
    contracted = {
        pool: [
            Contracted(
                pool,
                since,
                POOLS[pool][0],
                provider,
                f"type-{pool}",
                tuple(Instalment(due, gpus, min(gpus, public)) for due, gpus, public in parts),
                promised,
            )
            for since, (parts, promised, provider) in draw(
                histories(
                    st.tuples(
                        st.lists(st.tuples(moments, st.integers(1, 9), st.integers(0, 9)), max_size=2),
                        st.integers(-1, 9),
                        providers,
                    ),
                    2,
                )
            )
        ]
        for pool in POOLS
    }
    stays, unwell = draw(stays_on(servers))
    return Facts(stays, placed, health, unwell, announced, claimed, seated, contracted, terms)


@st.composite
def stays_on(draw, servers):
    """Return holds that never hold one seat twice, as the ledger's rows never do."""
    found, unwell = [], {}
    for server in servers:
        drawn = draw(
            st.lists(
                st.tuples(
                    moments,
                    st.none() | st.integers(0, 25),
                    st.integers(1, 2),
                    st.sampled_from(["g1", "g2", "s1", "s2", "", "own"]),
                    pools,
                    shares,
                    st.integers(0, 6),
                ),
                max_size=6,
            )
        )
        most = draw(st.sampled_from([2, 2, 5]))
        holds = [
            Hold(f"{server}-{number}", start, None if length is None else start + length, seats, most)
            for number, (start, length, seats, *_) in enumerate(drawn)
        ]
        ends = cut_overlaps(holds)  # by what the server had when each was bound
        for hold, (_, _, seats, who, pool, share, lost) in zip(holds, drawn, strict=True):
            owner = {"": Owner.UNMANAGED, "own": Owner.OWN_USE}.get(who, Owner.GRANT)
            account = account_of(pool, share, owner, who if owner is Owner.GRANT else "")
            end = ends[hold.uid]
            gone = end + lost if end is not None else 0
            found.append(
                Stay(hold.uid, server, account, "a", seats, hold.start, 1000 if end is None else end, gone)
            )
            if lost in (1, 2):
                unwell[hold.uid] = [
                    Unwell(hold.uid, server, since, n) for since, n in draw(histories(st.integers(0, 3), 2))
                ]
    return found, unwell


# -- the reference ---------------------------------------------------------------------------------------


def now(history, at):
    """Return what of a history holds at a second, by looking at all of it."""
    last = None
    for one in history:
        if one.since <= at:
            last = one
    return last


def terms_now(facts, uid, at):
    history = facts.terms.get(uid) or []
    return now(history, at) or (history[0] if history else None)


class Seat:
    """One seat in one second."""

    def __init__(self, place, fabric):
        self.place = place  # programme … share
        self.fabric = fabric
        self.stay = None
        self.owner = None
        self.condition = None
        self.reason = ""
        self.dealt = False
        self.is_more = False  # than the pool's servers have


def window_is_open(history, at):
    rows = [one for one in history if one.since <= at]
    if not rows or not rows[-1].start <= at < rows[-1].end:
        return False
    told = len(rows) - 1
    while told > 0 and rows[told - 1].start <= at < rows[told - 1].end:
        told -= 1
    return at >= rows[told].since + rows[-1].notice


def seats_of(facts, server, at):
    """Return the seats of a server in one second, with what can be said without looking at others."""
    placed = now(facts.placed.get(server, ()), at)
    held = sorted(
        (s for s in facts.stays if s.server == server and s.start <= at < s.end),
        key=lambda s: (s.start, s.uid),
    )
    lost = sorted(
        (s for s in facts.stays if s.server == server and s.end <= at < s.gone),
        key=lambda s: (s.start, s.uid),
    )

    def value(aspect, otherwise):
        one = now(facts.health.get((server, aspect), ()), at)
        return otherwise if one is None else one.value

    ready = value(Aspect.READY, 1)
    seats = []
    if placed is None or not placed.seats:
        for stay in held:
            a = stay.account
            for _ in range(stay.seats):
                seat = Seat((a.programme, a.provider, a.pool, a.gpu_type, a.share), stay.fabric)
                seat.stay, seat.owner = stay, a
                seats.append(seat)
        cordoned, doubted = value(Aspect.CORDONED, 0), value(Aspect.DOUBTED, 0)
        maintained = cordoned and window_is_open(facts.announced.get(server, ()), at)
        for stay in held:
            told = now(facts.unwell.get(stay.uid, ()), at)
            bad = told.seats if told else 0
            for number, seat in enumerate(s for s in seats if s.stay is stay):
                if not value(Aspect.PRESENT, 1):
                    seat.condition, seat.reason = Condition.FAILED, "NodeGone"
                elif not ready:
                    seat.condition, seat.reason = Condition.FAILED, "NotReady"
                elif cordoned and not maintained:
                    seat.condition, seat.reason = Condition.FAILED, "Cordoned"
                elif number < bad:
                    seat.condition, seat.reason = Condition.FAILED, "Unhealthy"
                elif maintained:
                    seat.condition, seat.reason = Condition.MAINTENANCE, "Announced"
                elif doubted:
                    seat.condition, seat.reason = Condition.UNOBSERVED, "HealthUnseen"
        return seats
    place = (placed.programme, placed.provider, placed.pool, placed.gpu_type, placed.share)
    more = max(0, sum(stay.seats for stay in held) - placed.seats)
    seats = [Seat(place, placed.fabric) for _ in range(placed.seats + more)]
    free = iter(seats)
    for stay in held:
        a = stay.account
        for _ in range(stay.seats):
            seat = next(free)
            seat.stay = stay
            seat.is_more = seats.index(seat) >= placed.seats
            seat.owner = Account(*place, a.owner, a.tenant, a.tenant_namespace, a.grant, a.grant_uid, a.award)
    claims = {}
    for claim in facts.claimed.get(server, ()):
        before = claims.get(claim.grant_uid)
        if claim.since <= at and not (before and before.has == claim.has):
            claims[claim.grant_uid] = claim
    owners = []
    for claim in claims.values():
        terms = terms_now(facts, claim.grant_uid, at)
        if claim.has and terms.start <= at < terms.end:
            owners.append((claim.since, claim.grant_uid))
    for seat in seats:
        if seat.owner is None:
            whose = (placed.pool, placed.share)
            seat.owner = account_of(*whose, placed.idle_owner, provider=placed.provider)
            if owners:
                seat.owner = account_of(*whose, Owner.GRANT, min(owners)[1], placed.provider)
            else:
                seat.dealt = True  # may be a shared grant's
    whole, maintained = "", False
    if not ready:
        whole = "NotReady"
    elif value(Aspect.CORDONED, 0):
        maintained = window_is_open(facts.announced.get(server, ()), at)
        whole = "" if maintained else "Cordoned"
    if whole:
        for seat in seats:
            seat.condition, seat.reason = Condition.FAILED, whole
        return seats
    known = min(placed.seats, value(Aspect.CAPACITY, placed.seats))
    offered = min(known, value(Aspect.OFFERED, known))
    missing, unhealthy = placed.seats - known, known - offered
    if not offered and not known:  # then those beyond what it should have are not there either
        missing += more
    elif not offered and known == placed.seats:
        unhealthy += more
    for stay in held:
        told = now(facts.unwell.get(stay.uid, ()), at) if offered or known not in (0, placed.seats) else None
        for seat in [s for s in seats if s.stay is stay][: told.seats if told else 0]:
            seat.condition, seat.reason = Condition.FAILED, "Unhealthy"
            if unhealthy:
                unhealthy -= 1
            elif missing:
                missing -= 1
    empty_first = [s for s in seats if s.stay is None] + [s for s in seats if s.stay is not None]

    def strike(number, condition, reason):
        for seat in empty_first:
            if number and seat.condition is None:
                seat.condition, seat.reason = condition, reason
                number -= 1

    strike(missing, Condition.FAILED, "MissingSeats")
    strike(unhealthy, Condition.FAILED, "Unhealthy")
    if maintained:  # what has failed has failed, announced or not
        strike(len(seats), Condition.MAINTENANCE, "Announced")
    strike(min(offered, value(Aspect.DOUBTED, 0)), Condition.UNOBSERVED, "HealthUnseen")
    for stay in lost:
        left = stay.seats
        a = stay.account
        for seat in seats:
            if left and seat.stay is None and seat.condition is None:
                seat.condition, seat.reason, seat.dealt = Condition.UNOBSERVED, "EndUnseen", False
                seat.owner = Account(
                    *place, a.owner, a.tenant, a.tenant_namespace, a.grant, a.grant_uid, a.award
                )
                left -= 1
    return seats


ORDER = (None, Condition.UNOBSERVED, Condition.MAINTENANCE, Condition.FAILED)


def second(facts, programme, at):
    """Return every seat of the programme in one second, and the expected sums and shortfalls."""
    seats = [
        seat
        for server in sorted({*facts.placed, *(stay.server for stay in facts.stays)})
        for seat in seats_of(facts, server, at)
        if seat.place[0] == programme
    ]
    for uid in sorted(facts.seated):
        one, terms = now(facts.seated[uid], at), terms_now(facts, uid, at)
        if one is None or not terms.start <= at < terms.end:
            continue
        wanted = one.seats - sum(
            stay.seats
            for stay in facts.stays
            if stay.account.grant_uid == uid and stay.start <= at < stay.end
        )
        wherever = (one.provider, one.pool, one.share)
        mine = [s for s in seats if s.dealt and (s.place[1], s.place[2], s.place[4]) == wherever]
        mine.sort(key=lambda s: (ORDER.index(s.condition), s.fabric, s.reason))
        for seat in mine[: max(0, wanted)]:
            seat.owner = account_of(one.pool, one.share, Owner.GRANT, uid, one.provider)
            seat.fabric, seat.dealt = "", False
    cells = Counter()
    for seat in seats:
        condition, reason = seat.condition, seat.reason
        if condition is None and seat.stay is not None:
            terms = terms_now(facts, seat.stay.account.grant_uid, at)
            condition = Condition.GRACE if terms is not None and at >= terms.end else Condition.USED
            reason = "MoreHeldThanPlaced" if seat.is_more else ""
        cells[Cell(seat.owner, seat.fabric, condition or Condition.IDLE, reason)] += 1
    expected, shortfall = Counter(), Counter()
    for provider, (pool, (of, _)) in product(("kim", "lee"), POOLS.items()):
        installed = [s for s in seats if s.place[1:3] == (provider, pool)]
        public = sum(s.place[4] == "Public" for s in installed)
        one = now(facts.contracted.get(pool, ()), at)
        expected[provider, pool] = len(installed)
        if of != programme or one is None or one.provider != provider:
            continue
        due = [part for part in one.instalments if part.due <= at]
        missing = max(0, sum(part.gpus for part in due) - len(installed))
        expected[provider, pool] += missing
        for_public = min(missing, max(0, sum(part.public_gpus for part in due) - public))
        for share, count in (("Public", for_public), ("OwnUse", missing - for_public)):
            account = account_of(pool, share, provider=provider)
            cells[Cell(account, "", Condition.UNDELIVERED, "NotInstalled")] += count
        if one.promised >= 0:
            shortfall[provider, pool] = max(0, one.promised - public)
    return cells, expected, shortfall


def by_the_second(facts, programme, start, end):
    cells, expected, shortfall = Counter(), Counter(), Counter()
    for at in range(start, end):
        for sums, more in zip((cells, expected, shortfall), second(facts, programme, at), strict=True):
            sums.update(more)
    return +cells, +expected, +shortfall


def check(facts: Facts, programme: str, start: int, end: int) -> Built:
    built = build(facts, programme, start, end)
    cells, expected, shortfall = by_the_second(facts, programme, start, end)
    assert +Counter(built.cells) == cells
    assert +Counter(built.expected) == expected
    assert +Counter(built.shortfall) == shortfall
    counted = defaultdict(int)
    for cell, amount in built.cells.items():
        counted[cell.account.provider, cell.account.pool] += amount
    assert +Counter(counted) == expected  # R10: the parts are the whole
    return built


@settings(deadline=None, max_examples=400)
@given(facts_of_a_window())
def test_every_cell_is_what_a_counter_of_seconds_finds(facts):
    for programme in PROGRAMMES:
        check(facts, programme, 3, LAST)


@settings(deadline=None, max_examples=100)
@given(facts_of_a_window(), st.integers(4, LAST - 1))
def test_two_windows_are_one(facts, middle):
    for programme in PROGRAMMES:
        whole = build(facts, programme, 3, LAST)
        sums = Counter()
        for start, end in ((3, middle), (middle, LAST)):
            sums.update(build(facts, programme, start, end).cells)
        assert +sums == +Counter(whole.cells)
