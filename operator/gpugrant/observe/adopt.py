"""The unfiltered LIST of pods: GPU pods older than the install, and what other pods use of each node.

Done once before the first plan, when a pool brings a resource name not looked for before, and every ten
minutes: pods without GPUs are not watched (a cluster has many), so their use of a node may lag that much.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from gpugrant import names
from gpugrant.model.pod import Pod
from gpugrant.observe import raw
from gpugrant.observe.client import ApiError, Client
from gpugrant.observe.project import pod_of, project_pod, requested

log = logging.getLogger(__name__)

SWEEP_SECONDS = 600.0
_decode_pod = msgspec.json.Decoder(raw.RawPod).decode


class Adoption:
    """GPU pods without our label, and the overhead of nodes."""

    def __init__(
        self,
        client: Client,
        put: Callable[[Pod], None],
        drop: Callable[[Pod, float], None],
        set_overhead: Callable[[str, int, int], None],
        resources: Callable[[], frozenset[str]],
    ) -> None:
        self._client = client
        self._put = put
        self._drop = drop
        self._set_overhead = set_overhead
        self._resources = resources
        self._unlabelled: dict[str, Pod] = {}
        self._overhead: dict[str, tuple[int, int]] = {}
        self._looked_for: frozenset[str] = frozenset()
        self._looked_at = 0.0  # monotonic: when the last whole LIST was asked for

    def get(self, uid: str) -> Pod | None:
        """Return a pod that still lacks our label."""
        return self._unlabelled.get(uid)

    def labelled(self, uid: str) -> None:
        """Take in that the label-selected cache has this pod now."""
        self._unlabelled.pop(uid, None)

    def feed(self, uid: str, body: bytes) -> None:
        """Take in the answer to a write on a pod that lacks the label."""
        if uid in self._unlabelled:
            self._unlabelled[uid] = pod = project_pod(body)
            self._put(pod)

    def gone(self, uid: str) -> None:
        """Take in that a write was answered 404."""
        pod = self._unlabelled.pop(uid, None)
        if pod is not None:
            self._drop(pod, self._looked_at)

    def tell_overhead(self, node: str) -> None:
        """Tell again what pods without GPUs use of a node that has just appeared."""
        if node in self._overhead:
            self._set_overhead(node, *self._overhead[node])

    async def sweep(self) -> None:
        """LIST all pods once. Raises ApiError."""
        wanted = self._resources() | {names.DEFAULT_RESOURCE}
        use: dict[str, tuple[int, int]] = {}
        found: dict[str, Pod] = {}
        begun = 0.0
        for limit in (500, 0):
            begun = time.monotonic()
            try:
                async for page in self._client.pages("/api/v1/pods", limit=limit):
                    for item in page.items:
                        self._look(item, wanted, use, found)
                    await asyncio.sleep(0)
                break
            except ApiError as error:
                if error.status != 410 or not limit:
                    raise
                use.clear()
                found.clear()
        for uid in self._unlabelled.keys() - found.keys():
            self.gone(uid)
        for uid, pod in found.items():
            if self._unlabelled.get(uid) != pod:
                self._unlabelled[uid] = pod
                self._put(pod)
        for node in self._overhead.keys() | use.keys():
            cpu, memory = use.get(node, (0, 0))
            if self._overhead.get(node) != (cpu, memory):
                self._set_overhead(node, cpu, memory)
        self._overhead = use
        self._looked_for = wanted
        self._looked_at = begun

    def _look(
        self,
        item: msgspec.Raw,
        wanted: frozenset[str],
        use: dict[str, tuple[int, int]],
        found: dict[str, Pod],
    ) -> None:
        try:
            it = _decode_pod(item)
            if names.GPU_LABEL in (it.metadata.labels or {}):
                return
            asked = requested(it.spec)
            if any(asked.get(name, 0) > 0 for name in wanted):
                found[it.metadata.uid] = pod_of(it)
                return
            ended = it.status is not None and it.status.phase in ("Succeeded", "Failed")
            if it.spec.node_name and not ended:
                cpu, memory = use.get(it.spec.node_name, (0, 0))
                use[it.spec.node_name] = (cpu + asked.get("cpu", 0), memory + asked.get("memory", 0))
        except Exception as error:  # noqa: BLE001 (one bad pod must not take down the others)
            log.error("a pod of the unfiltered list does not parse: %s", error)

    async def run(self) -> None:
        """Sweep every ten minutes, and at once when a new resource name came."""
        waited = 0.0
        while True:
            await asyncio.sleep(1.0)
            waited += 1.0
            if waited < SWEEP_SECONDS and self._resources() <= self._looked_for:
                continue
            waited = 0.0
            try:
                await self.sweep()
            except ApiError as error:
                log.warning("cannot list all pods: %s", error)
