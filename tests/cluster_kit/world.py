"""Builders on a real cluster that other tests use too: unique names, and gone after the test."""

import itertools
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from devcluster.client import JsonObject, KubeClient
from devcluster.fleet import a_server

_NUMBERS = itertools.count(1)


@dataclass
class World:
    """The platform engineer's hands in one test."""

    admin: KubeClient
    _made: list[str] = field(default_factory=list)
    _clients: AsyncExitStack = field(default_factory=AsyncExitStack)

    def name(self, stem: str = "t") -> str:
        """Return a name nobody else uses."""
        return f"{stem}-{os.getpid()}-{next(_NUMBERS)}"

    async def make(self, manifest: JsonObject) -> JsonObject:
        """Create an object and remember to remove it. Returns it as the API server keeps it."""
        from devcluster.client import object_path

        made = await self.admin.create(manifest)
        self._made.append(object_path(manifest))
        return made

    # -- namespaces ----------------------------------------------------------------------------------

    async def tenant_namespace(self, tenant: str | None = None, pod_security: str | None = "baseline",
                               **labels: str) -> str:
        """Make a tenant's namespace; the tenant is named as the namespace where none is given."""
        name = self.name("tenant")
        marks = {"gpugrant.io/tenant": tenant or name, **labels}
        if pod_security:
            marks["pod-security.kubernetes.io/enforce"] = pod_security
        return await self._namespace(name, marks)

    async def provider_namespace(self, provider: str) -> str:
        """Make a namespace of a provider's own."""
        return await self._namespace(self.name("provider"), {"gpugrant.io/provider": provider})

    async def plain_namespace(self, **labels: str) -> str:
        """Make a namespace that nobody has labelled as a tenant's or a provider's."""
        return await self._namespace(self.name("plain"), labels)

    async def _namespace(self, name: str, labels: dict[str, str]) -> str:
        await self.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        # Pods are refused until the controller has made this account.
        await self.admin.wait_for(f"/api/v1/namespaces/{name}/serviceaccounts/default", lambda seen: seen is not None)
        return name

    # -- users ---------------------------------------------------------------------------------------

    async def user(self, namespace: str, role: str = "edit") -> KubeClient:
        """Return a client of a person with ``role`` (edit, view, admin) in one namespace and nowhere else."""
        name = self.name("user")
        await self.make({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        })
        return await self._clients.enter_async_context(self.admin.as_user(name))

    async def service_account(self, namespace: str, name: str) -> KubeClient:
        """Return a client that acts as a service account (which need not exist)."""
        return await self._clients.enter_async_context(self.admin.as_service_account(namespace, name))

    # -- servers -------------------------------------------------------------------------------------

    async def server(self, provider: str = "test-cloud", product: str = "NVIDIA-B200", fabric: str | None = None,
                     *, gpus: int = 8, resource: str = "nvidia.com/gpu", **labels: str) -> str:
        """Make a server (kwok plays its kubelet); return its name."""
        name = self.name("server")
        manifest = a_server(name, provider=provider, product=product, fabric=fabric, gpus=gpus, resource=resource)
        manifest["metadata"]["labels"].update(labels)
        await self.make(manifest)
        return name

    # -- the end -------------------------------------------------------------------------------------

    async def clean_up(self) -> None:
        """Remove what was made, the last first."""
        await self._clients.aclose()
        for path in reversed(self._made):
            await self.admin.delete(path, missing_ok=True)
