"""The ledger's sums in memory: what is closed, and what is held up to the watermark.

Changed only after a commit, so it never shows what a crash could take back. Read by scrapes from any thread.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from threading import Lock

from msgspec import Struct

from gpugrant.meter.booking import Holding
from gpugrant.meter.cutting import Terms, cut_interval, seat_seconds
from gpugrant.meter.facts import Account, Condition, Failure
from gpugrant.meter.months import Calendar, Calendars

Sums = dict[tuple[str, Condition], int]  # by month and condition
FailureKey = tuple[str, str, str, str, str, str]  # programme, provider, pool, gpu_type, share, cause


class Delta(Struct, frozen=True):
    """What one commit changes: rows as they were and are, closed sums, shown maxima, terms, failures."""

    changes: tuple[tuple[Holding | None, Holding], ...] = ()
    closed: Mapping[Account, Sums] = {}
    shown: Mapping[tuple[Account, Condition], int] = {}
    terms: Mapping[str, Terms] = {}
    failures: tuple[Failure, ...] = ()
    watermark: int = 0


class Reading(Struct, frozen=True):
    """The sums at one moment, exact at the watermark."""

    watermark: int
    calendars: Calendars
    sums: Mapping[Account, Sums]
    counters: Mapping[Account, Mapping[Condition, int]]
    failures: Mapping[FailureKey, int]


class Tally:
    """GPU-seconds by account, month and condition, exact at the watermark."""

    def __init__(self, calendars: Calendars) -> None:
        self.calendars = calendars
        self.watermark = 0
        self.terms: dict[str, Terms] = {}
        self.failures: Counter[FailureKey] = Counter()
        self.held_pods = 0
        self._closed: dict[Account, Sums] = {}
        self._open: dict[Account, dict[str, tuple[int, int]]] = {}  # uid -> (start, seats)
        self._shown: dict[tuple[Account, Condition], int] = {}
        self._lock = Lock()

    def apply(self, delta: Delta) -> None:
        """Take over what was committed."""
        with self._lock:
            for account, sums in delta.closed.items():
                kept = self._closed.setdefault(account, {})
                for key, amount in sums.items():
                    kept[key] = kept.get(key, 0) + amount
            for _, row in delta.changes:
                self._place(row)
            self._shown.update(delta.shown)
            self.terms.update(delta.terms)
            self.failures.update(failure_key(failure) for failure in delta.failures)
            self.watermark = max(self.watermark, delta.watermark)
            self.held_pods = sum(map(len, self._open.values()))

    def has_total(self, account: Account, month: str, condition: Condition) -> bool:
        """Say whether the store has a sum of closed holds for these."""
        return (month, condition) in self._closed.get(account, {})

    def _place(self, row: Holding) -> None:
        account = row.dimensions.account
        if row.end is None:
            self._open.setdefault(account, {})[row.uid] = (row.start, row.dimensions.seats)
        else:
            self._open.get(account, {}).pop(row.uid, None)

    def sums(self, account: Account) -> Sums:
        """Return an account's GPU-seconds, closed ones and held ones up to the watermark. Exact."""
        with self._lock:
            return self._sums(account)

    def _sums(self, account: Account) -> Sums:
        sums = dict(self._closed.get(account, {}))
        held = self._open.get(account)
        if not held:
            return sums
        calendar, terms = self.calendars.of(account.programme), self.terms.get(account.grant_uid, ())
        first = min(start for start, _ in held.values())
        # Cut the account's time once, then every hold by the few pieces: 50,000 holds stay cheap.
        for piece in cut_interval(first, self.watermark, calendar, terms):
            left, right = piece.start, piece.end
            amount = sum(
                seats * (right - max(left, start)) for start, seats in held.values() if start < right
            )
            if amount:
                key = (piece.month, piece.condition)
                sums[key] = sums.get(key, 0) + amount
        return sums

    def read(self) -> Reading:
        """Return all sums and counters at one moment.

        Counters never fall: an end that was learnt late takes seconds back that were shown already, and then
        the counter stands still until the sum has caught up. Sums (and so months) are corrected at once.
        """
        with self._lock:
            accounts = dict.fromkeys((*self._closed, *self._open, *(account for account, _ in self._shown)))
            sums = {account: self._sums(account) for account in accounts}
            counters = {account: self._counters(account, sums[account]) for account in accounts}
            return Reading(self.watermark, self.calendars, sums, counters, dict(self.failures))

    def _counters(self, account: Account, sums: Sums) -> dict[Condition, int]:
        counters: dict[Condition, int] = {}
        for (_, condition), amount in sums.items():
            counters[condition] = counters.get(condition, 0) + amount
        for condition in Condition:
            floor = self._shown.get((account, condition))
            if floor is not None:
                counters[condition] = max(counters.get(condition, 0), floor)
        return counters

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

    # -- working out a commit ------------------------------------------------------------------------

    def sums_until(self, row: Holding, end: int | None, terms: Mapping[str, Terms] | None = None) -> Sums:
        """Return what a row amounts to up to ``end``; nothing for None."""
        if end is None:
            return {}
        account = row.dimensions.account
        own_terms = (terms or {}).get(account.grant_uid, self.terms.get(account.grant_uid, ()))
        return row_sums(row, end, self.calendars.of(account.programme), own_terms)

    def shown_now(self, falls: Iterable[tuple[Account, Condition]]) -> dict[tuple[Account, Condition], int]:
        """Return what these counters show now: the floor they must not fall below."""
        with self._lock:
            return {
                (account, condition): self._counters(account, self._sums(account)).get(condition, 0)
                for account, condition in falls
            }


def row_sums(row: Holding, end: int, calendar: Calendar, terms: Terms) -> Sums:
    """Return a row's GPU-seconds by month and condition up to ``end``."""
    return seat_seconds(cut_interval(row.start, end, calendar, terms), row.dimensions.seats)


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
