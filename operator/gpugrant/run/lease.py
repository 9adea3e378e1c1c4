"""Who leads: a coordination.k8s.io Lease, taken, kept and given back.

A process that was killed and comes back under the same identity re-takes its own lease at once; another one
waits until the lease has not been renewed for its whole duration, by its own clock, so that clocks of
different machines need not agree. Why not kubernetes.aio: hack/decisions/2026-11-22-leader-lease.md.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from gpugrant import names
from gpugrant.observe.client import ApiError, Client

log = logging.getLogger(__name__)

_PATH = f"/apis/coordination.k8s.io/v1/namespaces/{names.SYSTEM_NAMESPACE}/leases"
LEASE_PATH = f"{_PATH}/{names.LEASE}"


class LeaseLostError(Exception):
    """Somebody else leads now."""


class Lease:
    """One candidate's view of the Lease."""

    def __init__(self, client: Client, identity: str, seconds: int = 6) -> None:
        self.identity = identity
        self.other = ""  # who leads instead of us, where that has been seen
        self.renewed_at = 0.0  # monotonic; the API server was reached then
        self._client = client
        self._seconds = seconds
        self._object: dict[str, Any] = {}
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        said = ""
        while True:
            try:
                if await self._try():
                    self.other = ""
                    return
                words = f"waiting: {self.other} leads"
            except ApiError as error:
                words = f"cannot take the lease: {error}"
            if words != said:
                log.info(words)
                said = words
            await asyncio.sleep(min(1.0, self._seconds / 6))

    async def keep(self, doubt: Callable[[], None], sure: Callable[[], None]) -> None:
        """Renew for ever. Raises LeaseLostError as soon as another holder is seen.

        ``doubt`` is called when the lease has run out unrenewed (the API server is away, for us at least):
        nothing may be written until ``sure``. Nobody else can have taken it unless a read shows so.
        """
        doubtful = False
        while True:
            await asyncio.sleep(self._seconds / 3)
            try:
                async with asyncio.timeout(self._seconds / 2):
                    if not await self._try():
                        raise LeaseLostError(f"{self.other} has taken the lease")
                if doubtful:
                    log.info("the lease is ours again")
                    doubtful = False
                    sure()
            except (ApiError, TimeoutError) as error:
                log.warning("cannot renew the lease: %s", error or "no answer")
            if not doubtful and time.monotonic() - self.renewed_at > self._seconds * 5 / 6:
                log.error("the lease has run out unrenewed: writing nothing until it is ours again")
                doubtful = True
                doubt()

    async def release(self) -> None:
        """Give the lease back, so that the next leader need not wait."""
        if not self._object:
            return
        try:
            async with asyncio.timeout(2):
                await self._write({"holderIdentity": "", "leaseDurationSeconds": 1})
        except (ApiError, TimeoutError) as error:
            log.warning("the lease was not given back: %s", error or "no answer")

    async def _try(self) -> bool:
        """Take or renew the lease; say whether it is ours."""
        begun = time.monotonic()
        try:
            self._object = msgspec.json.decode(await self._client.get(LEASE_PATH))
        except ApiError as error:
            if error.status != 404:
                raise
            self._object = {}
        spec = self._object.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder and holder != self.identity and not self._expired(holder, spec):
            self.other = holder
            return False
        if self.renewed_at and holder not in ("", self.identity):
            # We led, and in our absence another did: what we know may be old. Start afresh.
            self.other = holder
            return False
        now = datetime.fromtimestamp(self._client.clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = {"holderIdentity": self.identity, "leaseDurationSeconds": self._seconds, "renewTime": now}
        if holder != self.identity:
            mine["acquireTime"] = now
            mine["leaseTransitions"] = (spec.get("leaseTransitions") or 0) + 1
        try:
            await self._write(mine)
        except ApiError as error:
            if error.status in (409, 422):  # somebody else was quicker
                self.other = "another candidate"
                return False
            raise
        self.renewed_at = begun
        return True

    def _expired(self, holder: str, spec: dict[str, Any]) -> bool:
        seen = (holder, spec.get("renewTime") or "")
        if seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
            return False
        return time.monotonic() - self._seen_at > (spec.get("leaseDurationSeconds") or self._seconds)

    async def _write(self, spec: dict[str, Any]) -> None:
        if not self._object:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": names.LEASE, "namespace": names.SYSTEM_NAMESPACE},
                "spec": spec,
            }
            answer = await self._client.post(_PATH, msgspec.json.encode(body))
        else:
            # With the resourceVersion that was read: of two candidates only one succeeds.
            body = {**self._object, "spec": {**(self._object.get("spec") or {}), **spec}}
            answer = await self._client.put(LEASE_PATH, msgspec.json.encode(body))
        self._object = msgspec.json.decode(answer)
