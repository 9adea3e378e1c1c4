"""One batch of facts written in one transaction: the order of statements, and what they change.

Nothing here is remembered: the caller takes over the Delta once the transaction is committed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, insert, select, update

from gpugrant.meter.booking import Crowding, Holding, book, settle_server
from gpugrant.meter.cutting import Terms
from gpugrant.meter.facts import (
    Account,
    Condition,
    Ended,
    Fact,
    Failure,
    Gap,
    GrantTerms,
    Held,
    SettingsVersion,
)
from gpugrant.meter.rows import (
    Accounts,
    add_to,
    holding_values,
    holdings_by_uid,
    holdings_of_accounts,
    holdings_on,
    once,
    set_to,
    write_ends,
)
from gpugrant.meter.tables import (
    failures,
    floors,
    gaps,
    grant_terms,
    holdings,
    ledger,
    settings_versions,
    totals,
)
from gpugrant.meter.tally import Delta, Sums, Tally

Change = tuple[Holding | None, Holding]


class SupersededError(Exception):
    """Another process has written to the ledger since it was loaded."""


class Written(Struct, frozen=True):
    """What a transaction wrote, to be taken over once it is committed."""

    delta: Delta
    accounts: Mapping[Account, int]
    terms: tuple[GrantTerms, ...]
    checked: tuple[tuple[str, int, tuple[Holding, ...]], ...]  # server, since, its rows that end later


class Transaction:
    """Writes a batch against what is known: accounts, crowding, sums, terms."""

    def __init__(
        self,
        connection: Connection,
        accounts: Accounts,
        crowding: Crowding,
        tally: Tally,
        last_terms: Mapping[str, GrantTerms],
        step: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._accounts = accounts
        self._crowding = crowding
        self._tally = tally
        self._last_terms = dict(last_terms)
        self._step = step
        self._found: dict[Account, int] = {}
        self._terms: dict[str, Terms] = {}  # histories that this batch makes longer
        self._new_terms: list[GrantTerms] = []
        self._checked: list[tuple[str, int, tuple[Holding, ...]]] = []

    def write(self, facts: Sequence[Fact], watermark: int, writes: int) -> Written:
        """Write the batch. ``writes`` is the number of the last write we know of; raises SupersededError."""
        # 1. Take the write lock; make sure that nobody else wrote since we looked.
        self._connection.execute(update(ledger).values(writes=ledger.c.writes + 1))
        state = self._connection.execute(select(ledger)).mappings().one()
        if state["writes"] != writes + 1:
            raise SupersededError("another process wrote to the ledger; loading it again")
        self._step("locked")
        # 2. Facts that stand for themselves.
        self._write_terms(one for one in facts if isinstance(one, GrantTerms))
        self._write_settings(one for one in facts if isinstance(one, SettingsVersion))
        new_failures = self._write_failures(one for one in facts if isinstance(one, Failure))
        self._write_gaps(one for one in facts if isinstance(one, Gap))
        self._step("facts")
        # 3. What becomes of the rows of the pods they speak of, and of the rows these push aside.
        changes = self._book([one for one in facts if isinstance(one, Held | Ended)])
        self._write_rows(changes)
        # 4. The sums of what is closed, and the floor of counters that would fall.
        told = [*changes, *((row, row) for row in self._retold({row.uid for _, row in changes}))]
        closed = self._write_totals(told)
        shown = self._write_floors(told)
        # 5. The watermark.
        mark = max(watermark, state["watermark"])
        if mark > state["watermark"]:
            self._connection.execute(update(ledger).values(watermark=mark))
        self._step("watermark")
        delta = Delta(tuple(changes), closed, shown, self._terms, tuple(new_failures), mark)
        return Written(delta, self._found, tuple(self._new_terms), tuple(self._checked))

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
        new = [
            holding_values(row, self._found[row.dimensions.account]) for old, row in changes if old is None
        ]
        if new:
            self._connection.execute(insert(holdings), new)
        self._step("inserted")
        write_ends(self._connection, [row for old, row in changes if old is not None])
        self._step("ended")

    def _know_accounts(self, accounts: Iterable[Account]) -> None:
        self._found |= self._accounts.ids(self._connection, set(accounts) - self._found.keys())

    # -- sums ----------------------------------------------------------------------------------------

    def _retold(self, changed: set[str]) -> list[Holding]:
        """Return closed rows that did not change, but whose grant's term did within their time."""
        if not self._terms:
            return []
        since = min(history[-1][0] for history in self._terms.values())
        numbers = self._accounts.of_grants(self._terms)
        rows = holdings_of_accounts(self._connection, self._accounts, numbers, since).values()
        return [row for row in rows if row.end is not None and row.uid not in changed]

    def _write_totals(self, told: Sequence[Change]) -> dict[Account, Sums]:
        """Bring the totals up to date; return by how much they change."""
        moved: dict[Account, Sums] = {}
        for old, new in told:
            if old is not None:
                _add(moved, old.dimensions.account, self._tally.sums_until(old, old.end), -1)
            _add(moved, new.dimensions.account, self._tally.sums_until(new, new.end, self._terms), 1)
        self._know_accounts(moved)
        # A sum that comes back to zero keeps its row; a change of zero writes none.
        moved = {
            account: {key: more for key, more in sums.items() if more} for account, sums in moved.items()
        }
        known: list[dict[str, Any]] = []
        fresh: list[dict[str, Any]] = []
        for account, sums in moved.items():
            for (month, condition), amount in sums.items():
                row = {"account_id": self._found[account], "month": month, "condition": condition}
                there = self._tally.has_total(account, month, condition)
                (known if there else fresh).append(row | {"gpu_seconds": amount})
        add_to(self._connection, totals, known, fresh)
        self._step("totals")
        return moved

    def _write_floors(self, told: Sequence[Change]) -> dict[tuple[Account, Condition], int]:
        """Keep what counters show of which a part turns out not to have been so."""
        mark = self._tally.watermark
        moved: dict[Account, Sums] = {}
        for old, new in told:
            if old is not None:
                _add(moved, old.dimensions.account, self._tally.sums_until(old, _shown_until(old, mark)), -1)
            until = _shown_until(new, mark)
            _add(moved, new.dimensions.account, self._tally.sums_until(new, until, self._terms), 1)
        fallen: dict[tuple[Account, Condition], int] = {}
        for account, sums in moved.items():
            for (_, condition), amount in sums.items():
                fallen[account, condition] = fallen.get((account, condition), 0) + amount
        shown = self._tally.shown_now(key for key, amount in fallen.items() if amount < 0)
        for (account, condition), amount in shown.items():
            key = {"account_id": self._found[account], "condition": condition}
            set_to(self._connection, floors, key, amount)
        self._step("floors")
        return shown

    # -- facts that stand for themselves -------------------------------------------------------------

    def _write_terms(self, seen: Iterable[GrantTerms]) -> None:
        """Append to the histories of grants what is new."""
        for terms in seen:
            uid, last = terms.grant_uid, self._last_terms.get(terms.grant_uid)
            if last is not None and msgspec.structs.replace(terms, since=last.since) == last:
                continue
            # Never into time that is counted already: an edit does not rewrite what was.
            since = max(terms.since, self._tally.watermark, last.since + 1 if last else 0)
            new = msgspec.structs.replace(terms, since=since)
            values = msgspec.structs.asdict(new)
            values |= {"term_start": values.pop("start"), "term_end": values.pop("end")}
            self._connection.execute(insert(grant_terms).values(values))
            self._last_terms[uid] = new
            self._new_terms.append(new)
            history = self._terms.get(uid, self._tally.terms.get(uid, ()))
            self._terms[uid] = (*history, (since, new.end))

    def _write_settings(self, versions: Iterable[SettingsVersion]) -> None:
        for version in versions:
            newest = select(settings_versions.c.digest).order_by(settings_versions.c.id.desc()).limit(1)
            if self._connection.execute(newest).scalar() == version.digest:
                continue
            key = {"digest": version.digest, "since": version.since}
            once(self._connection, settings_versions, key, {"text": version.text})

    def _write_failures(self, seen: Iterable[Failure]) -> list[Failure]:
        fresh = []
        for failure in seen:
            values = msgspec.structs.asdict(failure)
            key = {name: values.pop(name) for name in ("server", "cause", "since")}
            if once(self._connection, failures, key, values):
                fresh.append(failure)
        return fresh

    def _write_gaps(self, seen: Iterable[Gap]) -> None:
        for gap in seen:
            once(self._connection, gaps, {"start_at": gap.start}, {"end_at": gap.end})


def _uid(fact: Held | Ended) -> str:
    return fact.hold.uid if isinstance(fact, Ended) else fact.uid


def _shown_until(row: Holding, mark: int) -> int:
    """Return until when a row counts in what is shown at the watermark."""
    return max(mark, row.start) if row.end is None else row.end


def _add(sums: dict[Account, Sums], account: Account, more: Sums, sign: int) -> None:
    kept = sums.setdefault(account, {})
    for key, amount in more.items():
        kept[key] = kept.get(key, 0) + sign * amount
