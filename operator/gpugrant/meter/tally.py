"""The ledger's sums, exact at the watermark: what is stored of closed days, and the days still open worked out.

Changed only after a commit, so it never shows what a crash could take back. Read by scrapes from any thread.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from threading import RLock
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from gpugrant.meter.booking import Holding
from gpugrant.meter.facts import Account, Condition, Contracted, Failure, Placed, Seated
from gpugrant.meter.floors import Floors, PoolKey, Series, Sums
from gpugrant.meter.histories import FOR_EVER, Dated, Histories, Key
from gpugrant.meter.months import Calendars, Day, day_from, first_second
from gpugrant.meter.reading import facts_of, stay_of
from gpugrant.meter.timeline import PUBLIC, build
from gpugrant.meter.window import PoolOf, Stay

FailureKey = tuple[str, str, str, str, str, str]  # programme, provider, pool, gpu_type, share, cause
PoolLabels = tuple[str, str, str, str, str]  # programme, provider, pool, gpu_type, share

SHOWN_DIGESTS = 35  # days, of every programme and provider

# The open days are built once up to here before the watermark, and again from there at every reading.
_SETTLED_SECONDS = 120
_LIVE_SECONDS = 600


class DayEnds(Struct, frozen=True):
    """Until when a programme's days are stored, from when on, and where its last closed month ended."""

    first: int
    until: int
    closed_month: str = ""
    closed_until: int = 0


class Delta(Struct, frozen=True):
    """What one commit changes."""

    changes: tuple[tuple[Holding | None, Holding], ...] = ()  # rows as they were and are
    told: tuple[Dated, ...] = ()  # facts that say something new
    reread: Mapping[tuple[type[Any], Key], list[Dated]] = {}  # histories from before what is in memory
    closed: Mapping[Account, Sums] = {}  # by how much stored sums change
    shown: Mapping[Series, int] = {}  # floors
    days: Mapping[str, DayEnds] = {}  # by programme
    digests: tuple[tuple[str, str, str, str], ...] = ()  # programme, provider, day, sha256
    shortfall: Mapping[PoolKey, int] = {}  # by how much stored sums change
    failures: tuple[Failure, ...] = ()
    watermark: int = 0
    since: int = FOR_EVER  # the first moment that is otherwise now


class Reading(Struct, frozen=True):
    """The sums at one moment, exact at the watermark."""

    watermark: int
    calendars: Calendars
    sums: Mapping[Account, Sums]
    counters: Mapping[Account, Mapping[Condition, int]]
    failures: Mapping[FailureKey, int]
    shortfall: Mapping[PoolLabels, int] = {}  # GPU-seconds by which a promise was not met
    digests: tuple[tuple[str, str, str, str], ...] = ()  # programme, provider, day, sha256; the newest days


