"""A witness of its own: every pod event of some namespaces, in the API server's order, each judged at once.

It knows nothing of the operator but the marks that releases carry, and nothing of its code.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from devcluster.client import JsonObject, KubeClient

GPU = "nvidia.com/gpu"
ENDED = ("Succeeded", "Failed")


def gpus_of(pod: JsonObject) -> int:
    """Return what a pod of app containers asks for."""
    return sum(int(each.get("resources", {}).get("limits", {}).get(GPU, 0)) for each in pod["spec"]["containers"])


@dataclass
class Seen:
    """What was seen of one pod."""

    pod: JsonObject
    gone: bool = False
    unbound_since: float | None = None  # released and not bound, by the witness's clock
    ended_at: int | None = None  # the API server's time of the terminal status

    @property
    def held(self) -> bool:
        """Say whether it holds its seats."""
        return bool(self.pod["spec"].get("nodeName")) and not self.gone and self.phase not in ENDED

    @property
    def over(self) -> bool:
        """Say whether nothing of it will run any more."""
        return self.gone or self.phase in ENDED

    @property
    def phase(self) -> str:
        """Return its phase."""
        return str(self.pod.get("status", {}).get("phase", "Pending"))

    def interval(self) -> tuple[int, int] | None:
        """Return when it held its seats, in epoch seconds; None where it was never bound or is not over.

        From the PodScheduled transition to the latest container finish, or where no container ever ran, to the
        API server's time of the terminal status.
        """
        status = self.pod.get("status", {})
        if not self.pod["spec"].get("nodeName") or not self.over:
            return None
        start = next(_epoch(each["lastTransitionTime"]) for each in status["conditions"]
                     if each["type"] == "PodScheduled" and each["status"] == "True")
        finishes = [_epoch(each["state"]["terminated"]["finishedAt"]) for each in status.get("containerStatuses", ())
                    if "terminated" in each.get("state", {})]
        end = max(finishes) if finishes else self.ended_at
        assert end is not None, f"{self.pod['metadata']['name']} went and nobody saw it end"
        return start, max(start, end)


@dataclass(frozen=True)
class Unbound:
    """A stretch during which a pod was released and not bound."""

    name: str
    since: float
    until: float


@dataclass
class Witness:
    """Watches pods of ``namespaces``; ``grants`` (by uid) and ``servers`` have so many seats, for the whole time."""

    admin: KubeClient
    namespaces: frozenset[str]
    grants: Mapping[str, int]
    servers: Mapping[str, int]
    seen: dict[str, Seen] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    unbound: list[Unbound] = field(default_factory=list)
    events: int = 0
    most_held: Counter[str] = field(default_factory=Counter)
    _version: int = 0
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        listed = await self.admin.get("/api/v1/pods", limit="1")
        self._version = int(listed["metadata"]["resourceVersion"])
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until_over(self, namespace: str, name: str) -> Seen:
        """Wait until a pod has ended or is gone."""
        return await self._until(lambda each: each.over, namespace, name)

    async def until_all_over(self) -> None:
        """Wait until everything seen so far is over."""
        async with self._news:
            await self._news.wait_for(lambda: all(each.over for each in self.seen.values()) or self._ended())

    def left(self) -> list[str]:
        """Say what is not over, for a person."""
        return [
            f"{each.pod['metadata']['name']} {each.phase} on {each.pod['spec'].get('nodeName')}: "
            f"{each.pod['metadata'].get('annotations')}" for each in self.seen.values() if not each.over]

    async def _until(self, holds: object, namespace: str, name: str) -> Seen:
        def found() -> Seen | None:
            return next((each for each in self.seen.values() if each.pod["metadata"]["name"] == name
                         and each.pod["metadata"]["namespace"] == namespace and each.over), None)

        async with self._news:
            await self._news.wait_for(lambda: found() is not None or self._ended())
        answer = found()
        assert answer is not None, "the watch ended"
        return answer

    def _ended(self) -> bool:
        return self._task is not None and self._task.done()

    # -- events --------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        try:
            async for kind, pod in self.admin.watch(
                "/api/v1/pods", resourceVersion=str(self._version), timeoutSeconds="1800"
            ):
                if pod["metadata"]["namespace"] in self.namespaces:
                    self._take(kind, pod)
                    async with self._news:
                        self._news.notify_all()
            self.breaches.append("the watch ended before the test did")
        finally:
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                async with self._news:
                    self._news.notify_all()

    def _take(self, kind: str, pod: JsonObject) -> None:
        version = int(pod["metadata"]["resourceVersion"])
        if version <= self._version:
            self.breaches.append(f"event {version} came after {self._version}")
        self._version = version
        self.events += 1
        uid = pod["metadata"]["uid"]
        seen = self.seen.setdefault(uid, Seen(pod))
        was_over = seen.over if seen.pod is not pod else False
        seen.pod, seen.gone = pod, kind == "DELETED"
        if seen.over and not was_over and seen.ended_at is None:
            seen.ended_at = _status_time(pod)
        self._time_unbound(seen)
        self._count()

    def _time_unbound(self, seen: Seen) -> None:
        pod, now = seen.pod, time.monotonic()
        is_unbound = not (pod["spec"].get("schedulingGates") or pod["spec"].get("nodeName") or seen.over
                          or pod["metadata"].get("deletionTimestamp"))
        if is_unbound and seen.unbound_since is None:
            seen.unbound_since = now
        elif not is_unbound and seen.unbound_since is not None:
            self.unbound.append(Unbound(pod["metadata"]["name"], seen.unbound_since, now))
            seen.unbound_since = None

    def _count(self) -> None:
        held: Counter[str] = Counter()
        for each in self.seen.values():
            if not each.held:
                continue
            meta = each.pod["metadata"]
            grant = (meta.get("annotations") or {}).get("gpugrant.io/grant-uid", "")
            for key in (grant, each.pod["spec"]["nodeName"]):
                held[key] += gpus_of(each.pod)
        for key, gpus in held.items():
            allowed = self.grants.get(key, self.servers.get(key, 0))
            self.most_held[key] = max(self.most_held[key], gpus)
            if gpus > allowed:
                self.breaches.append(f"at {self._version}: {key or 'no grant'} has {gpus} of {allowed} GPUs held")


def _epoch(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp())


def _status_time(pod: JsonObject) -> int:
    """Return when the API server took the status as it is."""
    return max((_epoch(each["time"]) for each in pod["metadata"].get("managedFields", ())
                if each.get("subresource") == "status"), default=int(time.time()))
