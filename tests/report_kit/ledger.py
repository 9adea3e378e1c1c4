"""A real ledger of one provider's November 2026: one server, one grant, one pod a day; the test says how far it is."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from gpugrant.meter.closing import ClosedMonth, Mark
from gpugrant.meter.facts import EndReason, Fact, GrantTerms, SettingsVersion
from gpugrant.meter.months import Calendar, Month
from gpugrant.meter.store import Store
from meter_kit import NOVEMBER, a_place, a_server, a_store, an_account, ended

DAY = 86_400
_T = TypeVar("_T")


class Ledger:
    """A store on a SQLite file, asked as the meter asks it: from one thread."""

    def __init__(self, folder: Path, provider: str) -> None:
        self.provider = provider
        self.month: Month = Calendar().month_of(NOVEMBER)
        self.name = f"purchase-2025-{provider}-{self.month.name}"
        self._folder = folder
        self._thread = ThreadPoolExecutor(1)
        self._store = self._do(self._open)
        pool = f"{provider}-b200"
        account = an_account(provider=provider, pool=pool)
        server = a_server("server-1", provider=provider, pool=pool)
        start, end = self.month.start, self.month.end
        terms = GrantTerms("uid-of-pretrain", "hangang-lm", "pretrain", start, end + 90 * DAY, since=start)
        place = a_place(account)
        pods = [ended(f"pod-{day}", at, at + 3600, place) for day, at in enumerate(range(start, end, DAY))]
        self.add(server, terms, *pods)
        self._place = place

    def _open(self) -> Store:
        store = a_store(self._folder, now=self.month.start)
        store.open()
        return store

    def _do(self, call: Callable[[], _T]) -> _T:
        return self._thread.submit(call).result()

    async def ask(self, call: Callable[[Any], _T], /) -> _T:
        """Do as the meter does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, self._store)

    def stop(self) -> None:
        """Let go of the database."""
        self._do(self._store.close)
        self._thread.shutdown()

    # -- facts ---------------------------------------------------------------------------------------

    def add(self, *facts: Fact) -> None:
        """Write facts."""
        self._do(lambda: self._store.commit(facts))

    def count_to(self, at: int) -> None:
        """Say until when the ledger is complete, and close the days that are over."""

        def count() -> None:
            self._store.commit([], at)
            while self._store.settle():
                pass

        self._do(count)

    def set_rules(self, text: str, since: int) -> None:
        """Have settings in force from a moment on."""
        self.add(SettingsVersion(f"digest of {text}", since, text))

    def lose_sight(self, seconds: int) -> None:
        """Have a pod of 8 GPUs whose end nobody saw for so long."""
        at = self.month.start + 40_000
        unseen = ended("unseen", at, at + 10, self._place, EndReason.UNOBSERVED)
        self.add(type(unseen)(unseen.hold, unseen.end, unseen.reason, gone_at=unseen.end + seconds))

    def tamper(self, gpu_seconds: int) -> None:
        """Change a stored sum behind the ledger's back."""
        with sqlite3.connect(self._folder / "ledger.db") as connection:
            change = "UPDATE cells SET gpu_seconds = gpu_seconds + ? WHERE id = (SELECT min(id) FROM cells)"
            connection.execute(change, (gpu_seconds,))

    # -- what is kept --------------------------------------------------------------------------------

    def mark(self, kind: str, by: str, reference: str, at: int) -> None:
        """Do as the command line does."""
        self._do(lambda: self._store.mark(self.name, kind, by, reference, at))

    def marks(self) -> Sequence[Mark]:
        """Return what was said of the month."""
        return self._do(lambda: self._store.marks(self.name))

    def closed(self) -> ClosedMonth | None:
        """Return how the month was closed."""
        return self._do(lambda: self._store.closed_month(self.name))

    def back_up(self, to: Path) -> None:
        """Copy the ledger's file."""
        self._do(self._store.close)
        shutil.copy(self._folder / "ledger.db", to)
        self._store = self._do(self._open)

    def restore(self, backup: Path) -> None:
        """Put a copy in the ledger's place."""
        self._do(self._store.close)
        for path in self._folder.glob("ledger.db*"):
            path.unlink()
        shutil.copy(backup, self._folder / "ledger.db")
        self._store = self._do(self._open)
