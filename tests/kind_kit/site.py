"""Pools, tenants and pods whose containers really run."""

import json
from typing import Any

from cluster_kit.pods import pod_path
from cluster_kit.site import Pool, Site, Tenant
from devcluster.client import JsonObject, KubeClient
from gpugrant import names
from kind.cluster import KindCluster
from kind_kit.servers import GPU, PROVIDER, Servers

# What a tenant's container does: says which devices it sees, and works for a while, or until it is told to go.
_WORK = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0) if sys.argv[2] == "mannerly" else None)
print(json.dumps({key: value for key, value in os.environ.items() if "NVIDIA" in key or "CUDA" in key}), flush=True)
deadline = time.monotonic() + float(sys.argv[1])
while time.monotonic() < deadline:
    time.sleep(0.1)
"""


class KindSite(Site):
    """The platform engineer's hands on a kind cluster whose workers are GPU servers."""

    def __init__(self, admin: KubeClient, cluster: KindCluster, servers: Servers, image: str) -> None:
        super().__init__(admin)
        self.cluster = cluster
        self.servers = servers
        self.image = image

    async def workers(self, programme: str = "purchase", **spec: Any) -> Pool:
        """Make the pool of all workers."""
        name = self.name("pool")
        await self.make({
            "apiVersion": names.API_VERSION, "kind": "GpuPool", "metadata": {"name": name},
            "spec": {"programme": programme, "provider": PROVIDER, "gpuType": "NVIDIA-B200", **spec},
        })
        pool = Pool(name, programme, PROVIDER, "NVIDIA-B200", tuple(self.servers.all))
        await self.admin.wait_for(
            pool.path, lambda seen: (seen or {}).get("status", {}).get("servers") == len(self.servers.all), 60)
        return pool

    def work(self, gpus: int | None, seconds: float, *, mannerly: bool = True, **more: Any) -> JsonObject:
        """Return the spec of a pod that works so long on so many GPUs."""
        container: JsonObject = {
            "name": "main", "image": self.image, "imagePullPolicy": "Never",
            "command": ["python3", "-c", _WORK, str(seconds), "mannerly" if mannerly else "deaf"], **more}
        if gpus is not None:
            container["resources"] = {"limits": {GPU: str(gpus)}}
        return {"containers": [container], "restartPolicy": "Never"}

    async def runs(self, tenant: Tenant, gpus: int | None, seconds: float = 3600, *, mannerly: bool = True,
                   container: JsonObject | None = None, annotations: dict[str, str] | None = None,
                   **spec: Any) -> str:
        """Create a pod that works; return its path."""
        manifest: JsonObject = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name("pod"), "namespace": tenant.namespace, "annotations": annotations or {}},
            "spec": {**self.work(gpus, seconds, mannerly=mannerly, **(container or {})), **spec},
        }
        await self.admin.create(manifest)
        return pod_path(manifest)

    def sees(self, path: str) -> dict[str, str]:
        """Return what a pod's container said of the devices in its environment."""
        return dict(json.loads(self.cluster.kubectl("get", "--raw", f"{path}/log").splitlines()[0]))
