"""The parts that others own, imported when they are needed: the planner's brain, the meter, the figures.

The imports are late so that a restarted process asks for its lease and answers probes first.
"""

import importlib
import logging
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry

from gpugrant.config import Settings
from gpugrant.decide.actions import Plan
from gpugrant.model.pod import Pod

log = logging.getLogger(__name__)


class Parts:
    """How the operator gets its world, its plan function and its meter."""

    def __init__(self) -> None:
        self._meter: Any = None

    def make_world(self, settings: Settings) -> Any:
        """Return an empty world."""
        return importlib.import_module("gpugrant.decide.world").World(settings)

    def make_plan(self, world: Any, now: int) -> Plan:
        """Plan."""
        plan: Plan = importlib.import_module("gpugrant.decide.plan").make_plan(world, now)
        return plan

    async def make_meter(self, ledger: str, registry: CollectorRegistry) -> Any:
        """Return a started meter, None where no ledger is named."""
        return None

    def when_settled(self, meter: Any, strip: Callable[[Pod], None]) -> None:
        """Have the finalizer taken off once a pod's end is in the ledger."""

    def expose(self, registry: CollectorRegistry, world: Any, meter: Any) -> None:
        """Register the figures of ledger and world."""

    async def close(self) -> None:
        """Write out what the meter still has."""
