"""A LIST+WATCH cache of one kind: what is held equals what the API server has, and every change is emitted.

Kopf's own watching is no use for pods and nodes (1,500 events/s, ghosts after a 410), so this one pages,
survives 410 in LIST, continue and WATCH, reconnects after silence, diffs every relist and emits the
deletes it finds. What changes nothing in the projection (heartbeats, managedFields) is not emitted.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import aclosing
from sys import intern
from typing import Any, Generic, TypeVar

import msgspec

from gpugrant.observe import raw
from gpugrant.observe.client import SILENCE_SECONDS, ApiError, Client, SilentError, parse_status
from gpugrant.observe.health import CacheHealth

log = logging.getLogger(__name__)

T = TypeVar("T")
_MOST_TOMBSTONES = 20_000
_PAGED_TRIES = 3
_LONGEST_PAUSE = 3.0  # an API server that restarts is to be found again soon

_decode_event = msgspec.json.Decoder(raw.Event).decode
_decode_head = msgspec.json.Decoder(raw.Head).decode


class Kind(msgspec.Struct, Generic[T], frozen=True):
    """How one kind is projected and told apart.

    ``key`` is what the receiver drops by: a pod's uid, a node's name. ``alike`` says whether two
    projections mean the same to the planner.
    """

    name: str
    path: str
    project: Callable[[bytes | msgspec.Raw], T]
    key: Callable[[raw.Meta], str]
    params: tuple[tuple[str, str], ...] = ()
    alike: Callable[[T, T], bool] = lambda one, other: one == other


class Receiver(Generic[T]):
    """Where changes go: two synchronous, cheap callables.

    ``drop`` is told None where the watch saw the object go; a relist only finds that it went, and tells until
    when (monotonic) it would have been seen.
    """

    def __init__(self, put: Callable[[T], None], drop: Callable[[str, T, float | None], None]) -> None:
        self.put = put
        self.drop = drop


class _Held(msgspec.Struct, Generic[T], gc=False):
    item: T
    uid: str
    version: int


class Cache(Generic[T]):
    """The held objects of one kind, kept equal to the API server's by ``run()``."""

    def __init__(
        self,
        client: Client,
        kind: Kind[T],
        receiver: Receiver[T],
        health: CacheHealth,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self.kind = kind
        self.synced = asyncio.Event()
        self._client = client
        self._receiver = receiver
        self._health = health
        self._silence = silence
        self._held: dict[str, _Held[T]] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        self._version = ""

    def get(self, key: str) -> T | None:
        """Return the held object."""
        held = self._held.get(key)
        return held.item if held is not None else None

    def items(self) -> Iterable[T]:
        """Return all held objects."""
        return [held.item for held in self._held.values()]

    def __len__(self) -> int:
        return len(self._held)

    # -- the loop ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """LIST, then WATCH, for ever; any failure is waited out and starts over where it must."""
        failures = 0
        while True:
            started = time.monotonic()
            try:
                if not self._version:
                    await self._relist()
                await self._watch()
                failures = 0
            except SilentError:
                # Normal where a kind does not change: not every API server sends bookmarks then.
                log.debug("%s: silence, connecting again", self.kind.name)
                failures = 0
                self._health.broke("Silent")
            except ApiError as error:
                if error.status == 410:
                    log.info("%s: version %s is too old, listing again", self.kind.name, self._version)
                    self._version = ""
                    # Once is normal; again at once would be a busy loop of LISTs.
                    failures = failures + 1 if time.monotonic() - started < 1 else 0
                else:
                    failures = 1 if self._health.heard_at > started else failures + 1
                    log.warning("%s: %s", self.kind.name, error)
                self._health.broke(error.reason)
            except Exception:
                # Nothing that one answer holds may end the watching; start from a clean LIST.
                log.exception("%s: watching failed", self.kind.name)
                self._version = ""
                failures += 1
                self._health.broke("Exception")
            if failures:
                pause = min(_LONGEST_PAUSE, 0.2 * 2 ** min(failures, 8))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def list_once(self) -> None:
        """LIST everything, without watching on: for commands that look once. Raises ApiError."""
        await self._relist()

    async def _relist(self) -> None:
        """LIST everything, put what changed, drop what is held and was not listed."""
        seen_until = self._health.current_at
        for attempt in range(_PAGED_TRIES + 1):
            # A token that expires between pages starts the LIST over; the last try asks for one big page.
            limit = 500 if attempt < _PAGED_TRIES else 0
            before = set(self._held)
            listed: set[str] = set()
            version = ""
            begun = time.monotonic()
            try:
                async for page in self._client.pages(self.kind.path, dict(self.kind.params), limit):
                    for item in page.items:
                        self._take(item, listed)
                    version = page.version
                    self._health.heard()
                    await asyncio.sleep(0)  # a page is some ms of work; let others in between
            except ApiError as error:
                if error.status == 410 and attempt < _PAGED_TRIES:
                    log.info("%s: LIST expired between pages, starting over", self.kind.name)
                    continue
                raise
            for key in before - listed:
                self._forget(key, _number(version), missed=seen_until)
            self._version = version
            self._health.current(begun)
            self.synced.set()
            self._health.listed(len(self._held))
            return

    async def _watch(self) -> None:
        params = {**dict(self.kind.params), "resourceVersion": self._version}
        async with aclosing(self._client.watch(self.kind.path, params, self._silence)) as batches:
            async for lines in batches:
                self._health.heard()
                for line in lines:
                    self._event(line)
                self._health.current()  # not before: the line may have said that our version is too old

    # -- single objects ----------------------------------------------------------------------------

    def _event(self, line: bytes) -> None:
        try:
            event = _decode_event(line)
            if event.type == "ERROR":
                raise parse_status(bytes(event.object), 500)
            meta = _decode_head(event.object).metadata
        except msgspec.MsgspecError:
            # The versions of a stream only count if nothing in it was missed: list again.
            log.error("%s: a line of the watch does not parse: %.200r", self.kind.name, line)
            self._health.unparsed()
            raise ApiError(410, "Unparsed", "a line of the watch does not parse") from None
        if event.type == "DELETED":
            self._forget(self.kind.key(meta), _number(meta.resource_version), meta.uid)
        elif event.type in ("ADDED", "MODIFIED"):
            self._take(event.object, None)
        if _number(meta.resource_version) > _number(self._version):
            self._version = meta.resource_version

    def feed(self, body: bytes) -> None:
        """Take the answer to a write in, ahead of the watch event that tells the same."""
        try:
            meta = _decode_head(body).metadata
        except msgspec.MsgspecError:
            return
        held = self._held.get(self.kind.key(meta))
        if held is not None and held.uid == meta.uid:
            self._take(msgspec.Raw(body), None)

    def gone(self, key: str, uid: str) -> None:
        """Take in that a write was answered 404: the object is no more."""
        held = self._held.get(key)
        if held is not None and held.uid == uid:
            self._forget(key, held.version, uid, missed=self._health.missed())

    def _take(self, item: msgspec.Raw, listed: set[str] | None) -> None:
        """Hold one listed or watched object if it is news, and emit it if it means something new."""
        try:
            meta = _decode_head(item).metadata
            key, version = self.kind.key(meta), _number(meta.resource_version)
        except (msgspec.MsgspecError, ValueError):
            log.error("%s: an object without readable metadata: %.200r", self.kind.name, bytes(item)[:200])
            self._health.unparsed()
            return
        if listed is not None:
            listed.add(key)
        held = self._held.get(key)
        if held is not None and held.version >= version and held.uid == meta.uid:
            return
        if version <= self._gone.get(meta.uid, -1) or (
            held is not None and held.uid != meta.uid and held.version > version
        ):
            return  # an old event of an object that is gone, or has been replaced
        try:
            projected = self.kind.project(item)
        except Exception as error:  # noqa: BLE001 (one bad object must not take down the others)
            log.error("%s: %s/%s does not parse: %s", self.kind.name, meta.namespace, meta.name, error)
            self._health.unparsed()
            return
        if held is not None and held.uid != meta.uid:
            # Same name, another object: the old one went unseen.
            self._forget(key, held.version, held.uid, missed=self._health.current_at)
            held = None
        if held is None:
            self._held[key] = _Held(projected, intern(meta.uid), version)
        elif self.kind.alike(held.item, projected):
            held.version = version
            self._health.dropped()
            return
        else:
            held.item, held.version = projected, version
        self._health.emitted()
        self._receiver.put(projected)

    def _forget(self, key: str, version: int, uid: str = "", *, missed: float | None = None) -> None:
        held = self._held.get(key)
        if uid:
            self._bury(uid, version)
        if held is None or (uid and held.uid != uid) or (version and held.version > version):
            return
        self._bury(held.uid, version)
        del self._held[key]
        self._health.emitted()
        self._receiver.drop(key, held.item, missed)

    def _bury(self, uid: str, version: int) -> None:
        # By version, not for ever: an object that left the selection may come back to it.
        self._gone[uid] = version
        if len(self._gone) > _MOST_TOMBSTONES:
            self._gone.popitem(last=False)


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0


def alike_but_version(one: Any, other: Any) -> bool:
    """Say whether two projections differ in nothing but metadata.resourceVersion."""
    return bool(one == msgspec.structs.replace(other, version=one.version))
