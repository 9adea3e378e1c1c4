"""The only writer: carries out plans, a bounded number of writes at a time, one at a time per object.

How each kind is written is in ``writes``; here is when, and what becomes of it: the decision is confirmed, or a
refusal makes the planner decide again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gpugrant.act.events import Events
from gpugrant.act.patches import StaleError
from gpugrant.act.queue import Key, Queue, StripFinalizer, Work, key_of
from gpugrant.act.writes import Known, Writes
from gpugrant.decide.actions import Action, ExplainPod, SetStatus
from gpugrant.model.pod import Pod
from gpugrant.observe.client import ApiError, Client

log = logging.getLogger(__name__)

IN_FLIGHT = 48
FIGURES_SECONDS = 2.0
_PAUSES = (0.1, 0.3, 1.0, 2.0)
_STRIP_AGAIN_SECONDS = 2.0


class Outcome(Protocol):
    """Who decided, and wants to know what became of it."""

    def confirm(self, action: Action) -> None:
        """Take that a write succeeded."""

    def forget(self, action: Action, error: str = "") -> None:
        """Take that a write failed or was dropped."""


class Writer:
    """Takes actions in and sees them through."""

    def __init__(
        self,
        client: Client,
        known: Known,
        outcome: Outcome,
        registry: CollectorRegistry,
        clock: Callable[[], int],
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self._known = known
        self._outcome = outcome
        self._limit = in_flight
        self._queue = Queue()
        self._flying: set[asyncio.Task[None]] = set()
        self._paused = False
        self._figures_later: dict[Key, SetStatus] = {}
        self.events = Events(client, registry, lambda: self._queue.urgent > 0)
        self._writes = Writes(client, known, self.events, clock)
        self._written = Counter(
            "gpugrant_writes",
            "Writes to the API server, by kind and result.",
            ["kind", "result"],
            registry=registry,
        )
        self._seconds = Histogram(
            "gpugrant_write_seconds", "How long a write took, answer included.", ["kind"], registry=registry
        )
        waiting = Gauge("gpugrant_writes_waiting", "Writes that wait for their turn.", registry=registry)
        waiting.set_function(lambda: len(self._queue))

    # -- taking in ---------------------------------------------------------------------------------

    def submit(self, actions: Iterable[Action]) -> None:
        """Queue what a plan asks for."""
        for action in actions:
            if isinstance(action, SetStatus):
                self._add_status(action)
            else:
                self._add(action)
        self._pump()

    def strip_finalizer(self, pod: Pod) -> None:
        """Take the metering finalizer off a pod whose end is in the ledger."""
        self._add(StripFinalizer((pod.uid, pod.namespace, pod.name)))
        self._pump()

    def _add(self, work: Work) -> None:
        for dropped in self._queue.add(work):
            if isinstance(dropped, ExplainPod) and not isinstance(work, ExplainPod):
                self._outcome.forget(dropped, "")

    def _add_status(self, action: SetStatus) -> None:
        """Queue a status; figures are held back so that an object gets at most one write every 2 s."""
        key = key_of(action)
        self._figures_later.pop(key, None)  # the newer status says all that the older said
        wait = self._writes.figures_at.get(key, 0.0) + FIGURES_SECONDS - time.monotonic()
        if action.urgent or wait <= 0:
            self._add(action)
            return
        self._figures_later[key] = action
        asyncio.get_running_loop().call_later(wait, self._add_figures, key, action)

    def _add_figures(self, key: Key, action: SetStatus) -> None:
        if self._figures_later.get(key) is action:
            del self._figures_later[key]
            self._add(action)
            self._pump()

    def pause(self) -> None:
        """Begin no more writes: the lease is not ours at the moment."""
        self._paused = True

    def resume(self) -> None:
        """Go on writing."""
        self._paused = False
        self._pump()

    async def land(self, seconds: float) -> None:
        """Begin no more writes and wait for those in flight; whoever leads next must not meet them."""
        self.pause()
        if self._flying:
            await asyncio.wait(self._flying, timeout=seconds)

    @property
    def idle(self) -> bool:
        """Say whether nothing waits and nothing is in flight."""
        return not self._flying and not len(self._queue) and not self._figures_later

    # -- carrying out ------------------------------------------------------------------------------

    def _pump(self) -> None:
        while not self._paused and len(self._flying) < self._limit:
            taken = self._queue.take()
            if taken is None:
                return
            task = asyncio.get_running_loop().create_task(self._carry_out(*taken))
            self._flying.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._pump()

    async def _carry_out(self, key: Key, work: Work) -> None:
        kind, error = type(work).__name__, ""
        begun = time.monotonic()
        try:
            for pause in (*_PAUSES, None):
                try:
                    wrote = await self._writes.write(work)
                    self._written.labels(kind, "ok" if wrote else "unchanged").inc()
                    break
                except ApiError as refusal:
                    # No answer, or the server is in trouble: the tests in our patches make a repeat safe.
                    if (refusal.status != 0 and refusal.status < 500) or pause is None:
                        raise
                    await asyncio.sleep(pause)
        except ApiError as refusal:
            error = str(refusal)
            self._written.labels(kind, refusal.reason or str(refusal.status)).inc()
            if refusal.status == 404 and key[0] == "pod":
                self._known.pod_gone(key[1])
        except StaleError as stale:
            error = str(stale)
            self._written.labels(kind, "stale").inc()
        except Exception as fault:  # a fault in one write must not stop the others
            error = f"{type(fault).__name__}: {fault}"
            log.exception("%s failed", kind)
            self._written.labels(kind, "fault").inc()
        finally:
            self._seconds.labels(kind).observe(time.monotonic() - begun)
            self._queue.done(key)
        self._tell(work, error)

    def _tell(self, work: Work, error: str) -> None:
        if isinstance(work, StripFinalizer):
            if error and self._known.pod(work[0]) is not None:
                log.warning("finalizer of %s/%s stays for now: %s", work[1], work[2], error)
                asyncio.get_running_loop().call_later(_STRIP_AGAIN_SECONDS, self._strip_again, work)
            return
        if error:
            log.info("%s refused: %s", key_of(work), error)
            self._outcome.forget(work, error)
        else:
            self._outcome.confirm(work)
        self._known.changed.set()

    def _strip_again(self, work: StripFinalizer) -> None:
        self._add(work)
        self._pump()
