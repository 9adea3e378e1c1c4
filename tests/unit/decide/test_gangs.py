"""Gangs run whole or not at all, whatever others say and whatever ran before."""

from msgspec.structs import replace

from cluster_model.cluster import Cluster
from gpugrant.config import Settings


def two_servers(**settings: object) -> Cluster:
    cluster = Cluster(Settings.model_validate(settings))
    cluster.add_namespace("lab", tenant="lab")
    cluster.add_quota("lab")
    cluster.add_node("n0")
    cluster.add_node("n1")
    cluster.add_pool("p")
    cluster.add_grant("lab", "train", gpus=16)
    cluster.settle()
    return cluster


def test_pods_that_say_another_size_are_another_gang() -> None:
    cluster = two_servers()
    liar = cluster.add_pod("lab", 1, gang="pretrain", gang_size="50000")
    honest = [cluster.add_pod("lab", 8, gang="pretrain", gang_size="2") for _ in range(2)]
    cluster.settle()
    assert [bool(cluster.pods[each].gates) for each in (liar, *honest)] == [True, False, False]


def test_a_gang_that_failed_and_comes_again_is_taken_back_whole() -> None:
    """Pods that failed by themselves stay as objects; they are no members of the next try."""
    cluster = two_servers(bindTimeoutSeconds=60)
    first = [cluster.add_pod("lab", 8, controller="job", gang_size="2") for _ in range(2)]
    cluster.settle()
    cluster.bind_all()
    cluster.settle()
    for uid in first:
        cluster.put_pod(replace(cluster.pods[uid], phase="Failed", finished_at=cluster.now))
    second = [cluster.add_pod("lab", 8, controller="job", gang_size="2") for _ in range(2)]
    cluster.settle()
    assert cluster.bind(second[0])
    cluster.now += 61
    cluster.settle()
    assert cluster.pods[second[0]].ended, "its other half was never bound"
