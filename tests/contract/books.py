"""A ledger of one month, in memory: what reports ask of the store, with figures that the test may change."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from gpugrant.meter.month import MonthAccount
from gpugrant.meter.months import Calendar, Month
from gpugrant.run.report_rules import Mark
from gpugrant.run.report_status import Closing
from unit.report.months import PROGRAMME, a_month


@dataclass
class _Tally:
    watermark: int = 0


@dataclass
class Ledger:
    """The books of one provider's November 2026."""

    provider: str
    settings: str = ""
    change: Callable[[MonthAccount], MonthAccount] = lambda account: account
    closings: dict[str, tuple[str, int]] = field(default_factory=dict)
    tally: _Tally = field(default_factory=_Tally)
    _marks: list[Mark] = field(default_factory=list)
    _closed: MonthAccount | None = None

    @property
    def month(self) -> Month:
        return Calendar().month_of(1_793_458_800)

    @property
    def name(self) -> str:
        return f"{PROGRAMME}-{self.provider}-{self.month.name}"

    def count_to(self, at: int) -> None:
        """Say until when the ledger is complete."""
        self.tally.watermark = at

    async def ask(self, call: Callable[[Any], Any]) -> Any:
        """Do as the meter does: in a thread."""
        return await asyncio.to_thread(call, self)

    def reported(self) -> list[tuple[str, str, Month]]:
        return [(PROGRAMME, self.provider, self.month)]

    def settings_at(self, at: int) -> str:
        return self.settings

    def month_account(self, programme: str, provider: str, month: Month) -> MonthAccount:
        assert (programme, provider, month) == (PROGRAMME, self.provider, self.month)
        if self._closed is not None and self.closings:
            return self._closed
        until = min(self.tally.watermark, month.end)
        return self.change(a_month(provider=self.provider, until=until, closed=False))

    def closed_month(self, name: str) -> Closing | None:
        return Closing(*self.closings[name]) if name in self.closings else None

    def close_month(self, name: str, manifest_sha256: str, closed_at: int) -> None:
        account = self.month_account(PROGRAMME, self.provider, self.month)
        assert name == account.name and name not in self.closings
        self._closed = replace(account, closed_at=closed_at)
        self.closings[name] = (manifest_sha256, closed_at)

    def mark(self, name: str, kind: str, by: str, reference: str, at: int) -> None:
        self._marks.append(Mark(kind, by, reference, at))

    def marks(self, name: str) -> list[Mark]:
        return list(self._marks)
