"""Kubernetes Events of ours: queued, bounded, posted when nothing more urgent is being written.

core/v1 Events, since ``kubectl get events`` and ``describe`` read those of either API. An Event is news,
not state: when the queue is full the oldest is dropped and counted, and a release never waits for one.
"""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter

from gpugrant import names
from gpugrant.act.patches import stamp
from gpugrant.observe.client import ApiError, Client

log = logging.getLogger(__name__)

_MOST_WAITING = 20_000
_WORKERS = 4
_PATIENCE = 10.0  # how long news may wait for writes to have a pause
_encode = msgspec.json.Encoder().encode


class About(msgspec.Struct, frozen=True):
    """The object an Event is about."""

    kind: str
    namespace: str
    name: str
    uid: str
    api_version: str = "v1"


def event(about: About, reason: str, message: str, at: int, *, warning: bool = False) -> bytes:
    """Return the body of an Event."""
    where = about.namespace or "default"
    involved: dict[str, Any] = {
        "apiVersion": about.api_version,
        "kind": about.kind,
        "name": about.name,
        "uid": about.uid,
    }
    if about.namespace:
        involved["namespace"] = about.namespace
    return _encode(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{about.name[:200]}.{secrets.token_hex(8)}", "namespace": where},
            "involvedObject": involved,
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if warning else "Normal",
            "source": {"component": names.SERVICE_ACCOUNT},
            "reportingComponent": names.SERVICE_ACCOUNT,
            "firstTimestamp": stamp(at),
            "lastTimestamp": stamp(at),
            "count": 1,
        }
    )


class Events:
    """The queue of Events and those who post them."""

    def __init__(self, client: Client, registry: CollectorRegistry, busy: Callable[[], bool]) -> None:
        self._client = client
        self._busy = busy
        self._queue: deque[tuple[str, bytes, float]] = deque()
        self._some = asyncio.Event()
        self._posted = Counter(
            "gpugrant_events", "Kubernetes Events, by what became of them.", ["result"], registry=registry
        )

    def tell(self, about: About, reason: str, message: str, at: int, *, warning: bool = False) -> None:
        """Queue an Event; never waits."""
        if len(self._queue) >= _MOST_WAITING:
            self._queue.popleft()
            self._posted.labels("dropped").inc()
        path = f"/api/v1/namespaces/{about.namespace or 'default'}/events"
        self._queue.append((path, event(about, reason, message, at, warning=warning), time.monotonic()))
        self._some.set()

    async def run(self) -> None:
        """Post what is queued, for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._post())

    async def _post(self) -> None:
        while True:
            while not self._queue:
                self._some.clear()
                await self._some.wait()
            if self._busy() and time.monotonic() - self._queue[0][2] < _PATIENCE:
                await asyncio.sleep(0.05)
                continue
            path, body, _ = self._queue.popleft()
            try:
                await self._client.post(path, body)
                self._posted.labels("posted").inc()
            except ApiError as error:
                # The namespace may be going; an Event is not worth a retry.
                self._posted.labels("failed").inc()
                log.debug("event not posted: %s", error)
