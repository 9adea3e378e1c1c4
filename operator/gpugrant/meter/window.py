"""One window of the timeline: the facts that touch it, and what is added up of it, on whose account. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
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
from gpugrant.meter.seating import Room, Rooms
from gpugrant.meter.spans import Span, terms_at

PoolOf: TypeAlias = tuple[str, str]  # provider, pool: a pool's name may come to be another provider's


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


class Built(Struct, frozen=True):
    """A window's sums. ``expected`` is worked out another way: max(contracted, installed) seats x seconds.

    ``held`` are the GPU-seconds of cells that came from pods' holds, by pool, whatever their condition.
    """

    cells: Mapping[Cell, int]
    expected: Mapping[PoolOf, int]
    shortfall: Mapping[PoolOf, int]  # public GPUs promised and not installed x seconds
    held: Mapping[PoolOf, int]


class Window:
    """[start, end) of a programme while it is built."""

    def __init__(self, facts: Facts, programme: str, start: int, end: int) -> None:
        self.facts = facts
        self.programme = programme
        self.start, self.end = start, end
        self.held: dict[PoolOf, int] = defaultdict(int)
        self.expected: dict[PoolOf, int] = defaultdict(int)
        self.shortfall: dict[PoolOf, int] = defaultdict(int)
        # Installed seats as steps: pool and share -> moment -> change.
        self.steps: dict[tuple[PoolOf, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
        # What is to be dealt, of pools and shares that have grants on shared servers.
        self.rooms: dict[tuple[PoolOf, str], Rooms] = {}
        for history in facts.seated.values():
            for seated in history:
                if seated.programme == programme and seated.seats:
                    self.rooms.setdefault((pool_of(seated), seated.share), Rooms())
        self._sums: dict[tuple[Account, str, Condition, str], int] = defaultdict(int)
        self._accounts: dict[tuple[object, ...], Account] = {}
        self._moved: dict[tuple[Account, tuple[str, ...]], Account] = {}

    # -- sums ----------------------------------------------------------------------------------------

    def install(self, place: Placed | Account, start: int, end: int, seats: int) -> None:
        """Take note of seats that are there over [start, end)."""
        steps = self.steps[pool_of(place), place.share]
        steps[start] += seats
        steps[end] -= seats

    def add(self, account: Account, fabric: str, condition: Condition, reason: str, amount: int) -> None:
        """Add GPU-seconds to a cell."""
        if amount:
            self._sums[account, fabric, condition, reason] += amount

    def add_used(
        self, account: Account, fabric: str, seats: int, start: int, end: int, reason: str = ""
    ) -> None:
        """Add held seats as Used, or as Grace from the end of the grant's term on."""
        if not self.term_decides(account, end):
            self.add(account, fabric, Condition.USED, reason, seats * (end - start))
            return
        terms = self.facts.terms[account.grant_uid]
        edges = {start, end, *(at for one in terms for at in (one.since, one.end) if start < at < end)}
        inside = sorted(edges)
        for left, right in pairwise(inside):
            now = terms_at(terms, left)
            condition = Condition.GRACE if now is not None and left >= now.end else Condition.USED
            self.add(account, fabric, condition, reason, seats * (right - left))

    def term_decides(self, account: Account, end: int) -> bool:
        """Say whether what is held up to ``end`` may be Grace in part."""
        terms = self.facts.terms.get(account.grant_uid, ()) if account.grant_uid else ()
        return bool(terms) and (len(terms) > 1 or end > terms[0].end)

    def is_roomy(self, span: Span, placed: Placed) -> bool:
        """Say whether what nobody holds of a span may belong to grants on shared servers."""
        return not span.owner and (pool_of(placed), placed.share) in self.rooms

    def add_idle(self, span: Span, placed: Placed, condition: Condition, reason: str, amount: int) -> None:
        """Add GPU-seconds of a span that nobody holds to whom they belong."""
        self.add(self._idle(span, placed), placed.fabric, condition, reason, amount)

    def add_room(
        self,
        span: Span,
        placed: Placed,
        condition: Condition,
        reason: str,
        seats: int,
        start: int,
        end: int,
    ) -> None:
        """Set seats that nobody holds over [start, end) aside, to be dealt to grants on shared servers."""
        room = Room(condition, placed.fabric, reason, self._idle(span, placed))
        self.rooms[pool_of(placed), placed.share].add(room, start, end, seats)

    def built(self) -> Built:
        """Return the sums."""
        cells = {Cell(*key): amount for key, amount in self._sums.items() if amount}
        return Built(cells, dict(self.expected), dict(self.shortfall), dict(self.held))

    # -- accounts ------------------------------------------------------------------------------------

    def account_at(self, account: Account, placed: Placed) -> Account:
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

    def granted(self, uid: str, terms: GrantTerms | None, place: Placed | Seated) -> Account:
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

    def _idle(self, span: Span, placed: Placed) -> Account:
        """Return who owns the seats of a span that no pod holds."""
        if span.owner:
            return self.granted(
                span.owner, terms_at(self.facts.terms.get(span.owner, ()), span.start), placed
            )
        key = (*_place(placed), placed.idle_owner)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(*_place(placed), placed.idle_owner)
        return account


def pool_of(place: Placed | Seated | Contracted | Account) -> PoolOf:
    """Return what pools are told apart by within a programme."""
    return place.provider, place.pool


def _place(placed: Placed | Seated) -> tuple[str, str, str, str, str]:
    return placed.programme, placed.provider, placed.pool, placed.gpu_type, placed.share
