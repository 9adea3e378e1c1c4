"""The parts behind the loop, made when this process leads: world, plan, meter, figures.

Imported late, so that a restarted process asks for its lease and answers probes first. Tests put others in.
"""

import asyncio
import importlib
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry

from gpugrant.config import Settings
from gpugrant.decide.actions import Plan

FAILURES_SECONDS = 2.0
# Statuses show what running pods have used as of the full hour, or of what changed last: this is often enough.
USED_SECONDS = 10.0


class Parts:
    """How the operator gets its world, its plan function, its meter and its figures."""

    def __init__(self) -> None:
        self._plan: Any = None
        self._metering: Any = None

    def make_world(self, settings: Settings) -> Any:
        """Return an empty world."""
        self._plan = importlib.import_module("gpugrant.decide.plan").make_plan
        return importlib.import_module("gpugrant.decide.world").World(settings)

    def make_plan(self, world: Any, now: int) -> Plan:
        """Plan."""
        plan: Plan = self._plan(world, now)
        if self._metering is not None:
            self._metering.planned()
        return plan

    def make_metering(
        self, ledger: str, world: Any, registry: CollectorRegistry, clock: Callable[[], float]
    ) -> Any:
        """Return the meter, with its metrics registered; None where no ledger is named."""
        from gpugrant.expose.admission import AdmissionWaits
        from gpugrant.expose.metrics import Metrics
        from gpugrant.expose.views import figures
        from gpugrant.run.metering import Metering

        waits = AdmissionWaits()
        metering = self._metering = Metering(ledger, world, waits.observe, clock) if ledger else None
        world.metered = metering is not None
        tally = metering.meter.tally if metering else lambda: None
        registry.register(
            Metrics(
                figures=lambda: figures(world, int(clock()), tally()),
                tally=tally,
                health=metering.meter.health if metering else lambda: None,
                waits=waits,
            )
        )
        return metering

    async def exchange(
        self, world: Any, metering: Any, clock: Callable[[], float], changed: asyncio.Event
    ) -> None:
        """Tell the meter, for ever, what is failed now, and the world what grants have used."""
        from gpugrant.expose.views import announced_at, failures

        told = 0.0
        while True:
            await asyncio.sleep(FAILURES_SECONDS)
            tally = metering.meter.tally()
            metering.meter.observe_failures(failures(world, announced_at(int(clock()), tally)))
            if tally is not None and time.monotonic() - told >= USED_SECONDS:
                told = time.monotonic()
                await metering.meter.refresh()
                used = tally.used_by_grant()
                if world.take_used(
                    {uid: whole for uid, (whole, _) in used.items()},
                    {uid: month for uid, (_, month) in used.items()},
                ):
                    changed.set()
