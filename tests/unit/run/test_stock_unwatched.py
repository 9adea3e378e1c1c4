"""What the ledger is told of what changed while nobody watched, and of servers that left every pool."""

import pytest
from msgspec.structs import replace

from cluster_model.cluster import GPU
from gpugrant.meter.facts import (
    Aspect,
    Health,
    Named,
    Placed,
    Unwell,
)
from unit.run.metered import Metered, a_cluster, of


@pytest.fixture
def cluster() -> Metered:
    return a_cluster()


def test_what_changed_while_nobody_watched_is_doubted_so_long(cluster: Metered) -> None:
    cluster.kept = cluster.news()
    left = cluster.now
    cluster.restart()
    cluster.now += 300
    # All this was there at the first look of the next process.
    cluster.world.put_node(replace(cluster.nodes["n0"], ready_since=left + 200))  # lost, and back since
    cluster.world.put_node(replace(cluster.nodes["n1"], allocatable=((GPU, 5),)))
    cluster.world.put_node(replace(cluster.nodes["n2"], ready=False, ready_since=left + 100))
    cluster.plan()
    facts = {(one.server, one.aspect, one.since, one.value) for one in of(Health, cluster.news())}
    assert facts == {
        ("n0", Aspect.DOUBTED, left, 8),
        ("n0", Aspect.DOUBTED, left + 200, 0),
        ("n1", Aspect.OFFERED, cluster.now, 5),
        ("n1", Aspect.DOUBTED, left, 3),
        ("n1", Aspect.DOUBTED, cluster.now, 0),
        ("n2", Aspect.DOUBTED, left, 8),
        ("n2", Aspect.DOUBTED, left + 100, 0),
        ("n2", Aspect.READY, left + 100, 0),
    }


def test_a_server_that_was_lost_may_have_been_back_while_nobody_watched(cluster: Metered) -> None:
    for name in ("n0", "n1", "n2"):
        cluster.change_node(name, ready=False, ready_since=cluster.now)
    cluster.kept = cluster.news()
    cluster.now += 10
    left = cluster.now
    cluster.restart()
    cluster.now += 300
    cluster.world.put_node(replace(cluster.nodes["n0"], ready=True, ready_since=left + 200))
    cluster.world.put_node(replace(cluster.nodes["n1"], ready_since=left + 100))  # it was back in between
    cluster.plan()
    facts = {(one.server, one.aspect, one.since, one.value) for one in of(Health, cluster.news())}
    assert facts == {
        ("n0", Aspect.READY, left, 1),
        ("n0", Aspect.DOUBTED, left, 8),
        ("n0", Aspect.DOUBTED, left + 200, 0),
        ("n1", Aspect.READY, left, 1),
        ("n1", Aspect.READY, left + 100, 0),
        ("n1", Aspect.DOUBTED, left, 8),
        ("n1", Aspect.DOUBTED, left + 100, 0),
    }


def left_its_pool(cluster: Metered) -> str:
    """Return the pod that runs on n0, which somebody relabelled out of every pool."""
    cluster.add_grant("acme", "train", gpus=16, programme="purchase")
    pod = cluster.add_pod("acme", gpus=8)
    cluster.settle()
    cluster.bind_all()
    cluster.settle()
    server = cluster.pods[pod].node
    cluster.now += 10
    labels = {
        key: value for key, value in cluster.nodes[server].labels.items() if key != "gpugrant.io/provider"
    }
    cluster.change_node(server, labels=labels)
    cluster.settle()
    assert not cluster.world.servers[server].pool
    cluster.kept += cluster.news()
    return server


def test_a_server_that_left_its_pool_is_watched_on_for_what_it_holds(cluster: Metered) -> None:
    server = left_its_pool(cluster)
    cluster.now += 10
    cluster.change_node(server, ready=False, ready_since=cluster.now - 3)
    cluster.now += 10
    cluster.change_node(server, ready=True, ready_since=cluster.now - 1)
    cluster.change_node(server, unschedulable=True)
    cluster.now += 10
    cluster.drop_node(server)
    told = [(one.aspect, one.since - cluster.now, one.value) for one in of(Health, cluster.news())]
    assert told == [
        (Aspect.READY, -23, 0),
        (Aspect.READY, -11, 1),
        (Aspect.CORDONED, -10, 1),
        (Aspect.PRESENT, 0, 0),
    ]


