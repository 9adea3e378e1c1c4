"""The ledger's database: facts go in by the batch, one transaction each, all of it or none.

Blocking; the meter calls it from a thread of its own. Every commit may be tried again after any error, and
after a kill: rows are keyed by pod, sums change only together with the rows they are sums of.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, delete, event, func, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from gpugrant.meter.booking import Crowding
from gpugrant.meter.cutting import Terms
from gpugrant.meter.facts import Account, Condition, Fact, Failure, GrantTerms
from gpugrant.meter.migrations import upgrade
from gpugrant.meter.months import Calendars
from gpugrant.meter.rows import Accounts, holding_of
from gpugrant.meter.tables import failures, floors, grant_terms, holdings, ledger, settings_versions, totals
from gpugrant.meter.tally import Delta, Sums, Tally, row_sums
from gpugrant.meter.transaction import Change, SupersededError, Transaction

# Errors that mean the facts, not the database.
_REFUSED = (DataError, IntegrityError, ProgrammingError)


class StoreAwayError(Exception):
    """The database cannot be reached, written or trusted just now; the words say why."""


class Store:
    """The only one who speaks to the ledger's database.

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
        self._engine = _engine_of(url, lock_wait)
        self._calendars = calendars or Calendars()
        self._now = now
        self._step = on_step or (lambda _: None)
        self._accounts = Accounts()
        self._crowding = Crowding()
        self._writes = -1
        self.tally = Tally(self._calendars)
        self.opened_at = 0
        self.last_terms: dict[str, GrantTerms] = {}

    # -- opening -------------------------------------------------------------------------------------

    def open(self) -> dict[str, int]:
        """Bring the database to today's shape and load the sums; return uid -> start of what is held.

        Reads what is held and the sums, never all rows. Raises StoreAwayError.
        """
        try:
            with self._engine.begin() as connection:
                upgrade(connection)
                self._step("migrated")
            with self._engine.begin() as connection:
                self._take_ledger(connection)
                return self._load(connection)
        except (SQLAlchemyError, OSError) as error:
            raise self._away(error) from error

    def _take_ledger(self, connection: Connection) -> None:
        """Make the ledger's one row if it is not there; sum again if the months are cut otherwise now."""
        wanted = msgspec.json.encode(self._calendars).decode()
        taken = connection.execute(update(ledger).values(writes=ledger.c.writes + 1))
        if not taken.rowcount:
            now = int(self._now())
            connection.execute(
                insert(ledger).values(id=1, opened_at=now, watermark=now, writes=0, calendars=wanted)
            )
        self._step("taken")
        self._accounts.load(connection)
        was = msgspec.json.decode(connection.execute(select(ledger.c.calendars)).scalar_one(), type=Calendars)
        if was != self._calendars:
            programmes = {account.programme for account in self._accounts.all()}
            if any(was.of(programme) != self._calendars.of(programme) for programme in programmes):
                self._sum_again(connection)
            connection.execute(update(ledger).values(calendars=wanted))

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
        self._writes, self.opened_at = state["writes"], state["opened_at"]
        histories, self.last_terms = _read_terms(connection)
        held = [
            holding_of(row, self._accounts.by_id(row["account_id"]))
            for row in connection.execute(select(holdings).where(holdings.c.own_until.is_(None))).mappings()
        ]
        tally = Tally(self._calendars)
        tally.apply(
            Delta(
                changes=tuple((None, row) for row in held),
                closed=self._read_totals(connection),
                shown={
                    (self._accounts.by_id(row.account_id), Condition(row.condition)): row.gpu_seconds
                    for row in connection.execute(select(floors))
                },
                terms=histories,
                failures=tuple(_read_failures(connection)),
                watermark=state["watermark"],
            )
        )
        cuts = select(holdings.c.server, func.max(holdings.c.held_until)).where(holdings.c.is_cut.is_(True))
        self._crowding.load(
            held, {row[0]: row[1] for row in connection.execute(cuts.group_by(holdings.c.server))}
        )
        self.tally = tally
        return {row.uid: row.start for row in held}

    def _read_totals(self, connection: Connection) -> dict[Account, Sums]:
        closed: dict[Account, Sums] = {}
        for row in connection.execute(select(totals)):
            sums = closed.setdefault(self._accounts.by_id(row.account_id), {})
            sums[row.month, Condition(row.condition)] = row.gpu_seconds
        return closed

    def _sum_again(self, connection: Connection) -> None:
        """Make the totals anew from the rows: months are cut otherwise than they were."""
        histories, _ = _read_terms(connection)
        sums: dict[tuple[int, str, Condition], int] = {}
        closed = select(holdings).where(holdings.c.held_until.is_not(None))
        for raw in connection.execution_options(yield_per=5000).execute(closed).mappings():
            row = holding_of(raw, self._accounts.by_id(raw["account_id"]))
            account = row.dimensions.account
            calendar, terms = self._calendars.of(account.programme), histories.get(account.grant_uid, ())
            for (month, condition), amount in row_sums(row, raw["held_until"], calendar, terms).items():
                key = (raw["account_id"], month, condition)
                sums[key] = sums.get(key, 0) + amount
        connection.execute(delete(totals))
        if sums:
            connection.execute(
                insert(totals),
                [
                    {"account_id": number, "month": month, "condition": condition, "gpu_seconds": amount}
                    for (number, month, condition), amount in sums.items()
                ],
            )

    # -- writing -------------------------------------------------------------------------------------

    def commit(self, facts: Sequence[Fact], watermark: int = 0) -> list[Change]:
        """Write a batch of facts in one transaction; return what changed.

        Raises StoreAwayError, and other errors where a fact cannot be written at all.

        ``watermark`` says until when everything that was seen is in this batch or an earlier one.
        """
        if self._writes < 0:
            raise StoreAwayError("the ledger is not open")
        try:
            with self._engine.begin() as connection:
                self._step("begun")
                transaction = Transaction(
                    connection, self._accounts, self._crowding, self.tally, self.last_terms, self._step
                )
                written = transaction.write(facts, watermark, self._writes)
        except BaseException as error:
            self._writes = -1  # whether it was committed is not known: load before writing again
            if isinstance(error, _REFUSED) or not isinstance(
                error, SQLAlchemyError | OSError | SupersededError
            ):
                raise
            raise self._away(error) from error
        self._step("committed")
        self._writes += 1
        self._accounts.keep(written.accounts)
        for server, since, rows in written.checked:
            self._crowding.know(server, since, rows)
        self._crowding.apply(written.delta.changes)
        self.last_terms.update((terms.grant_uid, terms) for terms in written.terms)
        self.tally.apply(written.delta)
        return list(written.delta.changes)

    def use_calendars(self, calendars: Calendars) -> None:
        """Cut months by these from the next ``open`` on; it sums again what they cut otherwise."""
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

    def _away(self, error: Exception) -> StoreAwayError:
        """Return the error in words, and let go of connections that may be broken."""
        self._engine.dispose()
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        return StoreAwayError(" ".join(str(cause).split()) or type(error).__name__)


