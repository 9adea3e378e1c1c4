"""The ledger's database: facts go in by the batch, one transaction each, all of it or none.

Blocking; the meter calls it from a thread of its own. Every commit may be tried again after any error, and
after a kill: rows are keyed by what they are of, sums change only together with the rows they are sums of.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from gpugrant.meter.booking import Crowding
from gpugrant.meter.books import Books, SupersededError, take_lock
from gpugrant.meter.closing import (
    ClosedMonth,
    Mark,
    NotClosable,
    closed_month,
    read_marks,
    read_settings,
    write_closing,
    write_mark,
)
from gpugrant.meter.database import reading_engine, writing_engine
from gpugrant.meter.facts import Fact
from gpugrant.meter.histories import Histories, StockFact
from gpugrant.meter.loading import load_crowding, load_tally
from gpugrant.meter.migrations import upgrade
from gpugrant.meter.month import MonthAccount
from gpugrant.meter.monthly import counted_account
from gpugrant.meter.months import Calendars, Month
from gpugrant.meter.raw_sums import held_by_pool
from gpugrant.meter.reported import reported
from gpugrant.meter.rows import Accounts
from gpugrant.meter.settling import Settling, cut_again
from gpugrant.meter.tables import ledger, settings_versions
from gpugrant.meter.tally import Tally
from gpugrant.meter.transaction import Change, Transaction, TwiceError
from gpugrant.meter.verify import drift_of, next_day_to_check
from gpugrant.meter.window import PoolOf

_T = TypeVar("_T")

# Errors that mean the facts, not the database.
_REFUSED = (DataError, IntegrityError, ProgrammingError)


class StoreAwayError(Exception):
    """The database cannot be reached, written or trusted just now; the words say why."""


class Store:
    """The only one who writes to the ledger's database.

    ``lock_wait`` is how many seconds another's lock is waited for before that counts as away. ``on_step`` is
    called with a name between the statements; tests kill the process there.
    """

    def __init__(
        self,
        url: str,
        calendars: Calendars | None = None,
        now: Callable[[], float] = time.time,
        on_step: Callable[[str], None] | None = None,
        lock_wait: float = 5.0,
    ) -> None:
        self._engine = writing_engine(url, lock_wait)
        self._readers = reading_engine(url, lock_wait)
        self._calendars = calendars  # None until somebody says, or the ledger
        self._now = now
        self._step = on_step or (lambda _: None)
        self._accounts = Accounts()
        self._crowding = Crowding()
        self._writes = -1
        self.tally = Tally(calendars or Calendars())
        self._checked = 0  # the day that was compared with its facts last
        self._drift: dict[int, int] = {}  # GPU-seconds, by day
        self.opened_at = 0
        self.kept_until = 0  # the watermark when this process opened the ledger first
        # What was counted last, good for as long as the number of writes is the same.
        self._counted: tuple[int, tuple[MonthAccount, dict[str, str]]] | None = None
        self._held_last: tuple[tuple[int, str, int, int], Mapping[PoolOf, int]] | None = None

    # -- opening -------------------------------------------------------------------------------------

    def open(self) -> dict[str, int]:
        """Bring the database to today's shape and load the sums; return uid -> start of what is held.

        Reads what is held and what the open days need, never all rows. Raises StoreAwayError.
        """
        with self._trouble():
            with self._engine.begin() as connection:
                upgrade(connection)
                self._step("migrated")
            with self._engine.begin() as connection:
                self._take_ledger(connection)
                return self._load(connection)

    def _take_ledger(self, connection: Connection) -> None:
        """Make the ledger's one row if it is not there; cut days again if the calendars are others now.

        A process that has not been told of any goes by those that the ledger has.
        """
        wanted = msgspec.json.encode(self._calendars or Calendars()).decode()
        taken = connection.execute(update(ledger).values(writes=ledger.c.writes + 1))
        if not taken.rowcount:
            now = int(self._now())
            connection.execute(
                insert(ledger).values(
                    id=1, opened_at=now, watermark=now, writes=0, calendars=wanted, contents="{}", seal=""
                )
            )
        self._step("taken")
        books = Books.locked(connection, is_new=not taken.rowcount)
        was = msgspec.json.decode(books.calendars, type=Calendars)
        if self._calendars is None:
            self._calendars = was
        elif was != self._calendars:
            cut_again(connection, books, was, self._calendars)
            books.calendars = wanted
        books.close(connection)

    def newest_settings(self) -> str:
        """Return the text of the settings recorded last; '' where there are none, or no store to ask."""
        newest = select(settings_versions.c.text).order_by(settings_versions.c.id.desc()).limit(1)
        try:
            with self._engine.begin() as connection:
                upgrade(connection)
                return connection.execute(newest).scalar() or ""
        except (SQLAlchemyError, OSError):
            return ""

    def _load(self, connection: Connection) -> dict[str, int]:
        state = connection.execute(select(ledger)).mappings().one()
        self._accounts.load(connection)
        calendars = msgspec.json.decode(state["calendars"], type=Calendars)
        tally, held = load_tally(connection, self._accounts, calendars, state["watermark"])
        load_crowding(connection, self._crowding, held)
        tally.read()  # what a predecessor may have shown
        self.tally = tally
        self._writes, self.opened_at = state["writes"], state["opened_at"]
        self.kept_until = self.kept_until or state["watermark"]
        return {row.uid: row.start for row in held}

    def in_force(self) -> list[StockFact]:
        """Return the last fact of every history: what was so when it was last looked at."""
        with self.tally.lock:
            return self.tally.histories.in_force()

    # -- writing -------------------------------------------------------------------------------------

    def commit(self, facts: Sequence[Fact], watermark: int = 0, batch: str = "") -> list[Change]:
        """Write a batch of facts in one transaction; return what changed.

        Raises StoreAwayError, and other errors where a fact cannot be written at all.

        ``watermark`` says until when everything that was seen is in this batch or an earlier one. ``batch`` is a
        name that no other batch has: told again after an answer that was lost, the same one is not written twice.
        """
        with self._writing(), self.tally.lock:
            try:
                with self._engine.begin() as connection:
                    self._step("begun")
                    transaction = Transaction(
                        connection, self._accounts, self._crowding, self.tally, self.opened_at, self._step
                    )
                    written = transaction.write(facts, watermark, self._writes, batch)
            except TwiceError:
                return []  # what it changed was loaded with the rest
            self._step("committed")
            self._writes += 1
            self._accounts.keep(written.accounts)
            for server, since, rows in written.checked:
                self._crowding.know(server, since, rows)
            self._crowding.apply(written.delta.changes)
            self.tally.apply(written.delta)
            if self.tally.is_short:
                with self._readers.begin() as connection:
                    self._load(connection)
            return list(written.delta.changes)

    def settle(self) -> bool:
        """Close one day that is over, or make one anew that facts came late for; say whether there was one.

        One transaction each, so that commits are not held up for long. Raises StoreAwayError.
        """
        with self._writing(), self.tally.lock:
            with self._readers.begin() as connection:
                settling = Settling.find(connection, self._accounts, self.tally)
            if settling is None:
                return False
            with self._engine.begin() as connection:
                self._step("begun")
                delta, accounts = settling.write(connection, self._writes, self._step)
            self._step("committed")
            self._writes += 1
            self._accounts.keep(accounts)
            self.tally.apply(delta)
            return True

    def check_day(self) -> int:
        """Compare the next stored day with its raw facts; return by how many GPU-seconds stored days differ.

        One day at each call, round and round; what was found of a day counts until it is looked at again. Takes as
        long as a day's facts take to read. Raises StoreAwayError.
        """
        with self._trouble(), self._readers.begin() as connection:
            row = next_day_to_check(connection, self._checked)
            if row is None:
                return 0
            self._checked = row.id
            self._drift[row.id] = drift_of(connection, self._accounts, row)
        return sum(self._drift.values())

    # -- months --------------------------------------------------------------------------------------

    def reported(self) -> list[tuple[str, str, Month]]:
        """Return every programme, provider and month that there is to report, the running one included."""
        return self._read(reported)

    def month_account(self, programme: str, provider: str, month: Month) -> MonthAccount:
        """Return all that a month's report is made of: as it closed, or as it is by now. Takes some seconds."""
        writes = self._writes
        counted = self._read(
            lambda connection: counted_account(connection, programme, provider, month, self._held)
        )
        self._counted = (writes, counted)
        return counted[0]

    def _held(
        self,
        connection: Connection,
        accounts: Accounts,
        histories: Histories,
        programme: str,
        start: int,
        end: int,
    ) -> Mapping[PoolOf, int]:
        """Return what pods held; the same for every provider, so it is summed once while nothing is written."""
        asked = (self._writes, programme, start, end)
        if not self.is_open or self._held_last is None or self._held_last[0] != asked:
            self._held_last = (
                asked,
                held_by_pool(connection, accounts, histories, programme, start, end),
            )
        return self._held_last[1]

    def settings_at(self, at: int) -> str:
        """Return the text of the settings in force at a moment; '' where none were."""
        return self._read(lambda connection: read_settings(connection, at))

    def closed_month(self, name: str) -> ClosedMonth | None:
        """Return how a month was closed, by its report's name; None while it is open."""
        return self._read(lambda connection: closed_month(connection, name))

    def close_month(self, name: str, manifest_sha256: str, closed_at: int) -> None:
        """Close a month, for ever: its account is from now on what it is now.

        Raises StoreAwayError, LookupError, and NotClosable where days of it are not closed.
        """
        with self._writing(), self.tally.lock:
            with self._engine.begin() as connection:
                self._step("begun")
                books = take_lock(connection, self._writes)
                self._step("locked")
                programme, month, end = write_closing(
                    connection, books, name, manifest_sha256, closed_at, self._counted_now(name)
                )
                books.close(connection)
                self._step("closed month")
            self._step("committed")
            if self._held_last is not None and self._held_last[0][0] == self._writes:
                # No pod's row has changed: what pods held is the same for the next provider.
                asked, held = self._held_last
                self._held_last = ((self._writes + 1, *asked[1:]), held)
            self._writes += 1
            self.tally.close_month(programme, month, end)

    def _counted_now(self, name: str) -> tuple[MonthAccount, dict[str, str]] | None:
        """Return what was counted of a month if nothing was written since."""
        writes, counted = self._counted or (-1, None)
        return counted if counted and (writes, counted[0].name) == (self._writes, name) else None

    def mark(self, name: str, kind: str, by: str, reference: str, at: int) -> None:
        """Keep what a person said of a report. Raises StoreAwayError."""
        with self._trouble(), self._engine.begin() as connection:
            write_mark(connection, name, Mark(at, kind, by, reference))

    def marks(self, name: str) -> Sequence[Mark]:
        """Return what people said of a report, the oldest first."""
        return self._read(lambda connection: read_marks(connection, name))

    def _read(self, call: Callable[[Connection], _T]) -> _T:
        with self._trouble(), self._readers.begin() as connection:
            return call(connection)

    def use_calendars(self, calendars: Calendars) -> None:
        """Cut days and months by these from the next ``open`` on; days of closed months stay as they are."""
        if calendars != self._calendars:
            self._calendars = calendars
            self._writes = -1

    @property
    def is_open(self) -> bool:
        """Say whether commits may be tried, or it has to be opened (again) first."""
        return self._writes >= 0

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()
        self._readers.dispose()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Take what goes wrong as a store that is away, to be loaded before it is written again."""
        if self._writes < 0:
            raise StoreAwayError("the ledger is not open")
        try:
            with self._trouble():
                yield
        except (NotClosable, LookupError):
            raise  # and nothing was written
        except BaseException:
            self._writes = -1  # whether it was committed is not known
            raise

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Return errors in words, and let go of connections that may be broken."""
        try:
            yield
        except _REFUSED:
            raise
        except (SQLAlchemyError, OSError, SupersededError) as error:
            self.close()
            cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
            raise StoreAwayError(" ".join(str(cause).split()) or type(error).__name__) from error
