"""Pools, tenants, grants and their pods on a real cluster where the operator runs."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster_kit.pods import a_pod, condition, pod_path
from cluster_kit.world import World
from devcluster.client import JsonObject, Refused, path_of
from gpugrant import names

B200 = "NVIDIA-B200"


@dataclass(frozen=True)
class Pool:
    """A pool of one test: its own provider and programme, so that tests do not meet."""

    name: str
    programme: str
    provider: str
    gpu_type: str
    servers: tuple[str, ...]

    @property
    def path(self) -> str:
        """Where it is."""
        return path_of(names.API_VERSION, "GpuPool", None, self.name)


@dataclass(frozen=True)
class Tenant:
    """A tenant with one namespace of the same name."""

    name: str

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.name

    @property
    def quota_path(self) -> str:
        """Where its quota is."""
        return path_of(names.API_VERSION, "TenantQuota", None, self.name)


@dataclass(frozen=True)
class Grant:
    """A grant as its manifest names it."""

    namespace: str
    name: str
    uid: str

    @property
    def path(self) -> str:
        """Where it is."""
        return path_of(names.API_VERSION, "GpuGrant", self.namespace, self.name)


def at(seconds: float) -> str:
    """Return the instant so many seconds from now, as a term gives it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(stamp: str) -> int:
    """Return a timestamp in epoch seconds."""
    return int(datetime.fromisoformat(stamp).timestamp())


def gates(pod: JsonObject) -> list[str]:
    """Return a pod's gates."""
    return [each["name"] for each in pod["spec"].get("schedulingGates", ())]


def waiting(pod: JsonObject | None) -> str:
    """Return what a pod was told about its waiting."""
    return str(((pod or {}).get("metadata", {}).get("annotations") or {}).get(names.WAITING_ANNOTATION, ""))


def is_bound(pod: JsonObject | None) -> bool:
    """Say whether a pod is bound to a server."""
    return bool(pod and pod["spec"].get("nodeName"))


def is_running(pod: JsonObject | None) -> bool:
    """Say whether a pod's containers run."""
    return bool(pod and pod.get("status", {}).get("phase") == "Running")


def reason(found: JsonObject | None, kind: str) -> str:
    """Return the reason of a condition, '' where there is none."""
    return str(condition(found, kind).get("reason", ""))


