"""What the walls alone cannot show: with the operator beside them, who runs where, who waits and why."""

from cluster_kit.site import Site, gates
from gpugrant import names


async def test_a_tenants_pod_is_released_onto_its_grants_server(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    path = await site.pod(tenant, 4)
    [pod] = await site.running(path)
    assert gates(pod) == []
    assert pod["metadata"]["labels"][names.GRANT_LABEL] == grant.name
    assert pod["metadata"]["finalizers"] == [names.FINALIZER]
    [server] = (await site.admin.get(grant.path))["status"]["allocation"]["servers"]
    assert pod["spec"]["nodeName"] == server
