"""``gpugrant uninstall``: the operator stopped, then everything of gpugrant's taken off nodes, pods and own objects.

What runs goes on running. The ledger, closed months, CRDs and their objects are not touched. The guard stays until the
chart goes: only the mutating policies are unbound, so that no pod is gated any more while we look; for that moment GPU
pods are refused, and their controllers try again. Safe to repeat: each run does what is left to do.
"""

import asyncio
import json
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Final

import msgspec

from gpugrant import names
from gpugrant.act.policies import PolicyIsForeign, resources_of
from gpugrant.observe.client import MERGE_PATCH, ApiError, Client
from gpugrant.observe.credentials import load_credentials
from gpugrant.run import unmark
from gpugrant.run.lease import LEASE_PATH, Lease, LeaseLostError
from gpugrant.run.uninstall_report import Findings

_DEPLOYMENT: Final = f"/apis/apps/v1/namespaces/{names.SYSTEM_NAMESPACE}/deployments/gpugrant"
_ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
_GUARD: Final = f"{_ADMISSION}/validatingadmissionpolicies/{names.POLICY_GUARD}"
_MUTATING: Final = (names.POLICY_GATE, names.POLICY_FENCE, names.POLICY_EXEMPT)
_Change = Callable[[], Coroutine[Any, Any, bool]]
_OWN: Final = {"gpupools": "pool", "tenantquotas": "quota", "gpugrants": "grant", "usagereports": "report"}
_BATCH = 64
_TRIES = 5
_PASSES = 20
_SETTLED_SECONDS = 3.0  # a policy takes up to about a second to go
_PAUSE = 0.5


class UninstallError(Exception):
    """It could not be done, or not all of it; the words say why and what to do."""