def test_what_happened_unwatched_to_a_server_of_no_pool_is_told_at_the_next_look(cluster: Metered) -> None:
    server = left_its_pool(cluster)
    cluster.now += 10
    left = cluster.now
    cluster.restart()
    cluster.now += 300
    cluster.world.put_node(replace(cluster.nodes[server], ready=False, ready_since=left + 50))
    cluster.plan()
    assert {(one.aspect, one.since, one.value) for one in of(Health, cluster.news())} == {
        (Aspect.READY, left + 50, 0),
        (Aspect.DOUBTED, left, 1),
        (Aspect.DOUBTED, left + 50, 0),
    }


def test_a_restart_that_finds_all_as_it_was_tells_nothing(cluster: Metered) -> None:
    cluster.add_grant("acme", "train", gpus=8, programme="purchase")
    cluster.add_grant("acme", "small", gpus=3, programme="purchase", placement="SharedServers")
    cluster.stock.observe_quota(replace(cluster.quotas["acme"], spec=type(cluster.quotas["acme"].spec)(
        display_name="아크메", affiliated_providers=())))  # fmt: skip
    cluster.settle()
    cluster.kept = cluster.news()
    assert of(Named, cluster.kept)
    cluster.restart()
    cluster.now += 300
    cluster.plan()
    assert cluster.news() == []


def test_a_server_that_went_while_nobody_watched_is_doubted_until_it_was_missed(cluster: Metered) -> None:
    cluster.kept = cluster.news()
    left = cluster.now
    cluster.restart()
    cluster.now += 300
    del cluster.nodes["n1"]
    cluster.world.drop_node("n1")
    cluster.plan()
    facts = cluster.news()
    assert [(one.server, one.since) for one in of(Placed, facts)] == [("n1", cluster.now)]
    assert {(one.aspect, one.since, one.value) for one in of(Health, facts)} == {
        (Aspect.DOUBTED, left, 8),
        (Aspect.DOUBTED, cluster.now, 0),
        (Aspect.PRESENT, cluster.now, 0),
    }


def test_a_server_that_came_while_nobody_watched_counts_from_its_making(cluster: Metered) -> None:
    cluster.kept = cluster.news()
    left = cluster.now
    cluster.restart()
    cluster.now += 300
    new = replace(
        cluster.nodes["n2"],
        name="n9",
        uid="n9",
        created=left + 40,
        ready_since=left + 90,
        labels={
            key: value
            for key, value in cluster.nodes["n2"].labels.items()
            if not key.startswith("gpugrant.io/") or key in ("gpugrant.io/provider", "gpugrant.io/fabric")
        },
    )
    cluster.nodes["n9"] = new
    cluster.world.put_node(new)
    cluster.plan()
    facts = cluster.news()
    assert [(one.server, one.since) for one in of(Placed, facts)] == [("n9", left + 40)]
    assert [(one.aspect, one.since, one.value) for one in of(Health, facts)] == [(Aspect.READY, left + 90, 1)]


def test_a_server_that_flapped_and_lost_a_device_unwatched_is_doubted_as_a_whole(cluster: Metered) -> None:
    cluster.kept = cluster.news()
    left = cluster.now
    cluster.restart()
    cluster.now += 600
    cluster.world.put_node(replace(cluster.nodes["n0"], ready_since=left + 300, allocatable=((GPU, 7),)))
    cluster.plan()
    doubts = [(one.since, one.value) for one in of(Health, cluster.news()) if one.aspect is Aspect.DOUBTED]
    assert doubts == [(left, 8), (left + 600, 0)]


def test_a_pods_devices_that_changed_unwatched_are_doubted_with_all_else_of_their_server(
    cluster: Metered,
) -> None:
    cluster.kept = cluster.news()
    pod = cluster.pods[cluster.add_pod("acme", gpus=4)]
    bound = replace(pod, node="n0", gates=(), scheduled_at=cluster.now)
    left = cluster.now
    cluster.restart()
    cluster.now += 600
    cluster.stock.observe_pod(replace(bound, unwell=3), unwatched=True)
    cluster.world.put_node(replace(cluster.nodes["n0"], allocatable=((GPU, 6),)))
    cluster.plan()
    facts = cluster.news()
    assert [(one.since, one.seats) for one in of(Unwell, facts)] == [(left + 600, 3)]
    doubts = [(one.since, one.value) for one in of(Health, facts) if one.aspect is Aspect.DOUBTED]
    assert doubts == [(left, 3), (left + 600, 0)]
