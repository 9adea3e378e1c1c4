"""Closed months' folders, looked at again and again: what is lost is written again, what differs is told."""

import asyncio
import logging
import time
from typing import Final

from gpugrant.decide.reasons import Verdict
from gpugrant.run.report_books import Ask, Clerk, Seen
from gpugrant.run.report_folder import LOST, Shelf, ShelfError
from gpugrant.run.report_status import Closing

log = logging.getLogger(__name__)

FOLDER_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 600.0  # before a folder that could not be written again is tried again
VALID: Final = Verdict(True, "AsClosed")


class Keeper:
    """Looks after the folders of closed months, at each every so many ``seconds``."""

    def __init__(self, ask: Ask, clerk: Clerk, shelf: Shelf, seconds: float) -> None:
        self._ask = ask
        self._clerk = clerk
        self._shelf = shelf
        self._seconds = seconds
        self._found: dict[str, Verdict] = {}
        self._next: dict[str, float] = {}  # monotonic

    async def look_at(self, seen: Seen, closing: Closing) -> Verdict:
        """Return whether a closed month's folder is what was closed, and what to do if not."""
        if time.monotonic() >= self._next.get(seen.name, 0.0):
            self._next[seen.name] = time.monotonic() + self._seconds
            try:
                self._found[seen.name] = await self._look(seen, closing)
            except ShelfError as error:
                self._next[seen.name] = time.monotonic() + max(self._seconds, _AGAIN_SECONDS)
                self._found[seen.name] = Verdict(False, "FolderLost", str(error))
        return self._found.get(seen.name, VALID)

    async def _look(self, seen: Seen, closing: Closing) -> Verdict:
        folder, manifest = self._shelf.folder(seen.name), closing.manifest_sha256
        if folder is None:
            return Verdict(False, "NoFolder", self._shelf.unable())
        wrong = await asyncio.to_thread(self._shelf.fault, seen.name, manifest)
        if wrong == LOST:
            await asyncio.to_thread(self._shelf.publish, seen.name, manifest)
            wrong = await asyncio.to_thread(self._shelf.fault, seen.name, manifest)
        if wrong == LOST:
            log.warning("report %s: %s is not there; writing it again from the ledger", seen.name, folder)
            await self._ask(lambda books: self._clerk.write_again(books, seen, closing))
            wrong = ""
        if not wrong:
            return VALID
        words = f"{folder} is not what was closed ({wrong}): move it away, and it is written again from the ledger"
        return Verdict(False, "FolderDiffers", words)

    async def with_digests(self, seen: Seen, closing: Closing) -> Closing:
        """Return how a month was closed, with the digests of its files as far as they can be read."""
        digests = await asyncio.to_thread(self._shelf.digests, seen.name, closing.manifest_sha256)
        return Closing(closing.manifest_sha256, closing.closed_at, digests)
