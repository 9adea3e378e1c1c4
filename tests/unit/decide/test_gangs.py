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


def half_released(kind: str) -> tuple[Cluster, list[str]]:
    """A gang of three whose first member was released by an operator that was killed then, ran, and ended."""
    cluster = two_servers(bindTimeoutSeconds=60)
    gang = [cluster.add_pod("lab", 4, controller="job", gang_size="3") for _ in range(3)]
    cluster.settle()
    cluster.bind_all()
    released = cluster.pods[gang[0]]
    again = two_servers(bindTimeoutSeconds=60)
    again.now = cluster.now
    later = [again.add_pod("lab", 4, controller="job", gang_size="3") for _ in range(3)]
    first = again.pods[later[0]]
    again.put_pod(replace(
        released, uid=first.uid, name=first.name, grant_uid=first.grant_uid, created=first.created, phase=kind,
        released_at=again.now, scheduled_at=again.now, finished_at=again.now + 1))
    again.now += 2
    return again, later


def test_a_member_that_was_released_ahead_and_succeeded_does_not_keep_the_others_waiting() -> None:
    cluster, gang = half_released("Succeeded")
    cluster.settle()
    assert [bool(cluster.pods[each].gates) for each in gang[1:]] == [False, False]
    cluster.bind_all()
    cluster.now += 61
    cluster.settle()
    assert [cluster.pods[each].ended for each in gang[1:]] == [False, False], "all of the gang was bound once"


def test_a_member_that_was_released_ahead_and_failed_is_waited_for() -> None:
    cluster, gang = half_released("Failed")
    cluster.settle()
    assert [bool(cluster.pods[each].gates) for each in gang[1:]] == [True, True]
    late = cluster.add_pod("lab", 4, controller="job", gang_size="3")
    cluster.settle()
    assert [bool(cluster.pods[each].gates) for each in (*gang[1:], late)] == [False, False, False]


def test_what_succeeded_in_an_earlier_try_is_no_member_of_the_next() -> None:
    """A Job with more completions than pods at once: its next pods are a gang of their own."""
    cluster = two_servers(bindTimeoutSeconds=60)
    first = [cluster.add_pod("lab", 8, controller="job", gang_size="2") for _ in range(2)]
    cluster.settle()
    cluster.bind_all()
    cluster.now += 5
    for uid in first:
        cluster.put_pod(replace(cluster.pods[uid], phase="Succeeded", finished_at=cluster.now))
    second = cluster.add_pod("lab", 8, controller="job", gang_size="2")
    cluster.settle()
    assert cluster.pods[second].gates, "it waits for its other half"
