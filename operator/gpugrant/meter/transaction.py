"""One batch of facts written in one transaction: the order of statements, and what they change.

Nothing here is remembered: the caller takes over the Delta once the transaction is committed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, insert, select

from gpugrant.meter.booking import Crowding, Holding, book, settle_server
from gpugrant.meter.books import Books, take_lock
from gpugrant.meter.facts import (
    Account,
    Announced,
    Claimed,
    Contracted,
    Ended,
    Fact,
    Failure,
    Gap,
    GrantTerms,
    Health,
    Held,
    Named,
    Placed,
    Seated,
    SettingsVersion,
    Unwell,
)
from gpugrant.meter.floors import EVERY_POOL, Series, write_floors
from gpugrant.meter.histories import FOR_EVER, KINDS, Dated, Key, Told, novel, put_in, read_history
from gpugrant.meter.rows import (
    Accounts,
    enter_accounts,
    holding_values,
    holdings_by_uid,
    holdings_on,
    once,
    write_ends,
)
from gpugrant.meter.seals import settings_entry
from gpugrant.meter.tables import failures, gaps, holdings, settings_versions, unwell
from gpugrant.meter.tally import Delta, Tally
from gpugrant.meter.touched import Touched

Change = tuple[Holding | None, Holding]


class TwiceError(Exception):
    """The batch is written already: the answer to its commit was lost."""


class Written(Struct, frozen=True):
    """What a transaction wrote, to be taken over once it is committed."""

    delta: Delta
    accounts: Mapping[Account, int]
    checked: tuple[tuple[str, int, tuple[Holding, ...]], ...]  # server, since, its rows that end later


class Transaction:
    """Writes a batch against what is known: accounts, crowding, sums, histories."""

    def __init__(
        self,
        connection: Connection,
        accounts: Accounts,
        crowding: Crowding,
        tally: Tally,
        opened_at: int,
        step: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._accounts = accounts
        self._crowding = crowding
        self._tally = tally
        self._opened_at = opened_at
        self._step = step
        self._found: dict[Account, int] = {}
        self._histories: dict[tuple[type[Any], Key], list[Dated]] = {}  # as this batch makes them
        self._reread: dict[tuple[type[Any], Key], list[Dated]] = {}
        self._told: list[Dated] = []
        self._checked: list[tuple[str, int, tuple[Holding, ...]]] = []
        self._books: Books
        self._touched: Touched

    def write(self, facts: Sequence[Fact], watermark: int, writes: int, batch: str = "") -> Written:
        """Write the batch. ``writes`` is the number of the last write we know of.

        Raises SupersededError, and TwiceError where the last batch that was written has this name.
        """
        # 1. Take the write lock; make sure that nobody else wrote since we looked, and that this is not there yet.
        self._books = take_lock(self._connection, writes)
        if batch and self._books.batch == batch:
            raise TwiceError
        self._books.batch = batch
        self._touched = Touched(self._connection, self._books, self._tally, self._opened_at, self._history)
        self._step("locked")
        # 2. Facts that stand for themselves.
        self._write_histories([one for one in facts if type(one) in KINDS])  # type: ignore[misc]
        self._write_settings(one for one in facts if isinstance(one, SettingsVersion))
        new_failures = self._write_failures(one for one in facts if isinstance(one, Failure))
        self._write_gaps(one for one in facts if isinstance(one, Gap))
        self._step("facts")
        # 3. What becomes of the rows of the pods they speak of, and of the rows these push aside.
        changes = self._book([one for one in facts if isinstance(one, Held | Ended)])
        self._write_rows(changes)
        # 4. What days that are stored, and counters that were shown, do not know yet.
        since = self._touched.since
        days = self._touched.mark_days()
        self._step("days")
        shown = self._write_floors(since)
        # 5. The watermark, and the seal over all of it.
        mark = self._books.watermark = max(watermark, self._books.watermark)
        self._books.close(self._connection)
        self._step("watermark")
        delta = Delta(
            changes=tuple(changes),
            told=tuple(self._told),
            reread=self._reread,
            shown=shown,
            days=days,
            failures=tuple(new_failures),
            watermark=mark,
            since=since,
        )
        return Written(delta, self._found, tuple(self._checked))

    # -- holds ---------------------------------------------------------------------------------------

    def _book(self, facts: Sequence[Held | Ended]) -> list[Change]:
        """Return the rows that change, as they are and as they become."""
        before = holdings_by_uid(self._connection, self._accounts, {_uid(fact) for fact in facts})
        after = dict(before)
        for fact in facts:
            after[_uid(fact)] = book(after.get(_uid(fact)), fact)
        changed = {uid: row for uid, row in after.items() if row is not before.get(uid)}
        suspects = self._crowding.suspects((before.get(uid), row) for uid, row in changed.items())
        here: dict[str, dict[str, Holding]] = {}
        for uid, row in changed.items():
            here.setdefault(row.dimensions.server, {})[uid] = row
        for server, rows in holdings_on(self._connection, self._accounts, suspects).items():
            self._checked.append((server, suspects[server], tuple(rows.values())))
            before = rows | before
            changed |= settle_server(rows | here.get(server, {}), suspects[server])
        return [(before.get(uid), row) for uid, row in changed.items() if row != before.get(uid)]

    def _write_rows(self, changes: Sequence[Change]) -> None:
        self._step("booked")
        self._know_accounts(row.dimensions.account for _, row in changes)
        new = [self._values(row) for old, row in changes if old is None]
        self._books.add(holdings, (self._values(old) for old, _ in changes if old is not None), -1)
        self._books.add(holdings, (self._values(row) for _, row in changes))
        if new:
            self._connection.execute(insert(holdings), new)
        self._step("inserted")
        write_ends(self._connection, [row for old, row in changes if old is not None])
        self._step("ended")
        self._reread_unwell([row.uid for old, row in changes if old is None])
        for old, row in changes:
            account = row.dimensions.account
            self._touched.touch(
                _first_change(old, row), _last_change(old, row), row.dimensions.server, account.pool
            )
            self._touched.pools.update(
                one.pool for one in self._history(Seated, account.grant_uid) if isinstance(one, Seated)
            )
            if account.pool:
                self._touched.begin(account.programme, row.start)

    def _values(self, row: Holding) -> dict[str, Any]:
        return holding_values(row, self._found[row.dimensions.account])

    def _reread_unwell(self, new: Sequence[str]) -> None:
        """Take up again what was told of pods before their binds, and may have been let go of as of pods long gone."""
        kind = KINDS[Unwell]
        for first in range(0, len(new), 500):
            query = select(unwell.c.uid).where(unwell.c.uid.in_(new[first : first + 500])).distinct()
            for row in self._connection.execute(query).all():
                if not self._history(Unwell, row.uid):
                    self._reread[Unwell, row.uid] = read_history(self._connection, kind, row.uid)

    def _know_accounts(self, accounts: Iterable[Account]) -> None:
        found = self._accounts.ids(self._connection, set(accounts) - self._found.keys())
        enter_accounts(self._books, self._accounts, found)
        self._found |= found

    def _write_floors(self, since: int) -> dict[Series, int]:
        """Keep what counters show that speak of a time of which a part turns out not to have been so."""
        shown = self._tally.floors_of(self._touched.pools, since)
        self._know_accounts(account for account, _ in shown)
        write_floors(self._connection, self._books, shown, self._tally.floors_kept, self._found, self._step)
        return shown

    # -- facts that stand for themselves -------------------------------------------------------------

    def _write_histories(self, facts: Sequence[Dated]) -> None:
        """Append to histories what is new."""
        for fact in facts:
            kind = KINDS[type(fact)]
            key = kind.key(fact)
            history = self._history(type(fact), key)
            one = self._in_time(fact, history)
            if one.since < self._tally.histories.horizon and (kind.fact, key) not in self._reread:
                history[:] = read_history(self._connection, kind, key)
                self._reread[kind.fact, key] = list(history)
            told = novel(kind, history, one)
            if told is None:
                continue
            values = kind.values(one)
            self._connection.execute(insert(kind.table).values(values))
            self._books.add(kind.table, [values])
            put_in(history, one)
            self._told.append(one)
            self._tell(told)

    def _history(self, fact: type[Any], key: Key) -> list[Dated]:
        found = self._histories.get((fact, key))
        if found is None:
            found = self._histories[fact, key] = list(self._tally.histories.of(fact).get(key, ()))
        return found

    def _in_time(self, fact: Dated, history: Sequence[Dated]) -> Dated:
        """Return a fact as of when it counts."""
        if isinstance(fact, GrantTerms):
            if history and replace(fact, since=history[-1].since) == history[-1]:
                return replace(fact, since=history[-1].since)
            # Never into time that is counted already: an edit does not rewrite what was.
            last = history[-1].since + 1 if history else 0
            return replace(fact, since=max(fact.since, self._tally.watermark, last))
        if isinstance(fact, Placed | Seated | Contracted | Claimed):
            # What was before there was a ledger is nobody's account.
            return replace(fact, since=max(fact.since, self._opened_at))
        return replace(fact, since=max(fact.since, 0))

    def _tell(self, told: Told) -> None:
        """Take note of what a fact touches."""
        fact, since = told.fact, told.fact.since
        if isinstance(fact, Named):
            return  # names are of no account
        if isinstance(fact, GrantTerms):
            if len(self._history(GrantTerms, fact.grant_uid)) == 1 and self._is_known(fact.grant_uid):
                since = min(since, fact.start, fact.end)  # the first terms hold for the time before them too
            self._touched.touch(since, told.until, pool=EVERY_POOL)
        elif isinstance(fact, Placed | Health | Unwell | Announced | Claimed):
            self._touched.touch(
                since, told.until, fact.server, EVERY_POOL if isinstance(fact, Placed) else ""
            )
        else:
            self._touched.touch(since, told.until, pool=fact.pool)
            previous = self._history(type(fact), KINDS[type(fact)].key(fact))
            self._touched.pools.update(one.pool for one in previous if isinstance(one, Seated))
        if isinstance(fact, Placed | Seated | Contracted):
            self._touched.begin(fact.programme, fact.since)

    def _is_known(self, grant: str) -> bool:
        """Say whether anything was on a grant's account before its terms were told."""
        histories = self._tally.histories
        return (
            grant in histories.of(Seated)
            or any(uid == grant for _, uid in histories.of(Claimed))
            or any(account.grant_uid == grant for account in self._accounts.all())
        )

    def _write_settings(self, versions: Iterable[SettingsVersion]) -> None:
        for version in versions:
            newest = select(settings_versions.c.digest).order_by(settings_versions.c.id.desc()).limit(1)
            if self._connection.execute(newest).scalar() == version.digest:
                continue
            key = {"digest": version.digest, "since": version.since}
            if once(self._connection, settings_versions, key, {"text": version.text}):
                self._books.add(settings_versions, [{**key, "text": version.text}])
                self._books.enter(settings_entry(version.digest, version.since, version.text))

    def _write_failures(self, seen: Iterable[Failure]) -> list[Failure]:
        fresh = []
        for failure in seen:
            values = msgspec.structs.asdict(failure)
            key = {name: values.pop(name) for name in ("server", "cause", "since")}
            if once(self._connection, failures, key, values):
                self._books.add(failures, [key | values])
                fresh.append(failure)
        return fresh

    def _write_gaps(self, seen: Iterable[Gap]) -> None:
        for gap in seen:
            key, end = {"start_at": gap.start}, {"end_at": gap.end}
            if once(self._connection, gaps, key, end):
                self._books.add(gaps, [key | end])


def _uid(fact: Held | Ended) -> str:
    return fact.hold.uid if isinstance(fact, Ended) else fact.uid


def _ends(row: Holding) -> tuple[int, int]:
    """Return when a row's seats are free for certain by what is known: held until, unseen until."""
    end = FOR_EVER if row.end is None else row.end
    return end, max(end, row.gone_at)


def _first_change(old: Holding | None, new: Holding) -> int:
    """Return the first second that a row's change makes otherwise."""
    return new.start if old is None else min(_ends(old)[0], _ends(new)[0])


def _last_change(old: Holding | None, new: Holding) -> int:
    return max(_ends(new)[1], 0 if old is None else _ends(old)[1])
