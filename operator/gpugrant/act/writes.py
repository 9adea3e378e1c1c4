"""Every kind of write, one function each: what is sent, on what condition, and where the answer goes.

Every write has a precondition (uid, and what the decision took for granted), so that a stale decision costs a
refusal and never harm. The answer to a write is taken in at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from gpugrant import names
from gpugrant.act import patches, policies
from gpugrant.act.events import About, Events
from gpugrant.act.patches import StaleError
from gpugrant.act.queue import FIGURES, Key, StripFinalizer, Work, key_of, urgency_of
from gpugrant.decide.actions import (
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
        """Take note that a pod's object is gone."""


class Writes:
    """Does one write at a time of each object. Raises ApiError, and StaleError where it is not to be done any more."""

    def __init__(self, client: Client, known: Known, events: Events, clock: Callable[[], int]) -> None:
        self._client = client
        self._known = known
        self._events = events
        self._clock = clock
        self.figures_at: dict[Key, float] = {}  # when an object's figures were written last; monotonic

    async def write(self, work: Work) -> bool:
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

    # -- pods ----------------------------------------------------------------------------------------

    async def _release(self, action: ReleasePod) -> bool:
        pod = self._pod(action.uid)
        # The time-out for binding runs from here on, not from the decision: in a burst it may have waited long.
        action = msgspec.structs.replace(action, at=self._clock())
        answer = await self._client.patch(_pod_path(pod.namespace, pod.name), patches.release(pod, action))
        self._known.feed_pod(action.uid, answer)
        if action.message:
            self._events.tell(_about(pod), "Released", action.message, self._clock())
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
        self._events.tell(_about(pod), "Waiting", action.message, self._clock())
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
        self._events.tell(_about(pod), action.reason, action.message, self._clock(), warning=True)
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
            self.figures_at[key] = time.monotonic()
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
