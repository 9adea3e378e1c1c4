"""The ledger beside the operator that writes it: for the command line. Reads one moment; leaves marks, no more."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gpugrant.config import Programme, SettingsError, load_settings
from gpugrant.expose.report.source import MarkKind, MarkRefused, ReportRow, refusal
from gpugrant.meter.closing import Mark, closed_month, lock_marks, read_marks, read_settings, write_mark
from gpugrant.meter.database import check_shape, reading_engine, writing_engine
from gpugrant.meter.month import MonthAccount
from gpugrant.meter.monthly import month_account
from gpugrant.meter.months import Month
from gpugrant.meter.reading import read_state
from gpugrant.meter.reported import find_month, name_of, reported
from gpugrant.meter.store import StoreAwayError


def open_reader(url: str) -> "LedgerReader":
    """Return a ledger to read. Nothing is asked of the database before the first question."""
    return LedgerReader(url)


class LedgerReader:
    """What ``gpugrant report`` asks. Every method raises StoreAwayError where the database cannot be read."""

    def __init__(self, url: str, now: Callable[[], float] = time.time) -> None:
        self._url = url
        self._now = now
        self._engine = reading_engine(url)

    def names(self) -> Sequence[ReportRow]:
        """Return every month of every programme and provider."""
        with self._reading() as connection:
            state = read_state(connection)
            return [
                self._row(connection, name_of(programme, provider, month), programme, month, state.watermark)
                for programme, provider, month in reported(connection)
            ]

    def account(self, name: str) -> MonthAccount:
        """Return a month's account by its report's name. Raises LookupError for one the ledger does not know."""
        with self._reading() as connection:
            return month_account(connection, *find_month(connection, name))

    def mark(self, name: str, kind: MarkKind, by: str, reference: str) -> None:
        """Note that somebody asks to build or close a month, signed it off or acknowledged it.

        Raises LookupError for a month the ledger does not know, and MarkRefused, with nothing written.
        """
        with self._reading() as connection:
            programme, _, month = find_month(connection, name)
        engine = writing_engine(self._url, lock_wait=30.0)
        try:
            with _words(), engine.begin() as connection:
                lock_marks(connection, name)
                row = self._row(connection, name, programme, month, read_state(connection).watermark)
                if why := refusal(row, kind):
                    raise MarkRefused(why)
                write_mark(connection, name, Mark(int(self._now()), kind, by, reference))
        finally:
            engine.dispose()

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _words(), self._engine.begin() as connection:
            check_shape(connection)
            yield connection

    def _row(
        self, connection: Connection, name: str, programme: str, month: Month, watermark: int
    ) -> ReportRow:
        marks = {mark.kind: mark for mark in read_marks(connection, name)}
        closed = closed_month(connection, name)
        signed, known = marks.get("sign-off"), marks.get("acknowledge")
        if closed is not None:
            state = "Acknowledged" if known else "Closed"
        else:
            state = "Closing" if watermark >= month.end else "Open"
        return ReportRow(
            name=name,
            state=state,
            zone=read_state(connection).calendars.of(programme).zone,
            ends_at=month.end,
            until=min(watermark, month.end),
            closed_at=closed.closed_at if closed else 0,
            due_at=self._due(connection, programme, month),
            signed_off_by=signed.by if signed else "",
            manifest_sha256=closed.manifest_sha256 if closed else "",
            acknowledged=known.reference if known else "",
        )

    def _due(self, connection: Connection, programme: str, month: Month) -> int:
        """Return the last second in which a report is due, by the settings at its month's end; 0: not known."""
        try:
            settings = load_settings(read_settings(connection, month.end - 1))
        except SettingsError:
            return 0
        if settings.period_seconds:
            return 2 * month.end - month.start
        rules = settings.programmes.get(programme, Programme())
        calendar = read_state(connection).calendars.of(programme)
        following = calendar.day_of(month.end)
        for _ in range(rules.report.due_day - 1):
            following = calendar.day_of(following.end)
        return following.end - 1


@contextmanager
def _words() -> Iterator[None]:
    """Return errors of the database in words."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        raise StoreAwayError(" ".join(str(cause).split()) or type(error).__name__) from error
