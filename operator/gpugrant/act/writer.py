"""The only writer: carries out plans, a bounded number of writes at a time, one at a time per object.

Every write has a precondition (uid, and what the decision took for granted), so that a stale decision costs
a refusal and never harm. The answer to a write is taken in at once, then the decision is confirmed; a
refusal makes the planner decide again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gpugrant import names
from gpugrant.act import patches, policies
from gpugrant.act.events import About, Events
from gpugrant.act.patches import StaleError
from gpugrant.act.queue import FIGURES, Key, Queue, StripFinalizer, Work, key_of, urgency_of
from gpugrant.decide.actions import (
    Action,
    EvictPod,
    ExplainPod,
    LabelPod,
    ReleasePod,
    SetPolicies,
    SetStatus,
    WriteServer,
)
from gpugrant.model.node import Node
from gpugrant.model.pod import Pod
from gpugrant.observe.client import MERGE_PATCH, ApiError, Client
from gpugrant.observe.kinds import OwnKinds, own_path
from gpugrant.observe.project import project_node, project_pod

log = logging.getLogger(__name__)

IN_FLIGHT = 48
FIGURES_SECONDS = 2.0
_PAUSES = (0.1, 0.3, 1.0, 2.0)
_STRIP_AGAIN_SECONDS = 2.0
# Validating ones first: pods of a new name are refused for a moment, never let in.
_POLICIES = (
    ("validatingadmissionpolicies", names.POLICY_GUARD),
    ("validatingadmissionpolicies", names.POLICY_TENANT_PODS),
    ("mutatingadmissionpolicies", names.POLICY_GATE),
    ("mutatingadmissionpolicies", names.POLICY_FENCE),
    ("mutatingadmissionpolicies", names.POLICY_EXEMPT),
)


class Known(Protocol):
    """What the writer needs to know of the objects it writes, and where it hands answers in."""

    changed: asyncio.Event
    own: OwnKinds

    def pod(self, uid: str) -> Pod | None:
        """Return a GPU pod as it is known now."""

    def node(self, name: str) -> Node | None:
        """Return a node as it is known now."""

    def feed_pod(self, uid: str, body: bytes) -> None:
        """Take in the answer to a write on a pod."""

    def feed_node(self, body: bytes) -> None:
        """Take in the answer to a write on a node."""

    def pod_gone(self, uid: str) -> None:
        """Take note that a pod's object is gone; seen: until when it was watched."""


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
        self._client = client
        self._known = known
        self._outcome = outcome
        self._clock = clock
        self._limit = in_flight
        self._queue = Queue()
        self._flying: set[asyncio.Task[None]] = set()
        self._paused = False
        self._figures_at: dict[Key, float] = {}
        self._figures_later: dict[Key, SetStatus] = {}
        self.events = Events(client, registry, lambda: self._queue.urgent > 0)
        self._writes = Counter(
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
        wait = self._figures_at.get(key, 0.0) + FIGURES_SECONDS - time.monotonic()
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
                    wrote = await self._write(work)
                    self._writes.labels(kind, "ok" if wrote else "unchanged").inc()
                    break
                except ApiError as refusal:
                    # No answer, or the server is in trouble: the tests in our patches make a repeat safe.
                    if (refusal.status != 0 and refusal.status < 500) or pause is None:
                        raise
                    await asyncio.sleep(pause)
        except ApiError as refusal:
            error = str(refusal)
            self._writes.labels(kind, refusal.reason or str(refusal.status)).inc()
            if refusal.status == 404 and key[0] == "pod":
                self._known.pod_gone(key[1])
        except StaleError as stale:
            error = str(stale)
            self._writes.labels(kind, "stale").inc()
        except Exception as fault:  # a fault in one write must not stop the others
            error = f"{type(fault).__name__}: {fault}"
            log.exception("%s failed", kind)
            self._writes.labels(kind, "fault").inc()
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

    async def _write(self, work: Work) -> bool:
        """Do one write; say whether there was anything to write."""
        match work:
            case ReleasePod():
                return await self._release(work)
            case StripFinalizer():
                return await self._strip(*work)
            case EvictPod():
                return await self._evict(work)
            case WriteServer():
                return await self._server(work)
            case SetStatus():
                return await self._status(work)
            case ExplainPod():
                return await self._explain(work)
            case LabelPod():
                body = patches.label(work.uid)
                answer = await self._client.patch(_pod_path(work.namespace, work.name), body, MERGE_PATCH)
                self._known.feed_pod(work.uid, answer)
                return True
            case SetPolicies():
                return await self._policies(work)
        raise AssertionError(work)

    # -- pods --------------------------------------------------------------------------------------

    async def _release(self, action: ReleasePod) -> bool:
        pod = self._pod(action.uid)
        # The time-out for binding runs from here on, not from the decision: in a burst it may have waited long.
        action = msgspec.structs.replace(action, at=self._clock())
        answer = await self._client.patch(_pod_path(pod.namespace, pod.name), patches.release(pod, action))
        self._known.feed_pod(action.uid, answer)
        if action.message:
            self.events.tell(_about(pod), "Released", action.message, self._clock())
        return True

    async def _explain(self, action: ExplainPod) -> bool:
        pod = self._pod(action.uid)
        if names.GATE not in pod.gates:
            raise StaleError(f"pod {pod.key} no longer waits")
        if pod.waiting == action.message:
            return False
        body = patches.explain(action.uid, action.message)
        answer = await self._client.patch(_pod_path(pod.namespace, pod.name), body, MERGE_PATCH)
        self._known.feed_pod(action.uid, answer)
        self.events.tell(_about(pod), "Waiting", action.message, self._clock())
        return True

    async def _evict(self, action: EvictPod) -> bool:
        pod = self._pod(action.uid)
        if names.GATE in pod.gates:
            raise StaleError(f"pod {pod.key} is gated: it holds nothing, and its Job would count a failure")
        if action.unbound:
            pod = await self._still_unbound(action.unbound, pod)
        path = _pod_path(pod.namespace, pod.name)
        try:
            await self._client.post(f"{path}/eviction", patches.eviction(pod, action))
        except ApiError as refusal:
            # 429 is a PodDisruptionBudget; 500 is more than one of them over the same pod.
            if not action.force or refusal.status not in (429, 500):
                raise
            await self._client.delete(path, patches.deletion(pod, action))
        self.events.tell(_about(pod), action.reason, action.message, self._clock(), warning=True)
        return True

    async def _still_unbound(self, uid: str, victim: Pod) -> Pod:
        """Make sure that a pod which did not bind in time still has not: what we know of it may be old.

        Returns the victim, as it is now where it is that pod itself. Raises StaleError.
        """
        unbound = self._pod(uid)
        answer = await self._client.get(_pod_path(unbound.namespace, unbound.name))
        now = project_pod(answer)
        if now.uid != uid or now.node:
            self._known.feed_pod(uid, answer)
            raise StaleError(f"pod {unbound.key} was bound meanwhile" if now.node else f"pod {uid} is gone")
        return now if victim.uid == uid else victim

    async def _strip(self, uid: str, namespace: str, name: str) -> bool:
        pod = self._known.pod(uid)
        path = _pod_path(namespace, name)
        if pod is None:
            return False
        for again in (True, False):
            if not pod.finalizer:
                return False
            try:
                answer = await self._client.patch(path, patches.strip_finalizer(uid, pod.finalizer_index))
                self._known.feed_pod(uid, answer)
                return True
            except ApiError as refusal:
                if refusal.status != 422 or not again:
                    raise
                # Another finalizer went meanwhile and ours has moved: look, and try once more.
                answer = await self._client.get(path)
                pod = project_pod(answer)
                if pod.uid != uid:
                    return False
        return False

    def _pod(self, uid: str) -> Pod:
        pod = self._known.pod(uid)
        if pod is None:
            raise StaleError(f"pod {uid} is gone")
        return pod

    # -- servers, our own kinds, policies ------------------------------------------------------------

    async def _server(self, action: WriteServer) -> bool:
        node = self._known.node(action.node)
        if node is None:
            raise StaleError(f"node {action.node} is gone")
        path = f"/api/v1/nodes/{action.node}"
        for again in (True, False):
            body = patches.server(node, action)
            if body is None:
                return False
            try:
                self._known.feed_node(await self._client.patch(path, body))
                return True
            except ApiError as refusal:
                if refusal.status != 422 or not again:
                    raise
                answer = await self._client.get(path)  # taints have moved: look, and try once more
                self._known.feed_node(answer)
                node = project_node(answer)
        return False

    async def _status(self, action: SetStatus) -> bool:
        known = self._known.own.get(action.kind, action.uid)
        if known is None:
            raise StaleError(f"{action.kind} {action.namespace}/{action.name} is gone")
        body = patches.status(known.status, action)
        if body is None:
            return False
        key = key_of(action)
        if urgency_of(action) == FIGURES:
            self._figures_at[key] = time.monotonic()
        path = own_path(action.kind, action.namespace, action.name) + "/status"
        try:
            answer = await self._client.patch(path, body, MERGE_PATCH)
        except ApiError as refusal:
            if refusal.status == 404:
                self._known.own.want_sweep(action.kind)
            raise
        self._known.own.feed(action.kind, msgspec.json.decode(answer))
        return True

    async def _policies(self, action: SetPolicies) -> bool:
        """Bring the lists in the admission policies up to date, each policy for itself."""
        wrote = False
        for plural, name in _POLICIES:
            path = f"/apis/admissionregistration.k8s.io/v1/{plural}/{name}"
            try:
                policy = msgspec.json.decode(await self._client.get(path))
                patch = policies.patch_for(policy, resources=action.resources, exempt=action.exempt)
            except ApiError as refusal:
                if refusal.status != 404:
                    raise
                # Installing policies is the chart's business; running without one must be seen, not hidden.
                log.error("admission policy %s is not installed", name)
                continue
            except policies.PolicyIsForeign as foreign:
                log.error("admission policy %s is not ours: %s", name, foreign)
                continue
            if patch:
                await self._client.patch(path, msgspec.json.encode(patch))
                log.info(
                    "admission policy %s: resources %s, exempt %s", name, action.resources, action.exempt
                )
                wrote = True
        return wrote


def _pod_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def _about(pod: Pod) -> About:
    return About("Pod", pod.namespace, pod.name, pod.uid)
