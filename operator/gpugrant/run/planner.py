"""The one planner task: when something changed or a time has come, plan, and hand the plan to the writer."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from gpugrant.decide.actions import Action, Plan

log = logging.getLogger(__name__)

W = TypeVar("W")
_BUCKETS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_LONGEST_SLEEP = 5.0  # seconds; a clock that is set forward is noticed by then


class Planner(Generic[W]):
    """Plans on the world as it is now; facts that came together are planned on together."""

    def __init__(
        self,
        world: W,
        make_plan: Callable[[W, int], Plan],
        submit: Callable[[Iterable[Action]], None],
        changed: asyncio.Event,
        clock: Callable[[], int],
        registry: CollectorRegistry,
    ) -> None:
        self.planned = asyncio.Event()
        self.failing = 0
        self._world = world
        self._make_plan = make_plan
        self._submit = submit
        self._changed = changed
        self._clock = clock
        self._due_since: float | None = None
        self._last = 0.0
        self._seconds = Histogram(
            "gpugrant_plan_seconds", "How long one plan took.", buckets=_BUCKETS, registry=registry
        )
        self._failures = Counter(
            "gpugrant_plan_failures", "Plans that ended with a fault.", registry=registry
        )
        self._actions = Counter("gpugrant_plan_actions", "Actions planned.", ["kind"], registry=registry)

    def overdue(self) -> float:
        """Return for how many seconds a plan has been due that is not made yet."""
        return 0.0 if self._due_since is None else time.monotonic() - self._due_since

    async def run(self) -> None:
        """Plan, for ever."""
        while True:
            self._due_since = time.monotonic()
            wake_at = self._plan()
            if self.failing == 0:
                self._due_since = None
                self.planned.set()
            # As long as planning took, others get the loop; what comes meanwhile is planned on together.
            await asyncio.sleep(min(0.5, max(0.002, self._last)))
            await self._wait(wake_at)

    def _plan(self) -> int | None:
        self._changed.clear()
        begun = time.perf_counter()
        try:
            plan = self._make_plan(self._world, self._clock())
        except Exception:
            self.failing += 1
            self._failures.inc()
            log.exception("planning failed (%d times in a row)", self.failing)
            return self._clock() + min(30, 1 << self.failing)
        finally:
            self._last = time.perf_counter() - begun
            self._seconds.observe(self._last)
        self.failing = 0
        for action in plan.actions:
            self._actions.labels(type(action).__name__).inc()
        self._submit(plan.actions)
        return plan.wake_at

    async def _wait(self, wake_at: int | None) -> None:
        while True:
            left = _LONGEST_SLEEP if wake_at is None else wake_at - self._clock()
            try:
                # The lower bound keeps a plan that asks for "now" again and again from taking the whole loop.
                # Not wait_for: Python 3.11's loses a cancellation that comes together with the event.
                async with asyncio.timeout(min(max(left, 0.05), _LONGEST_SLEEP)):
                    await self._changed.wait()
                return
            except TimeoutError:
                if wake_at is not None and wake_at <= self._clock():
                    return
