"""The meter of a running operator: pod events in, the ledger out, and word when an end is safely kept.

``observe_pod`` and its like only look and queue, and never wait; one task writes batches from a thread. While
the store is away facts queue up, finalizers stay on, the watermark stands still, and ``health`` says so.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from gpugrant.meter.facts import (
    Account,
    Dimensions,
    Ended,
    EndReason,
    Fact,
    Failure,
    Gap,
    GrantTerms,
    Held,
    Named,
    PoolFact,
    ServerFact,
    SettingsVersion,
)
from gpugrant.meter.intervals import Interval, NodeFacts, gone_interval, held_interval, skew_of
from gpugrant.meter.months import Calendars
from gpugrant.meter.store import Store, StoreAwayError
from gpugrant.meter.tally import Tally
from gpugrant.model.pod import Pod

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

BATCH_SECONDS = 0.1  # how long an end may wait for others to share its transaction
MOST_FACTS = 500  # in one transaction
WATERMARK_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 30.0
CHECK_SECONDS = 60.0  # between two stored days that are compared with their facts


class LedgerHealth(Struct, frozen=True):
    """How the ledger does. ``detail`` is empty while all is well, else a sentence."""

    ready: bool
    detail: str
    watermark: int
    queued: int
    queue_age: float  # seconds that the oldest queued fact has waited
    held_pods: int
    commits: int
    failed_commits: int
    refused_facts: int  # that no database would take; their pods keep their finalizers
    last_commit_seconds: float
    skewed_ends: int = 0  # containers that finished, by their node's clock, when they cannot have
    skew_seconds: int = 0  # by how much, in all
    drift: int = 0  # GPU-seconds by which stored days differ from their raw facts


class Meter:
    """Keeps the ledger of the pods it is told of.

    ``resolve`` returns what is fixed about a pod's hold, or None while the world is not loaded.
    ``on_recorded`` is called, in the event loop, once a pod's end is committed: then, and not before, its
    finalizer may go. It may be called again for the same pod and must bear that.
    ``clock`` returns until when the pod cache is known to be fresh, in epoch seconds.
    """

    def __init__(
        self,
        store: Store,
        resolve: Callable[[Pod], Dimensions | None],
        on_recorded: Callable[[Pod], None],
        clock: Callable[[], float],
        node_facts: Callable[[str], NodeFacts] = lambda _: NodeFacts(),
        on_admitted: Callable[[Account, int], None] = lambda *_: None,
    ) -> None:
        self._store = store
        self._resolve = resolve
        self._on_recorded = on_recorded
        self._on_admitted = on_admitted
        self._clock = clock
        self._node_facts = node_facts
        # Pods that hold, with the fact of their bind so that it stays as it was; None: by the store's word.
        self._known: dict[str, Held | None] = {}
        # Pods that have ended and whose object is still there: whether that is committed.
        self._done: dict[str, bool] = {}
        # Pods whose place in the world is not known yet, and (at, seen) where they are gone already.
        self._pending: dict[str, tuple[Pod, tuple[int, int] | None]] = {}
        self._queue: list[tuple[Fact, Pod | None]] = []
        self._attempt: tuple[str, int] | None = None  # the batch whose commit was not answered: its name, its facts
        self._oldest = 0.0
        self._failing: set[tuple[str, str, int]] = set()
        self._terms: dict[str, GrantTerms] = {}
        self._unseen: dict[str, int] = {}  # held by the store's word, not seen since the start: uid -> start
        self._listed = False
        self._loaded = False
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._trouble = "the ledger is being loaded"
        self._commits = self._failed = self._refused = 0
        self._calendars: Calendars | None = None
        self._took = 0.0
        self._settle_after = 0.0  # monotonic
        self._check_after = time.monotonic() + CHECK_SECONDS
        self._drift = 0
        self._skewed = self._skew = 0

    # -- life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the ledger and start to write. A store that is away delays only the writing."""
        await self._load()
        self._task = asyncio.create_task(self._run(), name="meter")

    async def stop(self) -> None:
        """Write what is queued, if the store lets us, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self._flush()
        self._thread.shutdown(wait=True)
        self._store.close()

    async def drained(self) -> None:
        """Return once all that was seen so far is written, and the watermark is where the clock is."""
        while not self._loaded or not await self._flush():  # noqa: ASYNC110 (a store comes back unannounced)
            await asyncio.sleep(BATCH_SECONDS)
        while await self._settle():
            pass

    async def ask(self, call: Callable[[Store], _T]) -> _T:
        """Return what ``call`` makes of the store, worked out in the ledger's own thread, between two commits.

        Raises what it raises; StoreAwayError where the store is away. Commits wait meanwhile.
        """
        return await self._in_thread(call, self._store)

    # -- what is seen --------------------------------------------------------------------------------

    def observe_pod(self, pod: Pod) -> None:
        """Take note of a pod as it is now. Cheap: called for every event."""
        uid = pod.uid
        if uid in self._done:
            if self._done[uid] and pod.finalizer:
                self._record(pod)  # its end is kept, and the finalizer did not go
            return
        if uid in self._known and not pod.ended:
            self._unseen.pop(uid, None)
            return
        if not pod.node and not (pod.finalizer and (pod.ended or pod.deleting)):
            return  # waits, or was released and is not bound yet: holds nothing
        interval = held_interval(pod, self._node_facts(pod.node), self._now())
        if interval is None:
            return
        if self._is_older_than_the_ledger(pod, interval):
            self._done[uid] = True
            return
        self._take(pod, interval, None)

    def pod_gone(self, pod: Pod, at: int, seen: int | None = None) -> None:
        """Take note that a pod's object is gone since ``at``.

        ``seen`` says until when it was watched: left out, the watch saw it go. Where a relist found it
        missing, give the time the cache was last fresh: what lies between is Unobserved.
        """
        if self._done.pop(pod.uid, None) is not None:
            return
        seen = at if seen is None else seen
        interval = gone_interval(pod, self._node_facts(pod.node), at, seen)
        self._pending.pop(pod.uid, None)
        if interval is not None:
            self._take(pod, interval, (at, seen))

    def observe_terms(self, terms: GrantTerms) -> None:
        """Take note of what a grant is now: its term decides what is Grace."""
        last = self._terms.get(terms.grant_uid)
        if last is None or last != terms:
            self._terms[terms.grant_uid] = terms
            self._put(replace(terms, since=self._now()))

    def observe(self, fact: ServerFact | PoolFact | Named) -> None:
        """Take note of a fact about a server, a pool's seats or a tenant."""
        self._put(fact)

    def observe_settings(self, digest: str, text: str, calendars: Calendars) -> None:
        """Take note of the settings now in force."""
        self._put(SettingsVersion(digest, self._now(), text))
        self._calendars = calendars

    def observe_failures(self, failures: Iterable[Failure]) -> None:
        """Take note of what is failed now; each failure is counted once."""
        seen = {(one.server, one.cause, one.since): one for one in failures}
        for key in seen.keys() - self._failing:
            self._put(seen[key])
        self._failing = set(seen)

    def listing_complete(self, at: int | None = None) -> None:
        """Take note that every pod there is has been seen since the start.

        What the store says is held and was not seen is gone: its end is bounded by the watermark, until which
        it was watched. Only from now on the watermark moves.
        """
        self._listed = True
        if self._loaded:
            self._miss(self._now() if at is None else at)

    # -- what is known -------------------------------------------------------------------------------

    def tally(self) -> Tally | None:
        """Return the sums for scrapes; None until the ledger was loaded once."""
        return self._store.tally if self._loaded else None

    def health(self) -> LedgerHealth:
        """Return how the ledger does."""
        tally = self._store.tally
        return LedgerHealth(
            ready=not self._trouble,
            detail=self._trouble or self._waits(),
            watermark=tally.watermark,
            queued=len(self._queue) + len(self._pending),
            queue_age=max(0.0, time.time() - self._oldest) if self._queue else 0.0,
            held_pods=tally.held_pods,
            commits=self._commits,
            failed_commits=self._failed,
            refused_facts=self._refused,
            last_commit_seconds=self._took,
            skewed_ends=self._skewed,
            skew_seconds=self._skew,
            drift=self._drift,
        )

    # -- from sight to fact --------------------------------------------------------------------------

    def _take(self, pod: Pod, interval: Interval, gone: tuple[int, int] | None) -> None:
        """Queue what a pod's interval says; set it aside while its place in the world is not known."""
        held = self._held(pod, interval)
        if held is None:
            self._pending[pod.uid] = (pod, gone)
            return
        self._unseen.pop(pod.uid, None)
        self._pending.pop(pod.uid, None)
        self._known.pop(pod.uid, None)
        if interval.end is None:
            self._known[pod.uid] = held
            self._put(held)
            return
        if gone is None:
            self._done[pod.uid] = False
        skew = skew_of(pod, interval)
        self._skewed += skew > 0
        self._skew += skew
        ended = Ended(
            hold=held,
            end=interval.end,
            reason=interval.reason or EndReason.SEEN_ENDED,
            finished_at=pod.finished_at,
            disrupted_at=pod.disrupted_at,
            terminal_at=pod.terminal_at,
            gone_at=gone[0] if gone else 0,
        )
        self._put(ended, pod if gone is None else None)

    def _is_older_than_the_ledger(self, pod: Pod, interval: Interval) -> bool:
        """Say whether a pod had ended before there was a ledger: nobody's account then, unless it is ours."""
        if interval.end is None or pod.finalizer or pod.uid in self._known:
            return False
        return interval.end <= self._store.opened_at

    def _held(self, pod: Pod, interval: Interval) -> Held | None:
        """Return the fact of a pod's bind: the one it had at bind, if that is still known."""
        known = self._known.get(pod.uid)
        if known is not None:
            return known
        dimensions = self._resolve(pod)
        if dimensions is None and (pod.uid in self._known or not pod.node):
            dimensions = _NOWHERE  # its row has them already, or there is nothing to place
        if dimensions is None:
            return None
        if not pod.node:
            dimensions = replace(dimensions, server="", seats=0, server_seats=0)
        waited = max(0, pod.released_at - pod.created) if pod.released_at and pod.created and pod.node else -1
        return Held(pod.uid, pod.namespace, pod.name, dimensions, interval.start, waited)

    def _now(self) -> int:
        """Return the time that facts are stamped with."""
        return int(self._clock())

    def _waits(self) -> str:
        """Return what is not as it should be though the store takes writes."""
        if self._pending:
            return f"{len(self._pending)} pods hold GPUs on servers that are not known yet"
        if self._refused:
            return f"{self._refused} facts were refused by the store; the log has them"
        return ""

    def _put(self, fact: Fact, pod: Pod | None = None) -> None:
        if not self._queue:
            self._oldest = time.time()
        self._queue.append((fact, pod))
        self._wake.set()

    def _miss(self, at: int) -> None:
        """Bound the ends of what was held by the store's word and is not there."""
        mark = self._store.tally.watermark
        if at > mark:
            self._put(Gap(mark, at))
        for uid, start in self._unseen.items():
            held = Held(uid, "", "", _NOWHERE, start)  # the row has the rest
            self._put(Ended(held, max(start, mark), EndReason.UNOBSERVED, gone_at=at))
            self._known.pop(uid, None)
        self._unseen.clear()

    # -- writing -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Write batches for as long as the operator runs."""
        retry = 0.5
        while True:
            # Not wait_for: Python 3.11's loses a cancellation that comes together with what it waits for.
            with suppress(TimeoutError):
                async with asyncio.timeout(WATERMARK_SECONDS):
                    await self._wake.wait()
                await asyncio.sleep(BATCH_SECONDS)
            self._wake.clear()
            if await self._flush():
                retry = 0.5
                if await self._settle():
                    self._wake.set()  # one day at a time, between commits
                else:
                    await self._check()
            else:
                await asyncio.sleep(retry)
                retry = min(2 * retry, LONGEST_RETRY_SECONDS)
                self._wake.set()

    async def _load(self) -> bool:
        """Load the ledger; say whether the store let us."""
        try:
            if self._calendars is not None:
                self._store.use_calendars(self._calendars)
                self._calendars = None
            held = await self._in_thread(self._store.open)
        except StoreAwayError as error:
            return self._failed_by(f"the ledger is away: {error}")
        self._trouble = ""
        if not self._loaded:
            self._loaded = True
            self._unseen = {
                uid: start for uid, start in held.items() if uid not in self._known and uid not in self._done
            }
            self._known |= dict.fromkeys(self._unseen)
            if self._listed:
                self._miss(self._now())
        return True

    async def _flush(self) -> bool:
        """Write what is queued; say whether the store took it."""
        async with self._writing:
            return await self._write_all()

    async def _write_all(self) -> bool:
        if (not self._store.is_open or self._calendars is not None) and not await self._load():
            return False
        for pod, gone in list(self._pending.values()):
            if gone is None:
                self.observe_pod(pod)
            else:
                self.pod_gone(pod, *gone)
        # Everything seen up to this moment is queued; so the last batch may carry the mark.
        mark = int(self._clock()) if self._listed and not self._pending else 0
        left = len(self._queue)
        while left > 0 or mark > self._store.tally.watermark:
            size = self._attempt[1] if self._attempt else min(left, MOST_FACTS)
            left -= size
            if not await self._commit(size, mark if left == 0 else 0):
                return False
        return True

    async def _settle(self) -> bool:
        """Close one day that is over, or sum one again that facts came late for; say whether there was one."""
        async with self._writing:
            if not self._store.is_open or time.monotonic() < self._settle_after:
                return False
            try:
                return await self._in_thread(self._store.settle)
            except StoreAwayError as error:
                return self._failed_by(f"the ledger takes no writes: {error}")
            except Exception:  # noqa: BLE001 (whatever it is, facts are written on)
                self._settle_after = time.monotonic() + LONGEST_RETRY_SECONDS
                _log.exception("a day of the ledger cannot be closed; facts are written on")
                return self._failed_by("a day of the ledger cannot be closed; the log has why")

    async def _check(self) -> None:
        """Compare one stored day with its raw facts, now and then."""
        if time.monotonic() < self._check_after:
            return
        try:
            self._drift = await self._in_thread(self._store.check_day)
        except Exception as error:  # noqa: BLE001 (a store that is away is for commits to say; nothing ends over this)
            _log.warning("a day of the ledger could not be checked: %s", error)
        if self._drift:
            _log.error(
                "the ledger differs from its facts by %d GPU-seconds: run `gpugrant ledger verify`",
                self._drift,
            )
        self._check_after = time.monotonic() + CHECK_SECONDS

    async def refresh(self) -> None:
        """Work out the sums as of now away from the event loop, so that reading them next costs nothing."""
        if self._loaded:
            await asyncio.to_thread(self._store.tally.read)

    async def _commit(self, size: int, mark: int) -> bool:
        """Write the first ``size`` facts of the queue."""
        batch, began = self._queue[:size], time.monotonic()
        if size and (self._attempt is None or self._attempt[1] != size):
            self._attempt = (uuid4().hex, size)
        name = self._attempt[0] if self._attempt else ""
        try:
            changes = await self._in_thread(self._store.commit, [fact for fact, _ in batch], mark, name)
        except StoreAwayError as error:
            return self._failed_by(f"the ledger takes no writes: {error}")
        except Exception:  # noqa: BLE001 (whatever it is, it must not hold up the other facts)
            self._attempt = None
            return await self._refuse(size)
        self._attempt = None
        del self._queue[:size]
        self._oldest = time.time()
        self._commits += 1
        self._took = time.monotonic() - began
        self._trouble = ""
        for old, row in changes:
            if old is None and row.waited >= 0:
                self._on_admitted(row.dimensions.account, row.waited)
        for _, pod in batch:
            if pod is not None:
                if pod.uid in self._done:
                    self._done[pod.uid] = True
                if pod.finalizer:
                    self._record(pod)
        return True

    async def _refuse(self, size: int) -> bool:
        """Find the fact that cannot be written, and go on without it: it must not hold up the others."""
        if not await self._load():
            return False
        if size > 1:
            half = size // 2
            return await self._commit(half, 0) and await self._commit(size - half, 0)
        if size == 1:
            fact, _ = self._queue.pop(0)
            self._refused += 1
            _log.exception("the ledger cannot take %r; its pod keeps its finalizer", fact)
        return size == 1

    def _failed_by(self, words: str) -> bool:
        self._failed += 1
        if self._trouble != words:
            _log.warning("%s; facts queue up and pods run on", words)
        self._trouble = words
        return False

    def _record(self, pod: Pod) -> None:
        try:
            self._on_recorded(pod)
        except Exception:  # noqa: BLE001 (what it throws is the caller's; the ledger goes on)
            _log.exception("telling that the end of pod %s is recorded", pod.key)

    async def _in_thread(self, call: Callable[..., _T], *given: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *given)


_NOWHERE = Dimensions(Account())
