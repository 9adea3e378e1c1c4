"""What a person sees of a running dev cluster: pools, grants, tenants' use, what waits and why."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from devcluster.client import JsonObject, KubeClient, path_of
from devcluster.promises import condition

_API = "gpugrant.io/v1alpha1"
_WAITING = "gpugrant.io/waiting"


async def show(console: Console, client: KubeClient) -> None:
    """Print all of it, read from the API as anybody could."""
    console.print(_pools(await client.list(path_of(_API, "GpuPool"))))
    grants = await client.list(path_of(_API, "GpuGrant"))
    console.print(_grants(grants))
    console.print(_tenants(await client.list(path_of(_API, "TenantQuota"))))
    console.print(_waiting(grants, await client.list("/api/v1/pods", labelSelector="gpugrant.io/gpu=true")))


def new_table(title: str, *columns: str) -> Table:
    """Return an empty table; columns of numbers are named with ``>`` before their name."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False,
                  padding=(0, 2, 0, 0))
    for column in columns:
        numbers = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if numbers else "left", overflow="fold",
                         no_wrap=numbers, header_style="dim")
    return table


def _pools(pools: Iterable[JsonObject]) -> Table:
    table = new_table("\nPools and their shares, in GPUs", "pool", "programme", "provider", "GPU", ">GPUs",
                   ">public held/granted/promised", ">own use held/size", ">failed", "status")
    for pool in pools:
        spec, status = pool["spec"], pool.get("status", {})
        summary, gpus = status.get("summary", {}), status.get("gpus", {})
        table.add_row(
            pool["metadata"]["name"], spec.get("programme", "default"), spec["provider"], spec["gpuType"],
            str(gpus.get("installed", "")), summary.get("public", ""), summary.get("ownUse", ""),
            str(gpus.get("failed", "")), condition(pool, "Ready").get("reason", ""))
    return table


def _grants(grants: Iterable[JsonObject]) -> Table:
    table = new_table("\nGrants: state and place", "namespace", "grant", "GPU", ">GPUs", "state", ">held", "last day",
                   "place")
    for grant in grants:
        spec, status = grant["spec"], grant.get("status", {})
        place = status.get("allocation", {})
        servers = place.get("servers") or []
        where = f"{place.get('fabric') or place.get('pool', '')}: {_range(servers)}" if place else ""
        table.add_row(
            grant["metadata"]["namespace"], grant["metadata"]["name"], spec["gpuType"], str(spec["gpus"]),
            condition(grant, "Ready").get("reason", ""), str(status.get("usage", {}).get("held", 0)),
            status.get("summary", {}).get("lastDay", ""), where)
    return table


def _range(servers: list[str]) -> str:
    if len(servers) <= 2:
        return ", ".join(servers)
    return f"{servers[0]} … {servers[-1]} ({len(servers)} servers)"


def _tenants(quotas: Iterable[JsonObject]) -> Table:
    table = new_table("\nTenants' use, in GPUs", "tenant", "name", "track", ">held/granted/limit", "namespaces")
    for quota in quotas:
        spec, status = quota["spec"], quota.get("status", {})
        table.add_row(quota["metadata"]["name"], spec.get("displayName", ""), spec.get("track", ""),
                      status.get("summary", {}).get("gpus", ""), ", ".join(status.get("namespaces") or []))
    return table


def _waiting(grants: Iterable[JsonObject], pods: Iterable[JsonObject]) -> Table:
    table = new_table("\nWhat waits or was refused, and why", "what", "why")
    for grant in grants:
        name = f"grant {grant['metadata']['namespace']}/{grant['metadata']['name']}"
        why = grant.get("status", {}).get("summary", {}).get("why", "")
        if condition(grant, "Ready").get("status") != "True" or why:
            table.add_row(name, why or condition(grant, "Ready").get("message", ""))
    for pod in pods:
        why = pod["metadata"].get("annotations", {}).get(_WAITING)
        if why and not pod["spec"].get("nodeName"):
            table.add_row(f"pod {pod['metadata']['namespace']}/{pod['metadata']['name']}", why)
    return table
