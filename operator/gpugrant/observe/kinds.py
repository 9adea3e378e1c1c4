"""Our own kinds: Kopf's events and a LIST sweep feed one store, which emits what is new.

Kopf alone keeps ghosts after a 410, so the sweep (before the first plan, every minute, after each of
Kopf's own re-lists) drops what is gone. The newer resourceVersion wins, whoever brought it; a deleted
uid does not come back.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from gpugrant import names
from gpugrant.api.grant import GpuGrantSpec
from gpugrant.api.pool import GpuPoolSpec
from gpugrant.api.problems import describe
from gpugrant.api.quota import TenantQuotaSpec
from gpugrant.model.objects import Allocation, Grant, Pool, Quota
from gpugrant.observe.client import ApiError, Client
from gpugrant.observe.project import seconds

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
Own = Pool | Quota | Grant
_Spec = TypeVar("_Spec", bound=BaseModel)


class OwnKind(msgspec.Struct, frozen=True):
    """One of our kinds: its name, its plural, how to read it."""

    kind: str
    plural: str
    read: Callable[[Mapping[str, Any]], Own]

    @property
    def path(self) -> str:
        """Return the path of all its objects, in all namespaces."""
        return f"/apis/{names.API_VERSION}/{self.plural}"


def own_path(kind: str, namespace: str, name: str) -> str:
    """Return the path of one object of ours."""
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{names.API_VERSION}{place}/{OWN_KINDS[kind].plural}/{name}"


def _identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": meta["name"],
        "uid": meta.get("uid", ""),
        "version": meta.get("resourceVersion", ""),
        "generation": meta.get("generation") or 1,
        "created": seconds(meta.get("creationTimestamp")),
    }


def _spec(model: type[_Spec], body: Mapping[str, Any]) -> tuple[_Spec | None, str]:
    """Return the spec, or None and, in words, what is wrong with it."""
    try:
        return model.model_validate(body.get("spec") or {}), ""
    except ValidationError as error:
        return None, "; ".join(f"spec.{line}" for line in describe(error, model))


def read_pool(body: Mapping[str, Any]) -> Pool:
    """Return the Pool of a GpuPool object."""
    spec, error = _spec(GpuPoolSpec, body)
    return Pool(**_identity(body["metadata"]), spec=spec, error=error, status=body.get("status") or {})


def read_quota(body: Mapping[str, Any]) -> Quota:
    """Return the Quota of a TenantQuota object."""
    spec, error = _spec(TenantQuotaSpec, body)
    return Quota(**_identity(body["metadata"]), spec=spec, error=error, status=body.get("status") or {})


def read_grant(body: Mapping[str, Any]) -> Grant:
    """Return the Grant of a GpuGrant object."""
    spec, error = _spec(GpuGrantSpec, body)
    meta, status = body["metadata"], body.get("status") or {}
    place = status.get("allocation") or {}
    return Grant(
        **_identity(meta),
        namespace=meta["namespace"],
        deleting=bool(meta.get("deletionTimestamp")),
        spec=spec,
        error=error,
        allocation=Allocation(
            pool=place["pool"],
            fabric=place.get("fabric") or "",
            servers=tuple(place.get("servers") or ()),
            gpus=place.get("gpus") or 0,
        )
        if place.get("pool")
        else None,
        status=status,
    )


OWN_KINDS: dict[str, OwnKind] = {
    kind.kind: kind
    for kind in (
        OwnKind("GpuPool", "gpupools", read_pool),
        OwnKind("TenantQuota", "tenantquotas", read_quota),
        OwnKind("GpuGrant", "gpugrants", read_grant),
    )
}


class OwnKinds:
    """All objects of our own kinds, by uid, and the sweep that keeps them true."""

    def __init__(self, client: Client, put: Callable[[Own], None], drop: Callable[[Own], None]) -> None:
        self._client = client
        self._put = put
        self._drop = drop
        self._held: dict[str, dict[str, Own]] = {kind: {} for kind in OWN_KINDS}
        self._gone: dict[str, None] = {}
        self._wanted: dict[str, asyncio.Event] = {kind: asyncio.Event() for kind in OWN_KINDS}

    def get(self, kind: str, uid: str) -> Own | None:
        """Return one held object."""
        return self._held[kind].get(uid)

    def of(self, kind: str) -> list[Own]:
        """Return all held objects of a kind."""
        return list(self._held[kind].values())

    def feed(self, kind: str, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take one object in, from a watch, a sweep or the answer to a write."""
        try:
            self._feed(kind, body, deleted)
        except Exception as error:  # noqa: BLE001 (one bad object must not take down the others)
            log.error("%s: an object cannot be read: %s", kind, error)

    def _feed(self, kind: str, body: Mapping[str, Any], deleted: bool) -> None:
        meta, held = body["metadata"], self._held[kind]
        uid = meta["uid"]
        known = held.get(uid)
        if deleted:
            self._bury(kind, uid)
            return
        if uid in self._gone or (
            known and _number(known.version) >= _number(meta.get("resourceVersion", ""))
        ):
            return
        item = OWN_KINDS[kind].read(body)
        if known is None:
            # Same name, another uid: the old one was deleted and that went unseen.
            for old in [one for one in held.values() if _place(one) == _place(item)]:
                if _number(old.version) > _number(item.version):
                    return
                self._bury(kind, old.uid)
        held[uid] = item
        if known is None or msgspec.structs.replace(item, version=known.version) != known:
            self._put(item)

    def _bury(self, kind: str, uid: str) -> None:
        self._gone[uid] = None
        if len(self._gone) > 10_000:
            del self._gone[next(iter(self._gone))]
        item = self._held[kind].pop(uid, None)
        if item is not None:
            self._drop(item)

    def gone(self, kind: str, uid: str) -> None:
        """Take in that a write was answered 404."""
        self._bury(kind, uid)

    # -- the sweep ---------------------------------------------------------------------------------

    def want_sweep(self, kind: str) -> None:
        """Ask for a sweep soon: Kopf has listed again."""
        self._wanted[kind].set()

    async def sweep(self, kind: str) -> None:
        """LIST a kind; take in what is there, drop what is not."""
        listed: list[dict[str, Any]] = []
        version = ""
        for limit in (500, 0):
            listed.clear()
            try:
                async for page in self._client.pages(OWN_KINDS[kind].path, limit=limit):
                    listed.extend(msgspec.json.decode(item) for item in page.items)
                    version = page.version
                break
            except ApiError as error:
                if error.status != 410 or not limit:
                    raise
        for body in listed:
            self.feed(kind, body)
        there = {body["metadata"]["uid"] for body in listed}
        for uid, item in list(self._held[kind].items()):
            # What came in while the LIST was on its way is newer than the LIST.
            if uid not in there and _number(item.version) <= _number(version):
                self._bury(kind, uid)

    async def sweep_all(self) -> None:
        """Sweep every kind once; waits, saying so, while the CRDs are not there yet."""
        for kind in OWN_KINDS:
            said = False
            while True:
                try:
                    await self.sweep(kind)
                    break
                except ApiError as error:
                    if not said:
                        words = "its CRD is not installed yet" if error.status == 404 else str(error)
                        log.warning("cannot list %s: %s; trying again every second", kind, words)
                    said = True
                    await asyncio.sleep(1)

    async def run(self, kind: str) -> None:
        """Sweep a kind every minute and whenever it was asked for."""
        wanted = self._wanted[kind]
        while True:
            try:
                async with asyncio.timeout(SWEEP_SECONDS):
                    await wanted.wait()
                await asyncio.sleep(0.5)  # a re-list brings many events at once: one sweep for all
            except TimeoutError:
                pass
            wanted.clear()
            try:
                await self.sweep(kind)
            except ApiError as error:
                log.warning("cannot sweep %s: %s", kind, error)


def _place(item: Own) -> tuple[str, str]:
    return (item.namespace if isinstance(item, Grant) else "", item.name)


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0
