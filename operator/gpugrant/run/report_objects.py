"""UsageReport objects: watched, made where they are missing, and their statuses written."""

import asyncio
import logging
from typing import Any, Final

import msgspec
from msgspec import Struct
from prometheus_client import CollectorRegistry

from gpugrant import names
from gpugrant.act.events import About
from gpugrant.act.patches import merge
from gpugrant.api.report import UsageReport
from gpugrant.decide.statuses import Doc
from gpugrant.observe.cache import Cache, Kind, Receiver
from gpugrant.observe.client import MERGE_PATCH, Client
from gpugrant.observe.health import CacheHealth, CacheMetrics

log = logging.getLogger(__name__)

KIND: Final = UsageReport.about.kind
PATH: Final = f"/apis/{names.API_VERSION}/{UsageReport.about.plural}"


class Report(Struct, frozen=True):
    """A UsageReport as it is known now."""

    name: str
    uid: str
    version: str
    generation: int
    programme: str
    provider: str
    acknowledged_by: str
    status: Doc

    @property
    def about(self) -> About:
        """Return how Events name it."""
        return About(KIND, "", self.name, self.uid, names.API_VERSION)


class _Meta(Struct, rename={"version": "resourceVersion"}):
    name: str
    uid: str
    version: str = ""
    generation: int = 1


class _Spec(Struct, rename="camel"):
    programme: str = ""
    provider: str = ""
    acknowledged_by: str = ""


class _Body(Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Body).decode


def project(body: bytes | msgspec.Raw) -> Report:
    """Return the Report of a UsageReport object."""
    it = _decode(body)
    meta, spec = it.metadata, it.spec
    return Report(
        meta.name,
        meta.uid,
        meta.version,
        meta.generation,
        spec.programme,
        spec.provider,
        spec.acknowledged_by,
        it.status or {},
    )


class Reports:
    """All UsageReports, kept true by ``run``; ``changed`` is set whenever one is another than before."""

    def __init__(self, client: Client) -> None:
        self.changed = asyncio.Event()
        self._client = client
        # A registry of its own: that this kind is not installed is no reason to call the process unhealthy.
        health = CacheHealth(KIND, CacheMetrics(CollectorRegistry()))
        kind: Kind[Report] = Kind(KIND, PATH, project, lambda meta: meta.name)
        receiver: Receiver[Report] = Receiver(lambda _: self.changed.set(), lambda *_: self.changed.set())
        self._cache = Cache(client, kind, receiver, health)

    async def run(self) -> None:
        """Watch, for ever."""
        await self._cache.run()

    @property
    def are_known(self) -> bool:
        """Say whether all that there are have been seen once."""
        return self._cache.synced.is_set()

    def get(self, name: str) -> Report | None:
        """Return a report's object as it is known now."""
        return self._cache.get(name)

    async def create(self, name: str, spec: dict[str, str]) -> Report:
        """Make an object; return it. Raises ApiError, 409 where it is there and has not been seen yet."""
        body = {"apiVersion": names.API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
        return project(await self._client.post(PATH, msgspec.json.encode(body)))

    async def write_status(self, report: Report, status: Doc) -> bool:
        """Write a status over the known one; say whether that changes anything. Raises ApiError, 409 if stale."""
        difference = merge(report.status, status)
        if not difference:
            return False
        meta = {"uid": report.uid, "resourceVersion": report.version}
        body = msgspec.json.encode({"metadata": meta, "status": difference})
        answer = await self._client.patch(f"{PATH}/{report.name}/status", body, MERGE_PATCH)
        self._cache.feed(answer)
        return True
