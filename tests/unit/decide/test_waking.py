"""Whoever waits is tried again by whatever frees room for it, also where no seat becomes free."""

from msgspec.structs import replace

from cluster_model.cluster import GPU, Cluster
from gpugrant.config import Settings
from gpugrant.model.node import Taint
from gpugrant.model.pod import Shape

CORDONED = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")


def one_server() -> Cluster:
    cluster = Cluster(Settings())
    cluster.add_namespace("lab", tenant="lab")
    cluster.add_quota("lab")
    cluster.add_node("n0")
    cluster.add_pool("p")
    cluster.add_grant("lab", "train", gpus=8)
    cluster.settle()
    return cluster


def test_a_taint_that_goes_after_the_cordon_makes_room() -> None:
    """The node controller takes its taint off a moment after a person uncordons."""
    cluster = one_server()
    taints = cluster.nodes["n0"].taints
    cluster.change_node("n0", unschedulable=True, taints=(*taints, CORDONED))
    pod = cluster.add_pod("lab", 8)
    cluster.settle()
    cluster.change_node("n0", unschedulable=False)
    cluster.settle()
    assert cluster.pods[pod].gates
    cluster.change_node("n0", taints=taints)
    cluster.settle()
    assert not cluster.pods[pod].gates


def test_a_server_that_offers_more_cpu_makes_room() -> None:
    cluster = one_server()
    cluster.change_node("n0", cpu_milli=500)
    pod = cluster.add_pod("lab", 8)
    cluster.settle()
    assert cluster.pods[pod].gates
    cluster.change_node("n0", cpu_milli=224_000)
    cluster.settle()
    assert not cluster.pods[pod].gates


def test_pods_without_gpus_that_go_make_room() -> None:
    cluster = one_server()
    cluster.world.set_overhead("n0", 220_000, 0)
    pod = cluster.add_pod("lab", shape=Shape(resources=((GPU, 1),), cpu_milli=10_000))
    cluster.settle()
    assert cluster.pods[pod].gates
    cluster.world.set_overhead("n0", 1_000, 0)
    cluster.settle()
    assert not cluster.pods[pod].gates


def test_a_label_that_a_pod_asks_for_makes_room() -> None:
    cluster = one_server()
    shape = Shape(resources=((GPU, 1),), selector=(("disk", "fast"),))
    pod = cluster.add_pod("lab", shape=shape)
    cluster.settle()
    node = cluster.nodes["n0"]
    cluster.put_node(replace(node, labels={**node.labels, "disk": "fast"}))
    cluster.settle()
    assert not cluster.pods[pod].gates