def _engine_of(url: str, lock_wait: float) -> Engine:
    engine = create_engine(make_url(url))
    if engine.dialect.name == "sqlite":
        pragmas = (
            f"busy_timeout={int(lock_wait * 1000)}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        )
        event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, pragmas))
        # The write lock from the start: a transaction that reads first could not get it later.
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _prepare_sqlite(connection: Any, pragmas: Iterable[str]) -> None:
    """Set what makes SQLite durable, and readable while it is written."""
    connection.isolation_level = None  # BEGIN is ours, so that changes of shape are in the transaction too
    cursor = connection.cursor()
    try:
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _read_terms(connection: Connection) -> tuple[dict[str, Terms], dict[str, GrantTerms]]:
    """Return by grant uid the history of its term's end, and what it was last."""
    histories: dict[str, Terms] = {}
    last: dict[str, GrantTerms] = {}
    for row in connection.execute(select(grant_terms).order_by(grant_terms.c.since)).mappings():
        uid = row["grant_uid"]
        histories[uid] = (*histories.get(uid, ()), (row["since"], row["term_end"]))
        last[uid] = GrantTerms(
            grant_uid=uid,
            namespace=row["namespace"],
            name=row["name"],
            start=row["term_start"],
            end=row["term_end"],
            grace_seconds=row["grace_seconds"],
            tenant=row["tenant"],
            award=row["award"],
            gpus=row["gpus"],
            since=row["since"],
        )
    return histories, last


def _read_failures(connection: Connection) -> Iterable[Failure]:
    for row in connection.execute(select(failures)).mappings():
        yield Failure(
            programme=row["programme"],
            provider=row["provider"],
            pool=row["pool"],
            gpu_type=row["gpu_type"],
            share=row["share"],
            server=row["server"],
            cause=row["cause"],
            since=row["since"],
            seats=row["seats"],
        )