class Tally:
    """GPU-seconds by account, month and condition, exact at the watermark.

    ``lock`` is held by whoever commits, so that nothing is shown between what a commit rests on and what it does.
    """

    def __init__(self, calendars: Calendars) -> None:
        self.calendars = calendars
        self.opened_at = 0  # nothing is accounted before
        self.watermark = 0
        self.held_pods = 0
        self.failures: Counter[FailureKey] = Counter()
        self.histories = Histories()
        self.days: dict[str, DayEnds] = {}
        self.lock = RLock()
        self._begins: dict[str, int] = {}  # programmes that have no stored day yet: their first moment
        self._stays: dict[str, Stay] = {}
        self._held: set[str] = set()
        self._closed: dict[Account, Sums] = {}
        self._floors = Floors()
        self._built: dict[str, _Open] = {}  # by programme, what will hardly change
        self._last: Reading | None = None
        self._is_fresh = False
        self._shortfall: Counter[PoolKey] = Counter()
        self._promised_types: dict[PoolKey, str] = {}  # GPU types, as the last contract says
        self._digests: dict[tuple[str, str], dict[str, str]] = {}

    # -- loading -------------------------------------------------------------------------------------

    def load_sums(
        self,
        closed: dict[Account, Sums],
        shown: dict[Series, int],
        failures: Iterable[Failure],
        shortfall: Mapping[PoolKey, int],
        digests: Iterable[tuple[str, str, str, str]],
    ) -> None:
        """Start from what is stored."""
        self._shortfall.update(shortfall)
        self._show_digests(digests)
        self._closed = closed
        self._floors.load(shown)
        self.failures = Counter(failure_key(failure) for failure in failures)

    def load_begins(self, begins: Mapping[str, int]) -> int:
        """Take over the first binds of programmes without stored days; return where the first open day starts.

        Histories are loaded by then; they are shortened to what the open days need.
        """
        for programme, at in begins.items():
            self._begin(programme, at)
        for one in self.histories.all_of(Placed, Seated, Contracted):
            self._begin_with(one)
        return self.needed_from()

    def load_stays(self, stays: Iterable[Stay], held: set[str]) -> None:
        """Take over what touches the open days; ``held``: pods that hold still."""
        self._stays = {stay.uid: stay for stay in stays}
        self._held = held
        self.held_pods = len(held)
        self.histories.forget(self.needed_from(), self._stays.__contains__)

    def held_on(self) -> dict[str, tuple[str, str]]:
        """Return the name and uid of the grant on which each pod (by uid) holds still; "" twice: on no grant."""
        with self.lock:
            accounts = {uid: self._stays[uid].account for uid in self._held if uid in self._stays}
        return {uid: (account.grant, account.grant_uid) for uid, account in accounts.items()}

    # -- changing ------------------------------------------------------------------------------------

    def apply(self, delta: Delta) -> None:
        """Take over what was committed."""
        with self.lock:
            for account, sums in delta.closed.items():
                _add(self._closed.setdefault(account, {}), sums)
            for (fact, key), history in delta.reread.items():
                self.histories.replace(fact, key, history)
            for one in delta.told:
                self.histories.add(one)
                self._begin_with(one)
            for _, row in delta.changes:
                self._place(row)
            self._floors.kept.update(delta.shown)
            self._shortfall.update(delta.shortfall)
            self._show_digests(delta.digests)
            self.failures.update(failure_key(failure) for failure in delta.failures)
            self.watermark = max(self.watermark, delta.watermark)
            self.held_pods = len(self._held)
            self._built = {
                programme: kept for programme, kept in self._built.items() if kept.until <= delta.since
            }
            if delta.days:
                self._close_days(delta.days)
            self._is_fresh = False

    def _place(self, row: Holding) -> None:
        stay = stay_of(row)
        (self._held.add if row.own_end is None else self._held.discard)(row.uid)
        if max(stay.end, stay.gone) > self.histories.horizon:
            self._stays[row.uid] = stay
        else:
            self._stays.pop(row.uid, None)
        if stay.account.pool:
            self._begin(stay.account.programme, stay.start)

    def _show_digests(self, digests: Iterable[tuple[str, str, str, str]]) -> None:
        """Take over the digests of days; the newest ones are kept."""
        for programme, provider, day, sha256 in digests:
            known = self._digests.setdefault((programme, provider), {})
            known[day] = sha256
            while len(known) > SHOWN_DIGESTS:
                del known[min(known)]

    def _begin_with(self, fact: Dated) -> None:
        if isinstance(fact, Placed | Seated | Contracted):
            self._begin(fact.programme, fact.since)
        if isinstance(fact, Contracted) and fact.programme:
            self._promised_types[fact.programme, fact.provider, fact.pool] = fact.gpu_type

    def _begin(self, programme: str, at: int) -> None:
        if programme:
            at = max(at, self.opened_at)
            self._begins[programme] = min(at, self._begins.get(programme, at))

    def _close_days(self, days: Mapping[str, DayEnds]) -> None:
        """Take over until when days are stored, and let go of what no open day needs."""
        self.days.update(days)
        for programme in days:
            self._built.pop(programme, None)
        horizon = self.needed_from()
        if horizon > self.histories.horizon:
            self._stays = {
                uid: stay for uid, stay in self._stays.items() if max(stay.end, stay.gone) > horizon
            }
            self.histories.forget(horizon, self._stays.__contains__)

    def close_month(self, programme: str, month: str, end: int) -> None:
        """Take over that a month is closed."""
        with self.lock:
            self.days[programme] = replace(self.days[programme], closed_month=month, closed_until=end)

    # -- days ----------------------------------------------------------------------------------------

    def programmes(self) -> Collection[str]:
        """Return every programme that there is something to account for."""
        return sorted(self._begins.keys() | self.days.keys())

    def open_from(self, programme: str) -> int:
        """Return from when on a programme's time is not in stored days."""
        ends = self.days.get(programme)
        if ends is not None:
            return ends.until
        return first_second(self.calendars.of(programme), self._begins[programme], self.opened_at)

    def needed_from(self) -> int:
        """Return where the first open day of any programme starts: what was before it is not needed."""
        return min(map(self.open_from, self.programmes()), default=0)

    @property
    def is_short(self) -> bool:
        """Say whether a programme turned out to begin before what is in memory: it has to be loaded again."""
        return self.needed_from() < self.histories.horizon

    def next_day(self, programme: str) -> Day:
        """Return the first day of a programme that is not stored."""
        ends = self.days.get(programme)
        closed = (ends.closed_month, ends.closed_until) if ends else ("", 0)
        return day_from(self.calendars.of(programme), self.open_from(programme), *closed)

    # -- reading -------------------------------------------------------------------------------------

    def has_total(self, account: Account, month: str, condition: Condition) -> bool:
        """Say whether the store has a sum for these."""
        return (month, condition) in self._closed.get(account, {})

    def sums(self, account: Account) -> Sums:
        """Return an account's GPU-seconds up to the watermark. Exact."""
        return dict(self.read().sums.get(account, {}))

    def read(self) -> Reading:
        """Return all sums and counters at one moment.

        While a commit is on its way that is the moment before, so it never waits for the database. Counters never
        fall: what was learnt late may take seconds back that were shown already, and then the counter stands still
        until the sum has caught up. Sums (and so months) are corrected at once.
        """
        if not self.lock.acquire(blocking=self._last is None):
            assert self._last is not None
            return self._last
        try:
            if self._last is None or not self._is_fresh:
                self._last = self._make()
                self._is_fresh = True
                self._floors.shown_anew()
            return self._last
        finally:
            self.lock.release()

    def _make(self) -> Reading:
        sums = {account: dict(kept) for account, kept in self._closed.items()}
        open_shortfall: Counter[PoolKey] = Counter()
        for programme in self.programmes():
            for built in self._open_sums(programme):
                for (account, month, condition), amount in built.sums.items():
                    kept = sums.setdefault(account, {})
                    kept[month, condition] = kept.get((month, condition), 0) + amount
                open_shortfall.update({(programme, *pool): n for pool, n in built.shortfall.items()})
        counters: dict[Account, dict[Condition, int]] = {}
        for account, kept in sums.items():
            counted = counters[account] = {}
            for (_, condition), amount in kept.items():
                counted[condition] = counted.get(condition, 0) + amount
        self._floors.raise_counters(counters)
        digests = tuple(
            (programme, provider, day, sha256)
            for (programme, provider), known in self._digests.items()
            for day, sha256 in known.items()
        )
        return Reading(
            self.watermark,
            self.calendars,
            sums,
            counters,
            dict(self.failures),
            self._read_shortfall(open_shortfall),
            digests,
        )

    def _read_shortfall(self, open_days: Counter[PoolKey]) -> dict[PoolLabels, int]:
        """Return by how much promises were not met; never less than was shown."""
        shown = self._floors.raise_shortfall(self._shortfall + open_days)
        return {(*pool, self._promised_types.get(pool, ""), PUBLIC): amount for pool, amount in shown.items()}

    def _open_sums(self, programme: str) -> tuple["_Open", "_Open"]:
        """Return the sums of a programme's open days up to the watermark: of what is settled, of what is not yet."""
        settled = self._built.get(programme) or _Open(self.open_from(programme))
        if self.watermark - settled.until > _LIVE_SECONDS:
            self._build(programme, settled, self.watermark - _SETTLED_SECONDS)
        self._built[programme] = settled
        live = _Open(settled.until)
        self._build(programme, live, self.watermark)
        return settled, live

    def _build(self, programme: str, into: "_Open", end: int) -> None:
        """Add what was from where the sums end up to ``end``."""
        calendar, first = self.calendars.of(programme), self.next_day(programme)
        while into.until < end:
            start = into.until
            if start < first.end:
                name, edge = first.month, first.end
            else:
                month = calendar.month_of(start)
                name, edge = month.name, month.end
            into.until = min(edge, end)
            stays = [stay for stay in self._stays.values() if stay.end > start or stay.gone > start]
            built = build(facts_of(self.histories, stays), programme, start, into.until)
            for cell, amount in built.cells.items():
                key = (cell.account, name, cell.condition)
                into.sums[key] = into.sums.get(key, 0) + amount
            into.shortfall.update(built.shortfall)

    def used_by_grant(self) -> dict[str, tuple[int, int]]:
        """Return grant uid -> Used GPU-seconds in all, and of the running month; for budgets and status."""
        used: dict[str, tuple[int, int]] = {}
        reading = self.read()
        for account, sums in reading.sums.items():
            if not account.grant_uid:
                continue
            running = reading.calendars.of(account.programme).month_of(reading.watermark).name
            whole, month = used.get(account.grant_uid, (0, 0))
            for (name, condition), amount in sums.items():
                if condition is Condition.USED:
                    whole += amount
                    month += amount if name == running else 0
            used[account.grant_uid] = (whole, month)
        return used

    # -- what was shown ------------------------------------------------------------------------------

    @property
    def floors_kept(self) -> Mapping[Series, int]:
        """Return the floors that are stored."""
        return self._floors.kept

    def floors_of(self, pools: Collection[str], since: int) -> dict[Series, int]:
        """Return what the counters of some pools ("*": of all) show, if ``since`` was shown to anybody already."""
        shown = self._shown()
        return {} if since >= shown.watermark else self._floors.of_pools(pools, shown.counters)

    def floors_of_falls(self, moved: Mapping[Account, Sums]) -> dict[Series, int]:
        """Return what counters show whose sum falls by this."""
        return self._floors.of_falls(moved, self._shown().counters)

    def _shown(self) -> Reading:
        """Return what was read last."""
        return self.read() if self._last is None else self._last


class _Open:
    """Sums of open days up to a moment, by account, month and condition; the shortfall by pool."""

    def __init__(self, until: int) -> None:
        self.until = until
        self.sums: dict[tuple[Account, str, Condition], int] = {}
        self.shortfall: Counter[PoolOf] = Counter()


def failure_key(failure: Failure) -> FailureKey:
    """Return what failures are counted by."""
    return (
        failure.programme,
        failure.provider,
        failure.pool,
        failure.gpu_type,
        failure.share,
        failure.cause,
    )


def _add(sums: Sums, more: Sums) -> None:
    for key, amount in more.items():
        sums[key] = sums.get(key, 0) + amount
