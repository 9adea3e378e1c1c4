"""The meter of a running operator: pod events in, the ledger out, and word when an end is safely kept.

``observe_pod`` and its like only look and queue, and never wait; one task writes batches from a thread. While
the store is away facts queue up, finalizers stay on, the watermark stands still, and ``health`` says so.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gpugrant.meter.committing import Committing
from gpugrant.meter.facts import (
    Account,
    Dimensions,
    Ended,
    EndReason,
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
from gpugrant.meter.store import Store
from gpugrant.meter.tally import Tally
from gpugrant.meter.transaction import Change
from gpugrant.model.pod import Pod

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


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
        self._failing: set[tuple[str, str, int]] = set()
        self._terms: dict[str, GrantTerms] = {}
        self._unseen: dict[str, int] = {}  # held by the store's word, not seen since the start: uid -> start
        self._listed = False
        self._skewed = self._skew = 0
        self._committing = Committing(store, self._loaded, self._seen_until, self._committed)

    # -- life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the ledger and start to write. A store that is away delays only the writing."""
        await self._committing.start()

    async def stop(self) -> None:
        """Write what is queued, if the store lets us, and end."""
        await self._committing.stop()

    async def drained(self) -> None:
        """Return once all that was seen so far is written, and the watermark is where the clock is."""
        await self._committing.drained()

    async def refresh(self) -> None:
        """Work out the sums as of now away from the event loop, so that reading them next costs nothing."""
        await self._committing.refresh()

    async def ask(self, call: Callable[[Store], _T]) -> _T:
        """Return what ``call`` makes of the store, worked out in the ledger's own thread, between two commits.

        Raises what it raises; StoreAwayError where the store is away. Commits wait meanwhile.
        """
        return await self._committing.ask(call)

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
            self._committing.put(replace(terms, since=self._now()))

    def observe(self, fact: ServerFact | PoolFact | Named) -> None:
        """Take note of a fact about a server, a pool's seats or a tenant."""
        self._committing.put(fact)

    def observe_settings(self, digest: str, text: str, calendars: Calendars) -> None:
        """Take note of the settings now in force."""
        self._committing.put(SettingsVersion(digest, self._now(), text))
        self._committing.calendars = calendars

    def observe_failures(self, failures: Iterable[Failure]) -> None:
        """Take note of what is failed now; each failure is counted once."""
        seen = {(one.server, one.cause, one.since): one for one in failures}
        for key in seen.keys() - self._failing:
            self._committing.put(seen[key])
        self._failing = set(seen)

    def listing_complete(self, at: int | None = None) -> None:
        """Take note that every pod there is has been seen since the start.

        What the store says is held and was not seen is gone: its end is bounded by the watermark, until which
        it was watched. Only from now on the watermark moves.
        """
        self._listed = True
        if self._committing.is_loaded:
            self._miss(self._now() if at is None else at)

    # -- what is known -------------------------------------------------------------------------------

    def tally(self) -> Tally | None:
        """Return the sums for scrapes; None until the ledger was loaded once."""
        return self._store.tally if self._committing.is_loaded else None

    def health(self) -> LedgerHealth:
        """Return how the ledger does."""
        tally, writing = self._store.tally, self._committing
        return LedgerHealth(
            ready=not writing.trouble,
            detail=writing.trouble or self._waits(),
            watermark=tally.watermark,
            queued=writing.queued + len(self._pending),
            queue_age=writing.queue_age,
            held_pods=tally.held_pods,
            commits=writing.commits,
            failed_commits=writing.failed,
            refused_facts=writing.refused,
            last_commit_seconds=writing.took,
            skewed_ends=self._skewed,
            skew_seconds=self._skew,
            drift=writing.drift,
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
            self._committing.put(held)
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
        self._committing.put(ended, pod if gone is None else None)

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
        if self._committing.refused:
            return f"{self._committing.refused} facts were refused by the store; the log has them"
        return ""

    def _miss(self, at: int) -> None:
        """Bound the ends of what was held by the store's word and is not there."""
        mark = self._store.tally.watermark
        if at > mark:
            self._committing.put(Gap(mark, at))
        for uid, start in self._unseen.items():
            held = Held(uid, "", "", _NOWHERE, start)  # the row has the rest
            self._committing.put(Ended(held, max(start, mark), EndReason.UNOBSERVED, gone_at=at))
            self._known.pop(uid, None)
        self._unseen.clear()

    # -- what the ledger says ------------------------------------------------------------------------

    def _loaded(self, held: dict[str, int]) -> None:
        """Take over what the store says is held."""
        seen = self._known.keys() | self._done.keys() | self._pending.keys()
        self._unseen = {uid: start for uid, start in held.items() if uid not in seen}
        self._known |= dict.fromkeys(self._unseen)
        if self._listed:
            self._miss(self._now())

    def _seen_until(self) -> int:
        """Look again at the pods whose place was not known; return until when all that was seen is queued."""
        for pod, gone in list(self._pending.values()):
            if gone is None:
                self.observe_pod(pod)
            else:
                self.pod_gone(pod, *gone)
        return self._now() if self._listed and not self._pending else 0

    def _committed(self, changes: Sequence[Change], ended: Sequence[Pod]) -> None:
        """Say what a commit brought: pods that were bound, and those whose end is kept."""
        for old, row in changes:
            if old is None and row.waited >= 0:
                self._on_admitted(row.dimensions.account, row.waited)
        for pod in ended:
            if pod.uid in self._done:
                self._done[pod.uid] = True
            if pod.finalizer:
                self._record(pod)

    def _record(self, pod: Pod) -> None:
        try:
            self._on_recorded(pod)
        except Exception:  # noqa: BLE001 (what it throws is the caller's; the ledger goes on)
            _log.exception("telling that the end of pod %s is recorded", pod.key)


_NOWHERE = Dimensions(Account())
