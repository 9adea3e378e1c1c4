"""From facts to cells: who owned every seat of a programme in every second, and in what condition (R10). Pure.

One window at a time, normally a day of the programme: ``build`` takes the facts that touch it and returns integer
GPU-seconds. The same function serves the running day, a day that closes, a late fact, and the check of a ledger.

Who owns a seat: the pod that holds it says so; else the grant whose own server it is, within its term; else a grant
on shared servers that has fewer seats held than it owns; else the provider (own use) or nobody (free).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from gpugrant.meter.facts import (
    Account,
    Announced,
    Aspect,
    Claimed,
    Condition,
    Contracted,
    GrantTerms,
    Health,
    Owner,
    Placed,
    Seated,
    Unwell,
)
from gpugrant.meter.seating import Room, Rooms, Taken
from gpugrant.meter.spans import Cause, History, Span, in_force, spans, terms_at

END_UNSEEN = "EndUnseen"  # reason of Unobserved: a pod went while nobody watched
HEALTH_UNSEEN = "HealthUnseen"  # reason of Unobserved: a server's health changed while nobody watched
NOT_INSTALLED = "NotInstalled"  # reason of Undelivered
ANNOUNCED = "Announced"  # reason of Maintenance
MORE_HELD = "MoreHeldThanPlaced"  # reason of Used and Grace: held beyond gpusPerServer

FAILED, MAINTENANCE, UNOBSERVED = Condition.FAILED, Condition.MAINTENANCE, Condition.UNOBSERVED
USED, GRACE, IDLE = Condition.USED, Condition.GRACE, Condition.IDLE
PUBLIC = "Public"
_HALF = 1 << 23  # of a number of 24 bits: more seats than a server has


class Stay(Struct, frozen=True, gc=False):
    """A pod's hold as the timeline needs it: [start, end) held, [end, gone) Unobserved."""

    uid: str
    server: str
    account: Account
    fabric: str
    seats: int
    start: int
    end: int  # where it holds still: any number past the window
    gone: int = 0  # 0, or not after end: nothing is Unobserved


class Facts(Struct, frozen=True):
    """What is known that touches a window.

    Histories are sorted by ``since``, and begin with what was in force at the window's start. What is missing is as
    a new server's: ready, not cordoned, all seats offered.
    """

    stays: Sequence[Stay] = ()
    placed: Mapping[str, Sequence[Placed]] = {}  # by server
    health: Mapping[tuple[str, Aspect], Sequence[Health]] = {}
    unwell: Mapping[str, Sequence[Unwell]] = {}  # by pod uid
    announced: Mapping[str, Sequence[Announced]] = {}  # by server
    claimed: Mapping[str, Sequence[Claimed]] = {}  # by server
    seated: Mapping[str, Sequence[Seated]] = {}  # by grant uid
    contracted: Mapping[str, Sequence[Contracted]] = {}  # by pool
    terms: Mapping[str, Sequence[GrantTerms]] = {}  # by grant uid


class Cell(Struct, frozen=True):
    """What GPU-seconds are summed by. The account of a free seat names its place and nobody."""

    account: Account
    fabric: str
    condition: Condition
    reason: str = ""


PoolOf: TypeAlias = tuple[str, str]  # provider, pool: a pool's name may come to be another provider's


class Built(Struct, frozen=True):
    """A window's sums. ``expected`` is worked out another way: max(contracted, installed) seats x seconds.

    ``held`` are the GPU-seconds of cells that came from pods' holds, by pool, whatever their condition.
    """

    cells: Mapping[Cell, int]
    expected: Mapping[PoolOf, int]
    shortfall: Mapping[PoolOf, int]  # public GPUs promised and not installed x seconds
    held: Mapping[PoolOf, int]


def build(facts: Facts, programme: str, start: int, end: int) -> Built:
    """Return the sums of a programme's pools over [start, end). Stays on servers of no pool are left out."""
    window = _Window(facts, programme, start, end)
    by_server: dict[str, list[Stay]] = defaultdict(list)
    for stay in facts.stays:
        if stay.start < end and (stay.end > start or stay.gone > start):
            by_server[stay.server].append(stay)
    for server in sorted(facts.placed.keys() | by_server.keys()):
        window.add_server(server, by_server.get(server, []))
    window.add_shared_grants()
    window.add_contracts()
    return window.built()


