"""What the reports need of the ledger; all of it blocks, and runs in the ledger's own thread.

A month is closed in one go there, so that no fact comes between what is signed and what is closed.
"""

import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from gpugrant.config import Programme, Settings, SettingsError, load_settings
from gpugrant.expose.figures import ReportFigures
from gpugrant.meter.month import MonthAccount
from gpugrant.meter.months import Month
from gpugrant.run.report_folder import Shelf, ShelfError
from gpugrant.run.report_rules import (
    ACKNOWLEDGE,
    SIGN_OFF,
    Figures,
    Mark,
    Standing,
    days_of,
    figures_of,
    hindrances,
)
from gpugrant.run.report_status import Closing

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_SHOWN_MONTHS = 3
_LIST_SECONDS = 5.0  # how soon a new month, or provider, is seen


class _Tally(Protocol):
    @property
    def watermark(self) -> int: ...


class _Mark(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def by(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def at(self) -> int: ...


class _Closed(Protocol):
    @property
    def manifest_sha256(self) -> str: ...
    @property
    def closed_at(self) -> int: ...


class Books(Protocol):
    """The part of the ledger's store that reports are made from. Every method raises StoreAwayError."""

    @property
    def tally(self) -> _Tally:
        """Return the sums, with the watermark."""

    def reported(self) -> Iterable[tuple[str, str, Month]]:
        """Return every programme, provider and month that there is to report, the running one included."""

    def settings_at(self, at: int) -> str:
        """Return the text of the settings in force at a moment; '' where none were."""

    def month_account(self, programme: str, provider: str, month: Month) -> MonthAccount:
        """Return all that a month's report is made of."""

    def closed_month(self, name: str) -> _Closed | None:
        """Return how a month was closed."""

    def close_month(self, name: str, manifest_sha256: str, closed_at: int) -> None:
        """Close a month, for ever."""

    def mark(self, name: str, kind: str, by: str, reference: str, at: int) -> None:
        """Keep what a person said of a report."""

    def marks(self, name: str) -> Iterable[_Mark]:
        """Return what people said of a report."""


class Seen(Struct, frozen=True):
    """A month to report, as the ledger has it. ``rules`` are those in force at its end, or now while it runs."""

    programme: str
    provider: str
    month: Month
    rules: Programme
    closing: Closing | None
    marks: tuple[Mark, ...]

    @property
    def name(self) -> str:
        """Return the report's name."""
        return f"{self.programme}-{self.provider}-{self.month.name}"


class Look(Struct, frozen=True):
    """What there is to report, the oldest first; ``settings`` is the newest text."""

    watermark: int
    settings: str
    months: tuple[Seen, ...]


class Ask(Protocol):
    """The meter's: has a call on the store done in the ledger's thread."""

    def __call__(self, call: Callable[[Any], _T], /) -> Coroutine[Any, Any, _T]:
        """Return what the call returns. Raises StoreAwayError, and what it raises."""


class Clerk:
    """Does the work on the ledger."""

    def __init__(self, shelf: Shelf, clock: Callable[[], int], on_step: Callable[[str], None]) -> None:
        self._shelf = shelf
        self._clock = clock
        self._step = on_step
        self._listed: list[tuple[str, str, Month]] = []
        self._listed_at = 0.0  # monotonic
        self._settled: dict[str, Seen] = {}  # acknowledged: nothing of it changes any more

    def look(self, books: Books) -> Look:
        """Return what there is to report, and how it stands."""
        now = self._clock()
        if not self._listed or time.monotonic() - self._listed_at >= _LIST_SECONDS:
            self._listed = sorted(books.reported(), key=lambda one: (one[2].start, one[0], one[1]))
            self._listed_at = time.monotonic()
        months = tuple(self._see(books, *one, now) for one in self._listed)
        return Look(books.tally.watermark, books.settings_at(now), months)

    def _see(self, books: Books, programme: str, provider: str, month: Month, now: int) -> Seen:
        name = f"{programme}-{provider}-{month.name}"
        settled = self._settled.get(name)
        if settled is not None:
            return settled
        closed = books.closed_month(name)
        marks = tuple(Mark(one.kind, one.by, one.reference, one.at) for one in books.marks(name))
        seen = Seen(
            programme,
            provider,
            month,
            rules_in(books.settings_at(min(month.end - 1, now)), programme),
            Closing(closed.manifest_sha256, closed.closed_at) if closed else None,
            marks,
        )
        if closed and {SIGN_OFF, ACKNOWLEDGE} <= {mark.kind for mark in marks}:
            self._settled[name] = seen
        return seen

    def count(self, books: Books, seen: Seen) -> Figures:
        """Return a month's figures."""
        return figures_of(books.month_account(seen.programme, seen.provider, seen.month))

    def close(
        self, books: Books, seen: Seen, standing: Standing, named: str
    ) -> tuple[Figures, Closing | None]:
        """Close a month if nothing keeps it from closing; return its figures, and how it was closed if it was.

        ``named`` is the manifest that the month's object names as closed already, or ''. Raises ShelfError.
        """
        account = books.month_account(seen.programme, seen.provider, seen.month)
        figures = figures_of(account)
        if hindrances(standing, figures):
            return figures, None
        closed, digest = self._shelf.stage(account, self._clock())
        if named and named != digest:
            raise ShelfError(
                f"its UsageReport says that it is closed already, with manifest {named}, and the ledger does not know "
                "of it: restore a ledger from after its closing"
            )
        books.close_month(seen.name, digest, closed.closed_at)
        self._step("closed")
        return figures, Closing(digest, closed.closed_at)

    def write_again(self, books: Books, seen: Seen, closing: Closing) -> None:
        """Write the lost folder of a closed month again. Raises ShelfError."""
        account = books.month_account(seen.programme, seen.provider, seen.month)
        self._shelf.write_again(account, closing.manifest_sha256)


@lru_cache(maxsize=64)
def _settings(text: str) -> Settings:
    try:
        return load_settings(text)
    except SettingsError as error:  # written by a version of ours that allowed more
        log.error("settings of the ledger cannot be read any more, reports go by the defaults: %s", error)
        return Settings()


def rules_in(text: str, programme: str) -> Programme:
    """Return a programme's rules in a version of the settings; one that it does not name has all defaults."""
    return _settings(text).programmes.get(programme) or Programme()


def report_figures(months: Iterable[Seen]) -> Sequence[ReportFigures]:
    """Return what /metrics shows: reports that are not acknowledged, and the newest of each programme and provider."""
    shown: dict[tuple[str, str], int] = {}
    found = []
    for seen in reversed(list(months)):
        of = (seen.programme, seen.provider)
        shown[of] = shown.get(of, 0) + 1
        done = seen.closing is not None and {SIGN_OFF, ACKNOWLEDGE} <= {mark.kind for mark in seen.marks}
        if done and shown[of] > _SHOWN_MONTHS:
            continue
        due = 0 if done else days_of(seen.month, seen.rules).due
        found.append(ReportFigures(*of, seen.month.name, seen.closing is not None, due))
    return found
