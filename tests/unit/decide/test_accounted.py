"""Whose a pod's seats are, where its marks are not the operator's: gpugrant was taken out, and is back."""

from msgspec.structs import replace

from cluster_model.cluster import Cluster
from gpugrant.config import Settings
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod


def two_tenants() -> tuple[Cluster, str, str]:
    """Return a cluster in which lab and rival have a server each, and the uids of their grants."""
    cluster = Cluster(Settings())
    for tenant in ("lab", "rival"):
        cluster.add_namespace(tenant, tenant=tenant)
        cluster.add_quota(tenant)
    cluster.add_namespace("lab-too", tenant="lab")
    cluster.add_node("n0")
    cluster.add_node("n1")
    cluster.add_pool("p")
    grants = [cluster.add_grant(tenant, "train", gpus=8) for tenant in ("lab", "rival")]
    cluster.settle()
    return cluster, grants[0], grants[1]


def running(cluster: Cluster, namespace: str, **fields: str) -> str:
    """Put a pod that runs, and never went through the gate; return its uid."""
    uid = cluster.add_pod(namespace, 3)
    pod = cluster.pods[uid]
    cluster.drop_pod(uid)
    cluster.put_pod(replace(pod, gates=(), node="n1", phase="Running", scheduled_at=cluster.now, **fields))
    return uid


def test_a_pod_that_is_marked_with_a_grant_of_another_tenant_takes_nothing_of_it() -> None:
    cluster, _, theirs = two_tenants()
    forged = running(cluster, "lab", grant="train", grant_uid=theirs)
    assert cluster.world.usage[theirs].held == 0
    assert cluster.world.entries[forged].grant == ""


def test_a_pod_may_be_on_a_grant_in_another_namespace_of_its_tenant() -> None:
    cluster, own, _ = two_tenants()
    running(cluster, "lab-too", grant="train", grant_uid=own)
    assert cluster.world.usage[own].held == 3


def test_a_pod_that_is_counted_stays_so_when_its_namespace_becomes_another_tenants() -> None:
    cluster, own, _ = two_tenants()
    uid = running(cluster, "lab-too", grant="train", grant_uid=own)
    cluster.add_namespace("lab-too", tenant="rival")
    cluster.put_pod(replace(cluster.pods[uid], finalizers=1))
    assert cluster.world.usage[own].held == 3


def test_a_forged_pod_that_is_seen_before_the_grant_is_found_out_when_all_was_seen() -> None:
    cluster, _, theirs = two_tenants()
    running(cluster, "lab", grant="train", grant_uid=theirs)
    world = World(cluster.settings)
    parts = cluster.snapshot()
    pods: list[Pod] = list(parts.pods.values())
    for pod in pods:
        world.put_pod(pod)
    world = _with_the_rest(world, cluster)
    assert [pod.uid for pod in world.account_anew()] == [pod.uid for pod in pods]
    assert world.usage[theirs].held == 0


def _with_the_rest(world: World, cluster: Cluster) -> World:
    for namespace in cluster.namespaces.values():
        world.put_namespace(namespace)
    for pool in cluster.pools.values():
        world.put_pool(pool)
    for node in cluster.nodes.values():
        world.put_node(node)
    for grant in cluster.grants.values():
        world.put_grant(grant)
    return world


def test_a_pod_that_the_ledger_has_on_a_grant_is_on_it_though_its_marks_are_gone() -> None:
    cluster, own, theirs = two_tenants()
    ran_on = running(cluster, "lab")
    forged = running(cluster, "rival", grant="train", grant_uid=theirs)
    assert cluster.world.usage[own].held == 0
    cluster.world.take_booked({ran_on: ("train", own), forged: ("", "")})
    assert cluster.world.usage[own].held == 3
    assert cluster.world.usage[theirs].held == 0
    cluster.end_pod(ran_on)
    assert cluster.world.usage[own].held == 0