class Uninstall:
    """One run. ``say`` is told, line by line, what was done."""

    def __init__(self, client: Client, say: Callable[[str], None], *, release: bool, patience: float) -> None:
        self._client = client
        self._say = say
        self._release = release
        self._patience = patience
        # Another one for each run: of two at the same time, one waits.
        host = os.environ.get("POD_NAME") or socket.gethostname()
        self._lease = Lease(client, f"{host}_uninstall_{uuid.uuid4().hex[:8]}")
        self._resources = frozenset({names.DEFAULT_RESOURCE})
        self._sure = asyncio.Event()  # while the lease is in doubt no write is begun
        self._sure.set()
        self._found = Findings()
        self._look = 0
        # Controllers whose pods were evicted, and in which look: what their template selects itself, no eviction mends.
        self._remade: dict[str, int] = {}

    async def run(self) -> None:
        """Do it. Raises UninstallError, ApiError."""
        await self._stop_operator()
        kept = asyncio.create_task(self._lease.keep(self._sure.clear, self._sure.set))
        work = asyncio.create_task(self._clean())
        try:
            done, _ = await asyncio.wait({kept, work}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except LeaseLostError as lost:
            raise UninstallError(
                f"{lost}: an operator has been started again; stop it, then run this again"
            ) from None
        finally:
            for task in (kept, work):
                task.cancel()
            await asyncio.gather(kept, work, return_exceptions=True)
        await self._delete(LEASE_PATH)
        await self._report()

    # -- 1: nobody writes but us ---------------------------------------------------------------------

    async def _stop_operator(self) -> None:
        body = msgspec.json.encode({"spec": {"replicas": 0}})
        try:
            await self._client.patch(f"{_DEPLOYMENT}/scale", body, MERGE_PATCH)
            self._say("operator: Deployment gpugrant scaled to 0")
        except ApiError as refusal:
            if refusal.status not in (403, 404):
                raise
            self._say(f"operator: its Deployment is not scaled down by this ({refusal.reason})")
        try:
            async with asyncio.timeout(self._patience):
                await self._lease.acquire()
        except TimeoutError:
            raise UninstallError(
                f"operator: {self._lease.other or 'somebody'} still leads after {self._patience:.0f} s, and "
                f"would undo what this does: stop it (kubectl -n {names.SYSTEM_NAMESPACE} scale deployment "
                "gpugrant --replicas=0), then run this again"
            ) from None

    # -- 2: passes over everything, until one finds nothing --------------------------------------------

    async def _clean(self) -> None:
        self._resources = await self._known_resources()
        for name in _MUTATING:
            if await self._delete(f"{_ADMISSION}/mutatingadmissionpolicybindings/{name}"):
                self._say(f"policies: {name} unbound; it acts on no new pod")
        unbound = time.monotonic()
        for _ in range(_PASSES):
            begun = time.monotonic()
            if not await self._pass() and begun - unbound >= _SETTLED_SECONDS:
                return
            await asyncio.sleep(_PAUSE)
        raise UninstallError(f"after {_PASSES} looks there is still something to take off: run this again")

    async def _pass(self) -> int:
        """Look at everything once; return how many objects were changed."""
        self._found.look_again()
        self._look += 1
        changed, errors, batch = 0, set[str](), list[_Change]()
        async for change in self._changes():
            batch.append(change)
            if len(batch) == _BATCH:  # the objects of a large cluster are not held all at once
                await self._sure.wait()
                changed += await _carry_out(batch, errors)
        await self._sure.wait()
        changed += await _carry_out(batch, errors)
        if errors:
            raise UninstallError("not everything could be taken off:\n  " + "\n  ".join(sorted(errors)))
        return changed

    async def _changes(self) -> AsyncIterator[_Change]:
        async for pod in self._all("/api/v1/pods"):
            for change in self._pod(pod):
                yield change
        async for node in self._all("/api/v1/nodes"):
            if self._unmark_node(node):
                yield partial(self._take_off, "node", "/api/v1/nodes", node, self._unmark_node)
        for plural, kind in _OWN.items():
            async for found in self._all(f"/apis/{names.API_VERSION}/{plural}"):
                if unmark.unmark_own(found):
                    base = f"/apis/{names.API_VERSION}{_place(found)}/{plural}"
                    yield partial(self._take_off, kind, base, found, unmark.unmark_own)

    def _pod(self, pod: dict[str, Any]) -> Iterator[_Change]:
        """Note what is to be told of a pod, and yield what is to be done with it."""
        key = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        base = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods"
        if names.FINALIZER in (pod["metadata"].get("finalizers") or ()) and unmark.is_running(pod):
            self._found.running.add(key)
        if unmark.is_gated(pod) and self._release:
            self._found.released.add(key)
        elif unmark.is_gated(pod):
            self._found.waiting[key] = unmark.waiting_words(pod)
        if self._unmark_pod(pod):
            yield partial(self._take_off, "pod", base, pod, self._unmark_pod)
        if not unmark.is_unplaceable(pod) or pod["metadata"].get("deletionTimestamp"):
            return
        controller = unmark.controller_of(pod)
        if self._release and controller and self._remade.setdefault(controller, self._look) == self._look:
            yield partial(self._evict, key, base, pod)
        else:
            self._found.unplaceable.add(key)

    def _unmark_pod(self, pod: dict[str, Any]) -> list[dict[str, Any]]:
        return unmark.unmark_pod(pod, release=self._release)

    def _unmark_node(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        return unmark.unmark_node(node, self._resources)

    async def _take_off(
        self, kind: str, base: str, found: dict[str, Any], unmarked: Callable[..., Any]
    ) -> bool:
        """Patch an object until nothing of ours is on it; say whether there was anything, or still is."""
        path = f"{base}/{found['metadata']['name']}"
        changed = False
        for _ in range(_TRIES):
            patch = unmarked(found)
            if not patch:
                return changed
            try:
                found = msgspec.json.decode(await self._client.patch(path, msgspec.json.encode(patch)))
                changed = True
                self._found.stripped.setdefault(kind, set()).add(path)
            except ApiError as refusal:
                if refusal.status == 404:
                    return changed
                if refusal.status not in (409, 422):
                    raise
                found = await self._again(path, found)
                if not found:
                    return changed
        return True  # somebody else changes it all the time: the next look tries again

    async def _again(self, path: str, found: dict[str, Any]) -> dict[str, Any]:
        """Read an object that has moved under us; {} where it is another one by now, or none."""
        try:
            now: dict[str, Any] = msgspec.json.decode(await self._client.get(path))
        except ApiError as refusal:
            if refusal.status == 404:
                return {}
            raise
        return now if now["metadata"]["uid"] == found["metadata"]["uid"] else {}

    async def _evict(self, key: str, base: str, pod: dict[str, Any]) -> bool:
        """Evict a pod that will never bind, so that its controller makes one that can."""
        meta = pod["metadata"]
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            "deleteOptions": {"preconditions": {"uid": meta["uid"]}},
        }
        try:
            await self._client.post(f"{base}/{meta['name']}/eviction", msgspec.json.encode(body))
        except ApiError as refusal:
            if refusal.status not in (404, 409, 429):
                raise
            self._found.unplaceable.add(key)
            return False
        self._found.remade.add(key)
        return True

    # -- 3: what there is to know --------------------------------------------------------------------

    async def _report(self) -> None:
        for line in self._found.lines():
            self._say(line)
        self._say(f"kept: the ledger, closed months, and {await self._kept()}")

    async def _kept(self) -> str:
        counts = []
        for plural, kind in _OWN.items():
            count = len([one async for one in self._all(f"/apis/{names.API_VERSION}/{plural}")])
            counts.append(f"{count} {kind}{'' if count == 1 else 's'}")
        return ", ".join(counts)

    # -- reads and deletions -------------------------------------------------------------------------

    async def _known_resources(self) -> frozenset[str]:
        """Return the resource names that pools and the guard know."""
        known = {names.DEFAULT_RESOURCE}
        async for pool in self._all(f"/apis/{names.API_VERSION}/gpupools"):
            known.add(str(pool["spec"].get("resourceName", names.DEFAULT_RESOURCE)))
        try:
            known |= resources_of(msgspec.json.decode(await self._client.get(_GUARD)))
        except ApiError as refusal:
            if refusal.status != 404:
                raise
        except PolicyIsForeign as foreign:
            self._say(f"policies: {foreign}")
        return frozenset(known)

    async def _all(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the objects of a collection; none where the kind is not there."""
        try:
            async for page in self._client.pages(path):
                for item in page.items:
                    yield json.loads(bytes(item))
        except ApiError as refusal:
            if refusal.status != 404:
                raise

    async def _delete(self, path: str) -> bool:
        """Delete an object; say whether it was there."""
        try:
            await self._client.delete(path)
        except ApiError as refusal:
            if refusal.status != 404:
                raise
            return False
        return True


async def _carry_out(batch: list[_Change], errors: set[str]) -> int:
    """Do what is in the batch, and empty it; return how much changed something. Refusals go into ``errors``."""
    told = await asyncio.gather(*(change() for change in batch), return_exceptions=True)
    batch.clear()
    for one in told:
        if isinstance(one, ApiError):
            errors.add(str(one))
        elif isinstance(one, BaseException):
            raise one
    return sum(one is True for one in told)


def _place(found: dict[str, Any]) -> str:
    namespace = found["metadata"].get("namespace")
    return f"/namespaces/{namespace}" if namespace else ""


def uninstall(kubeconfig: str, say: Callable[[str], None], *, release: bool, patience: float) -> None:
    """Take everything of gpugrant's off the cluster. Raises UninstallError, ApiError, ValueError."""

    async def _run() -> None:
        async with Client(load_credentials(kubeconfig or None), "gpugrant-uninstall") as client:
            await Uninstall(client, say, release=release, patience=patience).run()

    asyncio.run(_run())
