"""No more is released than the scheduler takes up in time: what it leaves lying would be taken back."""

from msgspec.structs import replace

from cluster_model.cluster import Cluster
from gpugrant import names
from gpugrant.config import Settings
from gpugrant.decide.actions import EvictPod, ReleasePod, SetStatus
from gpugrant.decide.release import FEW, MOST_AHEAD, OF_ONE_GRANT


def a_cluster(gpus: int) -> Cluster:
    cluster = Cluster(Settings())
    cluster.add_namespace("acme", tenant="acme")
    cluster.add_quota("acme", affiliatedProviders=[])
    cluster.add_pool("pool")
    for number in range(gpus // 8):
        cluster.add_node(f"n{number:03}")
    cluster.add_grant("acme", "train", gpus=gpus)
    cluster.settle()
    return cluster


def released(cluster: Cluster) -> int:
    return sum(isinstance(action, ReleasePod) for action in cluster.settle())


def bind_some(cluster: Cluster, count: int) -> None:
    waiting = [uid for uid, pod in cluster.pods.items() if not pod.gates and not pod.node and not pod.ended]
    for uid in waiting[:count]:
        assert cluster.bind(uid)


def test_a_burst_goes_out_at_once() -> None:
    cluster = a_cluster(512)
    for _ in range(400):
        cluster.add_pod("acme")
    assert released(cluster) == 400


def test_while_the_scheduler_is_behind_nothing_more_goes_out_and_nothing_is_written_on_what_waits() -> None:
    cluster = a_cluster(512)
    for _ in range(FEW + 50):
        cluster.add_pod("acme")
    assert released(cluster) == FEW + 50
    cluster.now += 25
    for _ in range(100):
        cluster.add_pod("acme")
    assert {type(action) for action in cluster.settle()} <= {SetStatus}
    # The scheduler tried the first ones and wrote that on them: they are no younger by that.
    for uid in list(cluster.pods)[:60]:
        cluster.put_pod(replace(cluster.pods[uid], priority=1))
    assert {type(action) for action in cluster.settle()} <= {SetStatus}
    # As it catches up, they follow.
    bind_some(cluster, 50)
    assert released(cluster) == 0
    bind_some(cluster, 1)
    assert released(cluster) == 1
    bind_some(cluster, 300)
    assert released(cluster) == 99
    bind_some(cluster, 300)
    assert all(pod.node for pod in cluster.pods.values())


def test_one_that_never_binds_stops_nobody_and_is_taken_back_in_time() -> None:
    cluster = a_cluster(512)
    stuck = cluster.add_pod("acme")
    cluster.settle()
    for _ in range(6):
        cluster.now += 12
        for _ in range(30):
            cluster.add_pod("acme")
        actions = cluster.settle()
        assert sum(isinstance(one, ReleasePod) for one in actions) >= 30
        for uid, pod in list(cluster.pods.items()):
            if uid != stuck and names.GATE not in pod.gates and not pod.node:
                assert cluster.bind(uid)
    assert any(isinstance(one, EvictPod) and one.uid == stuck for one in actions) or stuck not in cluster.pods


def test_other_grants_are_not_held_back() -> None:
    cluster = a_cluster(512)
    cluster.add_namespace("beta", tenant="beta")
    cluster.add_quota("beta", affiliatedProviders=[])
    for number in range(4):
        cluster.add_node(f"m{number}")
    cluster.add_grant("beta", "other", gpus=32)
    for _ in range(300):
        cluster.add_pod("acme")
    cluster.settle()
    cluster.now += 40
    cluster.add_pod("acme")
    cluster.add_pod("beta")
    assert [one.namespace for one in cluster.settle() if isinstance(one, ReleasePod)] == ["beta"]


def test_no_more_is_decided_than_can_be_written_and_bound_in_time() -> None:
    cluster = a_cluster(MOST_AHEAD + 504)
    for _ in range(MOST_AHEAD + 400):
        cluster.add_pod("acme")
    assert released(cluster) == MOST_AHEAD
    bind_some(cluster, 10)
    assert released(cluster) == 10
    # A grant that has hardly any is not held back by the others.
    cluster.add_namespace("beta", tenant="beta")
    cluster.add_quota("beta", affiliatedProviders=[])
    for number in range(20):
        cluster.add_node(f"m{number}")
    cluster.add_grant("beta", "other", gpus=160)
    for _ in range(150):
        cluster.add_pod("beta")
    assert released(cluster) == OF_ONE_GRANT
    while any(not pod.node for pod in cluster.pods.values()):
        bind_some(cluster, 1_000)
        cluster.settle()
    assert len(cluster.pods) == MOST_AHEAD + 550