class _Window:
    """One build at work."""

    def __init__(self, facts: Facts, programme: str, start: int, end: int) -> None:
        self._facts = facts
        self._programme = programme
        self._start, self._end = start, end
        self._sums: dict[tuple[Account, str, Condition, str], int] = defaultdict(int)
        self._held: dict[PoolOf, int] = defaultdict(int)
        # Installed seats as steps: pool and share -> moment -> change.
        self._steps: dict[tuple[PoolOf, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._accounts: dict[tuple[object, ...], Account] = {}
        self._moved: dict[tuple[Account, tuple[str, ...]], Account] = {}
        self._rooms: dict[
            tuple[PoolOf, str], Rooms
        ] = {}  # pools and shares that have grants on shared servers
        for history in facts.seated.values():
            for seated in history:
                if seated.programme == programme and seated.seats:
                    self._rooms.setdefault((_pool_of(seated), seated.share), Rooms())
        self._aspects: dict[str, dict[Aspect, Sequence[Health]]] = defaultdict(dict)
        for (server, aspect), health in facts.health.items():
            self._aspects[server][aspect] = health

    # -- servers -------------------------------------------------------------------------------------

    def add_server(self, server: str, stays: list[Stay]) -> None:
        """Add the seats of one server."""
        placed = self._facts.placed.get(server, ())
        mine = any(one.programme == self._programme for one in placed)
        if not mine and not any(stay.account.programme == self._programme for stay in stays):
            return
        history = History(
            placed,
            self._aspects.get(server, {}),
            self._facts.announced.get(server, ()),
            self._facts.claimed.get(server, ()),
            self._facts.terms,
        )
        unwell = self._facts.unwell
        is_plain = not any(stay.gone or stay.uid in unwell for stay in stays)
        for span in spans(history, self._start, self._end):
            here = stays
            if span.start > self._start or span.end < self._end:
                here = [
                    stay for stay in stays if stay.start < span.end and max(stay.end, stay.gone) > span.start
                ]
            if span.placed is None:
                self._add_unplaced(span, here)
            elif span.placed.programme == self._programme:
                self._install(span.placed, span.start, span.end, span.seats)
                self._add_span(span, span.placed, here, is_plain)

    def _add_unplaced(self, span: Span, stays: list[Stay]) -> None:
        """Add what is held where no pool's server is (any more): it is on the account it was bound on."""
        for stay in stays:
            account = stay.account
            start, end = max(stay.start, span.start), min(stay.end, span.end)
            if not account.pool or account.programme != self._programme or start >= end:
                continue
            self._install(account, start, end, stay.seats)
            self._held[_pool_of(account)] += stay.seats * (end - start)
            condition, reason = _whole(span)
            if condition is None and span.doubted:
                condition, reason = UNOBSERVED, HEALTH_UNSEEN
            told = (one.since for one in self._facts.unwell.get(stay.uid, ()))
            for left, right in pairwise(sorted({start, end, *(at for at in told if start < at < end)})):
                unwell = 0 if span.whole else self._unwell(stay, left)
                self._add(account, stay.fabric, FAILED, Cause.UNHEALTHY, unwell * (right - left))
                rest = stay.seats - unwell
                if condition is None:
                    self._add_used(account, stay.fabric, rest, left, right)
                else:
                    self._add(account, stay.fabric, condition, reason, rest * (right - left))

    def _add_span(self, span: Span, placed: Placed, stays: list[Stay], is_plain: bool) -> None:
        """Add a span; ``is_plain`` says that all seats of each stay are in one condition as far as the stay goes."""
        roomy = not span.owner and (_pool_of(placed), placed.share) in self._rooms
        if not (span.plain and is_plain) or (roomy and stays) or _most_held(stays) > span.seats:
            self._sweep(span, placed, stays)
            return
        condition, reason = _whole(span)
        first, last = span.start, span.end
        held = 0
        sums: dict[Account, int] = {}
        by_terms: dict[Account, bool] = {}
        for stay in stays:  # a month has millions of these
            start = stay.start if stay.start > first else first  # noqa: FURB136 (max() takes twice as long)
            end = stay.end if stay.end < last else last  # noqa: FURB136
            if start >= end:
                continue
            amount = stay.seats * (end - start)
            held += amount
            account = stay.account
            if account not in by_terms:
                by_terms[account] = condition is None and self._term_decides(account, last)
            if by_terms[account]:
                self._add_used(self._account_at(account, placed), placed.fabric, stay.seats, start, end)
            else:
                sums[account] = sums.get(account, 0) + amount
        for account, amount in sums.items():
            self._add(self._account_at(account, placed), placed.fabric, condition or USED, reason, amount)
        if held:
            self._held[_pool_of(placed)] += held
        left = span.seats * (last - first) - held
        if left > 0:
            if roomy:
                room = Room(condition or IDLE, placed.fabric, reason, self._idle(span, placed))
                self._rooms[_pool_of(placed), placed.share].add(room, span.start, span.end, span.seats)
            else:
                self._add(self._idle(span, placed), placed.fabric, condition or IDLE, reason, left)

    def _sweep(self, span: Span, placed: Placed, stays: list[Stay]) -> None:
        """Add a span second by second where it changes: seats differ from each other in condition."""
        edges = {span.start, span.end}
        for stay in stays:
            edges.update((stay.start, stay.end, stay.gone))
            edges.update(one.since for one in self._facts.unwell.get(stay.uid, ()))
        inside = sorted(at for at in edges if span.start <= at <= span.end)
        entering = sorted(stays, key=lambda stay: stay.start)
        here: list[Stay] = []
        following = 0
        for start, end in pairwise(inside):
            while following < len(entering) and entering[following].start <= start:
                here.append(entering[following])
                following += 1
            here = [stay for stay in here if max(stay.end, stay.gone) > start]
            self._add_moment(span, placed, sorted(here, key=lambda stay: (stay.start, stay.uid)), start, end)

    def _add_moment(self, span: Span, placed: Placed, stays: list[Stay], start: int, end: int) -> None:
        """Add [start, end), in which nothing changes at all."""
        length = end - start
        held = [stay for stay in stays if start < stay.end]
        lost = [stay for stay in stays if stay.end <= start < stay.gone]
        seats_held = sum(stay.seats for stay in held)
        unheld = max(0, span.seats - seats_held)
        if seats_held > span.seats:  # gpusPerServer was lowered, or says less than there is
            self._install(placed, start, end, seats_held - span.seats)
        whole, reason = (FAILED, span.whole) if span.whole else (None, "")
        unwell = {stay.uid: 0 if whole else self._unwell(stay, start) for stay in held}
        # What is left of each held pod's seats, and of those that nobody holds, as conditions take their part.
        rest = {stay.uid: stay.seats for stay in held}
        told: list[tuple[Stay | None, Condition, str, int]] = []

        def take(seats: int, condition: Condition, why: str) -> None:
            """Give a condition to so many seats: to those nobody holds, then to the pods that came first."""
            nonlocal unheld
            some = min(seats, unheld)
            unheld -= some
            told.append((None, condition, why, some))
            for stay in held:
                more = min(seats - some, rest[stay.uid])
                rest[stay.uid] -= more
                some += more
                told.append((stay, condition, why, more))

        if whole is not None:
            for stay in held:
                told.append((stay, whole, reason, rest[stay.uid]))
                rest[stay.uid] = 0
            told.append((None, whole, reason, unheld))
            unheld = 0
        for stay in held:
            rest[stay.uid] -= unwell[stay.uid]
            told.append((stay, FAILED, Cause.UNHEALTHY, unwell[stay.uid]))
        known = sum(unwell.values())
        take(max(0, span.missing - max(0, known - span.unhealthy)), FAILED, Cause.MISSING)
        take(max(0, span.unhealthy - known), FAILED, Cause.UNHEALTHY)
        if span.maintenance:
            take(max(span.seats, seats_held), MAINTENANCE, ANNOUNCED)
        take(span.doubted, UNOBSERVED, HEALTH_UNSEEN)
        for stay in lost:
            some = min(stay.seats, unheld)
            unheld -= some
            self._add(
                self._account_at(stay.account, placed), placed.fabric, UNOBSERVED, END_UNSEEN, some * length
            )
        up_to = 0  # seats of the pods that came before, and of this one
        for stay in held:
            up_to += stay.seats
            self._held[_pool_of(placed)] += stay.seats * length
            account = self._account_at(stay.account, placed)
            more = min(rest[stay.uid], max(0, up_to - span.seats))
            self._add_used(account, placed.fabric, rest[stay.uid] - more, start, end)
            self._add_used(account, placed.fabric, more, start, end, MORE_HELD)
        told.append((None, IDLE, "", unheld))
        roomy = not span.owner and (_pool_of(placed), placed.share) in self._rooms
        for one, condition, why, seats in told:
            if not seats:
                continue
            if one is not None:
                account = self._account_at(one.account, placed)
                self._add(account, placed.fabric, condition, why, seats * length)
            elif roomy:
                room = Room(condition, placed.fabric, why, self._idle(span, placed))
                self._rooms[_pool_of(placed), placed.share].add(room, start, end, seats)
            else:
                self._add(self._idle(span, placed), placed.fabric, condition, why, seats * length)

    def _unwell(self, stay: Stay, at: int) -> int:
        found = in_force(self._facts.unwell.get(stay.uid, ()), at)
        return min(stay.seats, found.seats) if found else 0

    # -- grants on shared servers --------------------------------------------------------------------

    def add_shared_grants(self) -> None:
        """Deal the seats that nobody holds to the grants on shared servers that have some to come."""
        if not self._rooms:
            return
        # Their own pods count against what they have, on whatever server.
        holds: dict[str, list[Stay]] = defaultdict(list)
        for stay in self._facts.stays:
            if stay.account.grant_uid in self._facts.seated:
                holds[stay.account.grant_uid].append(stay)
        for (pool, share), rooms in sorted(self._rooms.items()):
            for uid, history in sorted(self._facts.seated.items()):
                terms = self._facts.terms.get(uid, ())
                for start, end, seated in _seated(history, terms, pool, share, self._start, self._end):
                    account = self._granted(uid, terms_at(terms, start), seated)
                    rooms.want(account, start, end, seated.seats)
                    for stay in holds[uid]:
                        left, right = max(start, stay.start), min(end, stay.end)
                        if left < right:
                            rooms.want(account, left, right, -stay.seats)
            for taken in rooms.deal(self._start, self._end):
                self._add_taken(taken)

    def _add_taken(self, taken: Taken) -> None:
        self._add(
            taken.account, taken.fabric, taken.room.condition, taken.room.reason, taken.seats * taken.seconds
        )

    # -- contracts -----------------------------------------------------------------------------------

    def add_contracts(self) -> None:
        """Add what is contracted and not installed."""
        self._expected: dict[PoolOf, int] = defaultdict(int)
        self._shortfall: dict[PoolOf, int] = defaultdict(int)
        pools = {pool for pool, _ in self._steps} | {
            _pool_of(one)
            for history in self._facts.contracted.values()
            for one in history
            if one.programme == self._programme
        }
        for pool in sorted(pools):
            self._add_contract(pool, self._facts.contracted.get(pool[1], ()))

    def _add_contract(self, pool: PoolOf, history: Sequence[Contracted]) -> None:
        shares = sorted(share for name, share in self._steps if name == pool)
        edges = {self._start, self._end}
        for share in shares:
            edges.update(self._steps[pool, share])
        for one in history:
            edges.add(one.since)
            edges.update(part.due for part in one.instalments)
        inside = sorted(at for at in edges if self._start <= at <= self._end)
        installed = dict.fromkeys(shares, 0)
        for start, end in pairwise(inside):
            for share in shares:
                installed[share] += self._steps[pool, share].get(start, 0)
            there, public = sum(installed.values()), installed.get(PUBLIC, 0)
            plan = in_force(history, start)
            if plan is None or (plan.programme, plan.provider) != (self._programme, pool[0]):
                self._expected[pool] += there * (end - start)
                continue
            due = [part for part in plan.instalments if part.due <= start]
            contracted = sum(part.gpus for part in due)
            self._expected[pool] += max(contracted, there) * (end - start)
            if plan.promised >= 0:
                self._shortfall[pool] += max(0, plan.promised - public) * (end - start)
            missing = max(0, contracted - there)
            for_public = min(missing, max(0, sum(part.public_gpus for part in due) - public))
            for share, seats in ((PUBLIC, for_public), ("OwnUse", missing - for_public)):
                account = Account(plan.programme, *pool, plan.gpu_type, share, Owner.FREE)
                self._add(account, "", Condition.UNDELIVERED, NOT_INSTALLED, seats * (end - start))

    def _install(self, place: Placed | Account, start: int, end: int, seats: int) -> None:
        steps = self._steps[_pool_of(place), place.share]
        steps[start] += seats
        steps[end] -= seats

    # -- accounts and sums ---------------------------------------------------------------------------

    def _add(self, account: Account, fabric: str, condition: Condition, reason: str, amount: int) -> None:
        if amount:
            self._sums[account, fabric, condition, reason] += amount

    def _add_used(
        self, account: Account, fabric: str, seats: int, start: int, end: int, reason: str = ""
    ) -> None:
        """Add held seats as Used, or as Grace from the end of the grant's term on."""
        if not self._term_decides(account, end):
            self._add(account, fabric, USED, reason, seats * (end - start))
            return
        terms = self._facts.terms[account.grant_uid]
        edges = {start, end, *(at for one in terms for at in (one.since, one.end) if start < at < end)}
        inside = sorted(edges)
        for left, right in pairwise(inside):
            now = terms_at(terms, left)
            condition = GRACE if now is not None and left >= now.end else USED
            self._add(account, fabric, condition, reason, seats * (right - left))

    def _term_decides(self, account: Account, end: int) -> bool:
        """Say whether what is held up to ``end`` may be Grace in part."""
        terms = self._facts.terms.get(account.grant_uid, ()) if account.grant_uid else ()
        return bool(terms) and (len(terms) > 1 or end > terms[0].end)

    def _account_at(self, account: Account, placed: Placed) -> Account:
        """Return the account of a hold as of where its server is: server and pool may come to be another's."""
        place = _place(placed)
        if (account.programme, account.provider, account.pool, account.gpu_type, account.share) == place:
            return account
        moved = self._moved.get((account, place))
        if moved is None:
            programme, provider, pool, gpu_type, share = place
            moved = self._moved[account, place] = replace(
                account,
                programme=programme,
                provider=provider,
                pool=pool,
                gpu_type=gpu_type,
                share=share,
            )
        return moved

    def _idle(self, span: Span, placed: Placed) -> Account:
        """Return who owns the seats of a span that no pod holds."""
        if span.owner:
            return self._granted(
                span.owner, terms_at(self._facts.terms.get(span.owner, ()), span.start), placed
            )
        key = (*_place(placed), placed.idle_owner)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(*_place(placed), placed.idle_owner)
        return account

    def _granted(self, uid: str, terms: GrantTerms | None, place: Placed | Seated) -> Account:
        """Return a grant's account, the same that its pods are bound on."""
        assert terms is not None  # without terms it owns nothing
        key = (*_place(place), uid, terms)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(
                *_place(place),
                Owner.GRANT,
                terms.tenant,
                terms.namespace,
                terms.name,
                uid,
                terms.award,
            )
        return account

    def built(self) -> Built:
        """Return the sums."""
        cells = {Cell(*key): amount for key, amount in self._sums.items() if amount}
        return Built(cells, dict(self._expected), dict(self._shortfall), dict(self._held))


def _pool_of(place: Placed | Seated | Contracted | Account) -> PoolOf:
    return place.provider, place.pool


def _place(placed: Placed | Seated) -> tuple[str, str, str, str, str]:
    return placed.programme, placed.provider, placed.pool, placed.gpu_type, placed.share


def _most_held(stays: Sequence[Stay]) -> int:
    """Return the most seats that are held at once, wherever that is: quickly, a month has millions of stays."""
    changes = [(stay.start << 24) + _HALF + stay.seats for stay in stays]
    changes += [(stay.end << 24) + _HALF - stay.seats for stay in stays]
    changes.sort()  # at one moment ends come before binds
    return max(accumulate([(change & 0xFFFFFF) - _HALF for change in changes]), default=0)


def _whole(span: Span) -> tuple[Condition | None, str]:
    """Return the condition of all of a server's seats, if they have one, and its reason."""
    if span.whole:
        return FAILED, span.whole
    if span.maintenance:
        return MAINTENANCE, ANNOUNCED
    return None, ""


def _seated(
    history: Sequence[Seated], terms: Sequence[GrantTerms], pool: PoolOf, share: str, start: int, end: int
) -> Iterable[tuple[int, int, Seated]]:
    """Yield when a grant on shared servers owns seats of a pool's share: within its term."""
    edges = {start, end, *(one.since for one in history)}
    for one in terms:
        edges.update((one.since, one.start, one.end))
    inside = sorted(at for at in edges if start <= at <= end)
    for left, right in pairwise(inside):
        seated, now = in_force(history, left), terms_at(terms, left)
        if seated is None or now is None or (_pool_of(seated), seated.share) != (pool, share):
            continue
        if seated.seats and now.start <= left < now.end:
            yield left, right, seated
