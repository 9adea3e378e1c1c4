"""Facts on their way into the store: queued, written in batches from a thread, tried again while it is away.

Days that are over are closed between two commits, and now and then a stored one is compared with its facts.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar
from uuid import uuid4

from gpugrant.meter.facts import Fact
from gpugrant.meter.months import Calendars
from gpugrant.meter.store import Store, StoreAwayError
from gpugrant.meter.transaction import Change
from gpugrant.model.pod import Pod

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

BATCH_SECONDS = 0.1  # how long an end may wait for others to share its transaction
MOST_FACTS = 500  # in one transaction
WATERMARK_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 30.0
CHECK_SECONDS = 60.0  # between two stored days that are compared with their facts


class Committing:
    """The one task that writes to the store.

    ``on_loaded`` is called with what is held by the store's word (uid -> start), once. ``seen_until`` queues what is
    left to queue and returns until when everything is, 0 while nobody can say. ``on_committed`` is called with the
    rows that changed and the pods whose ends are kept. All in the event loop.
    """

    def __init__(
        self,
        store: Store,
        on_loaded: Callable[[dict[str, int]], None],
        seen_until: Callable[[], int],
        on_committed: Callable[[Sequence[Change], Sequence[Pod]], None],
    ) -> None:
        self._store = store
        self._on_loaded = on_loaded
        self._seen_until = seen_until
        self._on_committed = on_committed
        self.is_loaded = False
        self.calendars: Calendars | None = None  # to be used from the next batch on
        self.trouble = "the ledger is being loaded"
        self.commits = self.failed = self.refused = 0
        self.took = 0.0  # seconds, of the last commit
        self.drift = 0
        self._queue: list[tuple[Fact, Pod | None]] = []
        # The batch whose commit was not answered: its name, and how many facts.
        self._attempt: tuple[str, int] | None = None
        self._oldest = 0.0
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._settle_after = 0.0  # monotonic
        self._check_after = time.monotonic() + CHECK_SECONDS

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
            await self.flush()
        self._thread.shutdown(wait=True)
        self._store.close()

    @property
    def queued(self) -> int:
        """Return how many facts wait."""
        return len(self._queue)

    @property
    def queue_age(self) -> float:
        """Return for how many seconds the oldest queued fact has waited."""
        return time.monotonic() - self._oldest if self._queue else 0.0

    async def drained(self) -> None:
        """Return once all that was seen so far is written, and the watermark is where the clock is."""
        while not self.is_loaded or not await self.flush():  # noqa: ASYNC110 (a store comes back unannounced)
            await asyncio.sleep(BATCH_SECONDS)
        while await self._settle():
            pass

    async def ask(self, call: Callable[[Store], _T]) -> _T:
        """Return what ``call`` makes of the store, worked out in the ledger's own thread, between two commits.

        Raises what it raises; StoreAwayError where the store is away. Commits wait meanwhile. Months are by then those
        of the settings that were told last.
        """
        async with self._lock:
            if self._is_to_be_loaded() and not await self._load():
                raise StoreAwayError(self.trouble)
        return await self._in_thread(call, self._store)

    async def refresh(self) -> None:
        """Work out the sums as of now away from the event loop, so that reading them next costs nothing."""
        if self.is_loaded:
            await asyncio.to_thread(self._store.tally.read)

    def put(self, fact: Fact, pod: Pod | None = None) -> None:
        """Queue a fact; of a pod's end, with the pod."""
        if not self._queue:
            self._oldest = time.monotonic()
        self._queue.append((fact, pod))
        self._wake.set()

    # -- the task --------------------------------------------------------------------------------------

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
            if await self.flush():
                retry = 0.5
                if await self._settle():
                    self._wake.set()  # one day at a time, between commits
                else:
                    await self._check()
            else:
                await asyncio.sleep(retry)
                retry = min(2 * retry, LONGEST_RETRY_SECONDS)
                self._wake.set()

    def _is_to_be_loaded(self) -> bool:
        return not self._store.is_open or self.calendars is not None

    async def _load(self) -> bool:
        """Load the ledger; say whether the store let us."""
        try:
            if self.calendars is not None:
                self._store.use_calendars(self.calendars)
                self.calendars = None
            held = await self._in_thread(self._store.open)
        except StoreAwayError as error:
            return self._failed_by(f"the ledger is away: {error}")
        self.trouble = ""
        if not self.is_loaded:
            self.is_loaded = True
            self._on_loaded(held)
        return True

    async def flush(self) -> bool:
        """Write what is queued; say whether the store took it."""
        async with self._lock:
            return await self._write_all()

    async def _write_all(self) -> bool:
        if self._is_to_be_loaded() and not await self._load():
            return False
        mark = self._seen_until()  # everything up to then is queued; so the last batch may carry the mark
        left = len(self._queue)
        while left > 0 or mark > self._store.tally.watermark:
            size = self._attempt[1] if self._attempt else min(left, MOST_FACTS)
            left -= size
            if not await self._commit(size, mark if left == 0 else 0):
                return False
        return True

    async def _settle(self) -> bool:
        """Close one day that is over, or sum one again that facts came late for; say whether there was one."""
        async with self._lock:
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
            self.drift = await self._in_thread(self._store.check_day)
        except Exception as error:  # noqa: BLE001 (a store that is away is for commits to say; nothing ends over this)
            _log.warning("a day of the ledger could not be checked: %s", error)
        if self.drift:
            _log.error(
                "the ledger differs from its facts by %d GPU-seconds: run `gpugrant ledger verify`",
                self.drift,
            )
        self._check_after = time.monotonic() + CHECK_SECONDS

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
        self._oldest = time.monotonic()
        self.commits += 1
        self.took = time.monotonic() - began
        self.trouble = ""
        self._on_committed(changes, [pod for _, pod in batch if pod is not None])
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
            self.refused += 1
            _log.exception("the ledger cannot take %r; its pod keeps its finalizer", fact)
        return size == 1

    def _failed_by(self, words: str) -> bool:
        self.failed += 1
        if self.trouble != words:
            _log.warning("%s; facts queue up and pods run on", words)
        self.trouble = words
        return False

    async def _in_thread(self, call: Callable[..., _T], *given: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *given)
