"""Faults of servers, played by kwok's Stages (stages/node.yaml) and by taking its hand off a server."""

from devcluster.client import KubeClient, Refused

_NODE = "dev.gpugrant.io/node"
_UNHEALTHY = "dev.gpugrant.io/unhealthy"
_HOLDER = "dev.gpugrant.io/lease-holder"
_FROZEN = "dev.gpugrant.io/frozen"
_MARKED = "dev.gpugrant.io/marked"
_NOBODY = "a kubelet that fell silent"


def _ready(node: dict[str, object] | None) -> str:
    status = (node or {}).get("status") or {}
    assert isinstance(status, dict)
    return next((each["status"] for each in status.get("conditions") or () if each["type"] == "Ready"), "")


async def lose_server(client: KubeClient, server: str) -> None:
    """Make a server's kubelet fall silent: Ready turns Unknown, and its pods stay as they are, deleted or not."""
    lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{server}"
    node = f"/api/v1/nodes/{server}"
    await client.wait_for(lease, lambda seen: seen is not None)
    await client.patch(node, {"metadata": {"annotations": {_NODE: "lost"}}})
    await client.wait_for(node, lambda seen: _ready(seen) == "Unknown")
    # Pods that come later stay untouched too: kwok plays only those of servers whose lease it holds.
    holder = (await client.get(lease))["spec"]["holderIdentity"]
    await client.patch(node, {"metadata": {"annotations": {_HOLDER: holder}}})
    await client.patch(lease, {"spec": {"holderIdentity": _NOBODY, "renewTime": "2999-01-01T00:00:00.000000Z"}})
    # kwok notices the lease a little later, and by another watch; a pod's own mark comes before any later change of it.
    await _mark_pods(client, server, "true")


async def bring_server_back(client: KubeClient, server: str) -> None:
    """Let a lost server's kubelet speak again: Ready turns True, and it does what was asked of it meanwhile."""
    lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{server}"
    node = f"/api/v1/nodes/{server}"
    holder = (await client.get(node))["metadata"]["annotations"][_HOLDER]
    await client.patch(lease, {"spec": {"holderIdentity": holder, "renewTime": "2000-01-01T00:00:00.000000Z"}})
    await client.patch(node, {"metadata": {"annotations": {_NODE: None, _HOLDER: None}}})
    await client.wait_for(node, lambda seen: _ready(seen) == "True")
    # kwok looks at a pod when it changes; what changed while it looked away must change once more.
    await _mark_pods(client, server, None)


async def _mark_pods(client: KubeClient, server: str, frozen: str | None) -> None:
    for pod in await client.list("/api/v1/pods", fieldSelector=f"spec.nodeName={server}"):
        meta = pod["metadata"]
        try:
            await client.patch(
                f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}",
                {"metadata": {"annotations": {_FROZEN: frozen, _MARKED: meta["resourceVersion"]}}})
        except Refused as refused:
            if refused.status != 404:
                raise


async def set_unhealthy(client: KubeClient, server: str, seats: int) -> None:
    """Let the device plugin call ``seats`` seats unhealthy: they leave allocatable, capacity stays. 0 heals."""
    await client.patch(f"/api/v1/nodes/{server}",
                       {"metadata": {"annotations": {_UNHEALTHY: str(seats) if seats else None}}})
