"""The months' life: every report's object made, counted, closed, signed, acknowledged, as the ledger says.

The ledger is the truth. In this order a month is closed: its files beside their place, then the ledger, then the
files' name, then the object. Whatever ends the process in between, the next one goes on from what the ledger knows.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from gpugrant.decide.reasons import Verdict
from gpugrant.decide.statuses import Doc
from gpugrant.expose.figures import ReportFigures
from gpugrant.expose.report.amounts import epoch
from gpugrant.meter.closing import NotClosable
from gpugrant.meter.store import StoreAwayError
from gpugrant.observe.client import ApiError
from gpugrant.run.report_books import Ask, Clerk, Look, Seen, report_figures
from gpugrant.run.report_folder import Shelf, ShelfError
from gpugrant.run.report_keeper import FOLDER_SECONDS, VALID, Keeper
from gpugrant.run.report_objects import Report, Reports
from gpugrant.run.report_rules import (
    ACKNOWLEDGE,
    BUILD,
    CLOSE,
    SIGN_OFF,
    Figures,
    Standing,
    days_of,
    hindrances,
)
from gpugrant.run.report_status import (
    Closing,
    closed_status,
    is_closed,
    manifest_in,
    news,
    open_status,
    says,
)

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 2.0  # how soon a mark in the ledger is seen
REBUILD_SECONDS: Final = 3600  # how old the figures of a month may get
_SHORTEST_REBUILD: Final = 2
_AGAIN_SECONDS: Final = 10  # for a ledger that settles what came late


class _Known(Struct):
    """What this process knows of a report beside ledger and object."""

    figures: Figures | None = None
    built_at: int = 0
    is_news: bool = False  # the object does not show these figures yet
    settings: str = ""  # by which it was built
    refused: str = ""  # why it could not be closed though everything held
    again_at: int = 0  # when to try again
    trouble: str = ""  # what went wrong with it last
    fault: Verdict = VALID  # of a closed month's folder


class Reporting:
    """Keeps every report going. ``clock`` gives epoch seconds; ``tell`` posts an Event.

    ``folder_seconds`` is how often a closed month's folder is looked at. ``on_step`` is called with a name between
    the steps of closing; tests kill the process there.
    """

    def __init__(
        self,
        ask: Ask,
        reports: Reports,
        shelf: Shelf,
        tell: Callable[..., None],
        clock: Callable[[], int],
        folder_seconds: float = FOLDER_SECONDS,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.figures: tuple[ReportFigures, ...] = ()
        self._ask = ask
        self._reports = reports
        self._shelf = shelf
        self._tell = tell
        self._clock = clock
        self._step = on_step
        self._clerk = Clerk(shelf, clock, on_step)
        self._keeper = Keeper(ask, self._clerk, shelf, folder_seconds)
        self._known: dict[str, _Known] = {}
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._said = ""

    def pause(self) -> None:
        """Begin nothing more: the lease is not ours at the moment."""
        self._may_write.clear()

    def resume(self) -> None:
        """Go on."""
        self._may_write.set()

    async def run(self) -> None:
        """Look after the reports, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reports.run())
            while True:
                await self._may_write.wait()
                self._reports.changed.clear()
                await self.round()
                # Not wait_for: Python 3.11's loses a cancellation that comes together with the event.
                try:
                    async with asyncio.timeout(TICK_SECONDS):
                        await self._reports.changed.wait()
                except TimeoutError:
                    pass

    async def round(self) -> None:
        """Look once at every report, and do what is due."""
        try:
            look = await self._ask(self._clerk.look)
        except StoreAwayError as error:
            self._say(f"the ledger is away, reports wait: {error}")
            return
        except Exception:
            log.exception("reports cannot be read from the ledger")
            return
        self._say("")
        self.figures = tuple(report_figures(look.months))
        if not self._reports.are_known:
            return  # what an object says of a month decides what is done
        unable = await asyncio.to_thread(self._shelf.unable) if look.months else ""
        earlier_open: dict[tuple[str, str], str] = {}
        taken: dict[str, Seen] = {}
        for seen in look.months:
            first = taken.setdefault(seen.name, seen)
            known = self._known.setdefault(seen.name, _Known())
            of = (seen.programme, seen.provider)
            if first is not seen:
                names = f"({seen.programme}, {seen.provider}) and ({first.programme}, {first.provider})"
                self._trouble(
                    seen, known, f"the programmes and providers {names} share this name: rename one"
                )
                continue
            await self._see_to(seen, known, look, unable, earlier_open.get(of, ""))
            if seen.closing is None:
                earlier_open.setdefault(of, seen.name)

    async def _see_to(self, seen: Seen, known: _Known, look: Look, unable: str, earlier_open: str) -> None:
        """Do what is due for one report; what goes wrong with it keeps no other waiting."""
        try:
            report = self._reports.get(seen.name)
            standing = Standing(
                programme=seen.programme,
                month=seen.month,
                zone=seen.rules.time_zone,
                days=days_of(seen.month, seen.rules),
                now=self._clock(),
                watermark=look.watermark,
                marks=seen.marks,
                earlier_open=earlier_open,
                unable=unable,
                acknowledged_by=report.acknowledged_by if report else "",
                generation=report.generation if report else 1,
            )
            if seen.closing is None:
                await self._open(seen, known, standing, report, look)
            else:
                await self._closed(seen, known, standing, report, seen.closing)
            self._trouble(seen, known, "")
        except ApiError as error:
            if error.status != 409:  # seen otherwise meanwhile: the next round has it as it is
                self._trouble(seen, known, f"its UsageReport cannot be written: {error}")
        except (ShelfError, StoreAwayError) as error:
            self._trouble(seen, known, str(error))
        except Exception:
            log.exception("report %s", seen.name)

    # -- open and closing ----------------------------------------------------------------------------

    async def _open(
        self, seen: Seen, known: _Known, standing: Standing, report: Report | None, look: Look
    ) -> None:
        old = report.status if report else {}
        if self._is_due(known, standing, old, look.settings):
            known.figures = await self._ask(lambda books: self._clerk.count(books, seen))
            known.built_at, known.settings, known.refused = standing.now, look.settings, ""
            known.is_news = True
        if known.figures is None:
            return  # runs, and what the object says is fresh enough
        if standing.now >= known.again_at:
            known.refused = ""
        standing = replace(standing, unable=standing.unable or known.refused)
        if self._may_write.is_set() and not hindrances(standing, known.figures):
            closing = await self._close(seen, known, standing, old)
            if closing is not None:
                await self._closed(seen, known, standing, report, closing)
                return
            standing = replace(standing, unable=known.refused)
        if is_closed(old):
            words = known.refused or (
                f"the ledger does not know that this month is closed, with manifest {manifest_in(old)}: "
                "restore a ledger from after its closing"
            )
            wanted = closed_status(old, standing, None, None, Verdict(False, "NotInLedger", words))
        else:
            wanted = open_status(old, standing, known.figures)
        # Figures are written when they are built; in between, what people must know.
        if known.is_news or report is None or says(old) != says(wanted):
            known.is_news = not await self._write(seen, report, wanted)

    def _is_due(self, known: _Known, standing: Standing, old: Doc, settings: str) -> bool:
        """Say whether a month is to be counted (again)."""
        month = standing.month
        every = max(_SHORTEST_REBUILD, min(REBUILD_SECONDS, (month.end - month.start) // 10))
        until = known.figures.until if known.figures else epoch(old.get("countedUntil") or "")
        asked = max((mark.at for mark in standing.marks if mark.kind in (BUILD, CLOSE)), default=0)
        if not old and known.figures is None:
            return True
        if asked > (known.built_at or until):
            return True
        if standing.is_over:
            stale = known.figures is None or until < month.end or known.settings != settings
            return stale or standing.now - known.built_at >= every
        return min(standing.watermark, month.end) - until >= every

    async def _close(self, seen: Seen, known: _Known, standing: Standing, old: Doc) -> Closing | None:
        """Close a month in the ledger, if that holds which held when it was counted last."""
        named = manifest_in(old) if is_closed(old) else ""
        known.built_at, known.is_news = standing.now, True
        try:
            known.figures, closing = await self._ask(
                lambda books: self._clerk.close(books, seen, standing, named)
            )
        except (ShelfError, NotClosable) as error:
            known.refused = str(error)
            known.again_at = standing.now + (
                _AGAIN_SECONDS if isinstance(error, NotClosable) else REBUILD_SECONDS
            )
            return None
        if closing is not None:
            log.info("report %s is closed, manifest sha256 %s", seen.name, closing.manifest_sha256)
        return closing

    # -- closed --------------------------------------------------------------------------------------

    async def _closed(
        self, seen: Seen, known: _Known, standing: Standing, report: Report | None, closing: Closing
    ) -> None:
        old = report.status if report else {}
        fault = known.fault = await self._keeper.look_at(seen, closing)
        if is_closed(old):
            if (named := manifest_in(old)) != closing.manifest_sha256:
                words = (
                    f"it names manifest {named}; the ledger has {closing.manifest_sha256}: delete the object"
                )
                fault = Verdict(False, "NotAsInLedger", words)
        else:
            if known.figures is None:
                known.figures = await self._ask(lambda books: self._clerk.count(books, seen))
            closing = await self._keeper.with_digests(seen, closing)
        if standing.acknowledged_by and standing.last(SIGN_OFF) and not standing.last(ACKNOWLEDGE):
            by, now = standing.acknowledged_by, standing.now
            # First in the ledger, from which an object that goes is made again.
            await self._ask(lambda books: books.mark(seen.name, ACKNOWLEDGE, by, "", now))
            self._reports.changed.set()
            return
        await self._write(seen, report, closed_status(old, standing, closing, known.figures, fault))

    # -- the object ----------------------------------------------------------------------------------

    async def _write(self, seen: Seen, report: Report | None, wanted: Doc) -> bool:
        """Write a status, on an object made anew where there is none; say whether the object is as wanted now."""
        if not self._may_write.is_set() or not self._reports.are_known:
            return False
        if report is None:
            spec = {"programme": seen.programme, "provider": seen.provider, "month": seen.month.name}
            if mark := next((mark for mark in seen.marks if mark.kind == ACKNOWLEDGE and mark.by), None):
                spec["acknowledgedBy"] = mark.by
            report = await self._reports.create(seen.name, spec)
            self._step("made")
        elif (report.programme, report.provider) != (seen.programme, seen.provider):
            raise ShelfError(f"its UsageReport is that of ({report.programme}, {report.provider})")
        if not await self._reports.write_status(report, wanted):
            return True
        self._step("written")
        for reason, words, warning in news(report.status, wanted):
            self._tell(report.about, reason, words, self._clock(), warning=warning)
        return True

    # -- words ---------------------------------------------------------------------------------------

    def _say(self, words: str) -> None:
        if words and words != self._said:
            log.warning(words)
        self._said = words

    def _trouble(self, seen: Seen, known: _Known, words: str) -> None:
        words = words or known.refused or ("" if known.fault.ok else known.fault.message)
        if words and words != known.trouble:
            log.error("report %s: %s", seen.name, words)
        known.trouble = words