class Site(World):
    """The platform engineer's hands where the operator runs."""

    # -- pools ---------------------------------------------------------------------------------------

    async def pool(self, fabrics: Iterable[int] = (2,), *, provider: str | None = None, programme: str | None = None,
                   gpu_type: str = B200, wait: bool = True, **spec: Any) -> Pool:
        """Make servers in fabrics of these sizes, and their pool; wait until they carry its label."""
        provider = provider or self.name("cloud")
        programme = programme or provider
        made = [
            await self.server(provider, gpu_type, f"{provider}-f{number}")
            for number, size in enumerate(fabrics, 1) for _ in range(size)
        ]
        name = self.name("pool")
        await self.make({
            "apiVersion": names.API_VERSION, "kind": "GpuPool", "metadata": {"name": name},
            "spec": {"programme": programme, "provider": provider, "gpuType": gpu_type, **spec},
        })
        pool = Pool(name, programme, provider, gpu_type, tuple(made))
        if wait:
            await self.admin.wait_for(
                pool.path, lambda seen: (seen or {}).get("status", {}).get("servers") == len(made))
            for server in made:
                await self.node(server, lambda node: node["metadata"]["labels"].get(names.POOL_LABEL) == name)
        return pool

    async def node(self, name: str, holds: Callable[[JsonObject], bool], seconds: float = 30) -> JsonObject:
        """Wait until ``holds`` is true of a server."""
        return await self.admin.wait_for(f"/api/v1/nodes/{name}", lambda seen: bool(seen and holds(seen)), seconds)

    # -- tenants -------------------------------------------------------------------------------------

    async def tenant(self, pool: Pool | None = None, gpus: int = 10_000, share: str = "Public", **spec: Any) -> Tenant:
        """Make a tenant's namespace and its quota."""
        namespace = await self.tenant_namespace()
        limits = []
        if pool is not None:
            limits.append({"programme": pool.programme, "gpuType": pool.gpu_type, "share": share, "gpus": gpus})
        await self.make({"apiVersion": names.API_VERSION, "kind": "TenantQuota", "metadata": {"name": namespace},
                         "spec": {"limits": limits, **spec}})
        return Tenant(namespace)

    # -- grants --------------------------------------------------------------------------------------

    async def grant(self, tenant: Tenant, pool: Pool, gpus: int, *, start: str | None = None, end: str | None = None,
                    grace: int | None = None, wait: str | None = "Active", name: str | None = None,
                    **spec: Any) -> Grant:
        """Make a grant that runs from a minute ago for a day; wait until Ready has the reason ``wait``."""
        term: JsonObject = {"start": start or at(-60), "end": end or at(86_400)}
        if grace is not None:
            term["graceSeconds"] = grace
        made = await self.make({
            "apiVersion": names.API_VERSION, "kind": "GpuGrant",
            "metadata": {"name": name or self.name("grant"), "namespace": tenant.namespace},
            "spec": {"programme": pool.programme, "gpuType": pool.gpu_type, "gpus": gpus, "term": term, **spec},
        })
        grant = Grant(tenant.namespace, made["metadata"]["name"], made["metadata"]["uid"])
        if wait:
            await self.ready(grant, wait)
        return grant

    async def ready(self, grant: Grant, wanted: str, seconds: float = 30) -> JsonObject:
        """Wait until a grant's state word is ``wanted``."""
        return await self.admin.wait_for(grant.path, lambda seen: reason(seen, "Ready") == wanted, seconds)

    async def told(self, grant: Grant, kind: str, wanted: str, seconds: float = 30) -> JsonObject:
        """Wait until a condition of a grant has the reason ``wanted``; return the condition."""
        seen = await self.admin.wait_for(grant.path, lambda found: reason(found, kind) == wanted, seconds)
        return condition(seen, kind)

    async def change(self, grant: Grant, **spec: Any) -> None:
        """Change a grant's spec."""
        await self.admin.patch(grant.path, {"spec": spec})

    # -- pods ----------------------------------------------------------------------------------------

    async def pod(self, tenant: Tenant | str, gpus: int | None = 1, *, name: str | None = None,
                  run_seconds: int | None = None, grant: Grant | None = None, **rest: Any) -> str:
        """Create a pod as a tenant does; return its path. It goes with its namespace."""
        namespace = tenant if isinstance(tenant, str) else tenant.namespace
        annotations = dict(rest.pop("annotations", {}))
        labels = dict(rest.pop("labels", {}))
        if run_seconds is not None:
            annotations[names.RUN_SECONDS_ANNOTATION] = str(run_seconds)
        if grant is not None:
            labels[names.GRANT_LABEL] = grant.name
        manifest = a_pod(name or self.name("pod"), namespace, gpus, annotations=annotations, labels=labels, **rest)
        await self.admin.create(manifest)
        return pod_path(manifest)

    async def gang(self, tenant: Tenant, gpus: int, size: int, *, members: int | None = None, name: str | None = None,
                   **rest: Any) -> list[str]:
        """Create the pods of a gang; with ``members`` not all of them."""
        marks = {names.GANG_ANNOTATION: name or self.name("gang"), names.GANG_SIZE_ANNOTATION: str(size)}
        count = size if members is None else members
        return [await self.pod(tenant, gpus, annotations=marks, **rest) for _ in range(count)]

    async def running(self, *paths: str, seconds: float = 30) -> list[JsonObject]:
        """Wait until these pods run."""
        return list(await asyncio.gather(*(self.admin.wait_for(path, is_running, seconds) for path in paths)))

    async def told_to_wait(self, path: str, words: str = "", seconds: float = 30) -> str:
        """Wait until a pod carries a reason that holds ``words``; return all of it. The gate must be on."""
        seen = await self.admin.wait_for(path, lambda pod: words in waiting(pod) and waiting(pod) != "", seconds)
        assert gates(seen) == [names.GATE]
        return waiting(seen)

    async def events(self, path: str, reason: str) -> list[JsonObject]:
        """Return the Events of one reason about the object at ``path``."""
        namespace, name = path.split("/")[-3], path.rpartition("/")[2]
        return await self.admin.list(
            f"/api/v1/namespaces/{namespace}/events", fieldSelector=f"involvedObject.name={name},reason={reason}")

    async def event(self, path: str, reason: str, seconds: float = 30) -> JsonObject:
        """Wait for an Event of one reason about the object at ``path``."""
        namespace, name = path.split("/")[-3], path.rpartition("/")[2]
        async with asyncio.timeout(seconds):
            async for kind, seen in self.admin.watch(
                f"/api/v1/namespaces/{namespace}/events",
                fieldSelector=f"involvedObject.name={name},reason={reason}",
            ):
                if kind != "DELETED":
                    return seen
        raise AssertionError("the watch ended")

    # -- the end -------------------------------------------------------------------------------------

    async def clean_up(self) -> None:
        """Let namespaces go first, and servers only once their pods are gone: they would be PodGC's for a minute."""
        namespaces = [path for path in self._made if path.rpartition("/")[0] == "/api/v1/namespaces"]
        for path in namespaces:
            await self.admin.delete(path, missing_ok=True)
        for path in namespaces:
            for pod in await self.admin.list(f"{path}/pods"):
                try:
                    await self.admin.delete(pod_path(pod), 0, missing_ok=True)
                except Refused as refused:
                    if refused.status != 409:
                        raise
            for pod in await self.admin.list(f"{path}/pods"):
                await self.admin.wait_gone(pod_path(pod), 60)
        await super().clean_up()
