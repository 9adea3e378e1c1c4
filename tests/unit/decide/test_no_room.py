"""What a pod is told that its grant has enough free for, though no server: which servers, and what they have."""

import pytest

from cluster_model.cluster import Cluster
from gpugrant import names
from gpugrant.config import Settings
from gpugrant.model.node import Taint
from gpugrant.model.pod import Shape

FITS_NOT = "grant train (16 GPUs, B200) has {free} free, but not where this fits: "
PRESSED = (Taint("node.kubernetes.io/memory-pressure", "", "NoSchedule"),)


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(Settings())
    cluster.add_namespace("lab", tenant="lab")
    cluster.add_quota("lab")
    cluster.add_node("n0")
    cluster.add_node("n1")
    cluster.add_pool("p")
    cluster.add_grant("lab", "train", gpus=16)
    cluster.settle()
    return cluster


def told(cluster: Cluster, uid: str) -> str:
    """Return why a pod waits, without how much it wants and its place in line."""
    return cluster.pods[uid].waiting.partition(": ")[2].removesuffix("; it is next")


def press(cluster: Cluster, *nodes: str) -> None:
    for name in nodes:
        cluster.change_node(name, taints=(*cluster.nodes[name].taints, *PRESSED))


def test_the_room_on_the_emptiest_server_where_that_is_too_little(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.add_pod("lab", 5)
    cluster.settle()
    uid = cluster.add_pod("lab", 5)
    cluster.settle()
    assert told(cluster, uid) == FITS_NOT.format(free=6) + "at most 3 on one server"


def test_no_server_that_is_ready(cluster: Cluster) -> None:
    for name in ("n0", "n1"):
        cluster.change_node(name, ready=False)
    uid = cluster.add_pod("lab", 8)
    cluster.settle()
    assert told(cluster, uid) == FITS_NOT.format(free=16) + "none of its servers is ready"


def test_what_the_servers_with_room_have(cluster: Cluster) -> None:
    press(cluster, "n0", "n1")
    uid = cluster.add_pod("lab", 8)
    cluster.settle()
    assert told(cluster, uid) == FITS_NOT.format(free=16) + (
        "servers with 8 free have the taint node.kubernetes.io/memory-pressure (2 servers)"
    )


def test_each_of_several_causes_with_its_count(cluster: Cluster) -> None:
    most = cluster.nodes["n0"].memory - (1 << 30)
    greedy = cluster.add_pod("lab", shape=Shape(resources=((names.DEFAULT_RESOURCE, 1),), memory=most))
    cluster.settle()
    taken = dict(cluster.pods[greedy].shape.selector)[names.HOSTNAME_LABEL]
    press(cluster, *({"n0", "n1"} - {taken}))
    uid = cluster.add_pod("lab", shape=Shape(resources=((names.DEFAULT_RESOURCE, 2),), memory=2 << 30))
    cluster.settle()
    assert told(cluster, uid) == FITS_NOT.format(free=15) + (
        "servers with 2 free have the taint node.kubernetes.io/memory-pressure (1 server) "
        "or too little memory left (1 server)"
    )


def test_how_much_of_a_gang_has_room(cluster: Cluster) -> None:
    press(cluster, "n1")
    gang = [cluster.add_pod("lab", 8, gang="g", gang_size="2") for _ in range(2)]
    cluster.settle()
    assert told(cluster, gang[0]) == FITS_NOT.format(free=16) + (
        "room for 1 of 2 pods; servers with 8 free have the taint node.kubernetes.io/memory-pressure (1 server)"
    )
