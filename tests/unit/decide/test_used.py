"""What a grant has used is told when it is final, and not again and again while its pods run."""

from cluster_model.cluster import Cluster
from gpugrant.config import Settings
from gpugrant.decide.plan import FIGURES_SECONDS


def used_of(cluster: Cluster) -> int:
    [grant] = cluster.grants.values()
    return int(grant.status["usage"]["gpuSeconds"])


def one_grant() -> tuple[Cluster, str]:
    cluster = Cluster(Settings())
    cluster.add_namespace("lab", tenant="lab")
    cluster.add_quota("lab")
    cluster.add_node("n0")
    cluster.add_pool("p")
    cluster.add_grant("lab", "train", gpus=8)
    cluster.settle()
    [grant] = cluster.grants.values()
    return cluster, grant.uid


def test_what_was_used_when_the_last_pod_ended_is_told_though_nothing_else_happens() -> None:
    cluster, uid = one_grant()
    assert cluster.world.take_used({uid: 248}, {uid: 248})
    cluster.now += FIGURES_SECONDS
    cluster.settle()
    assert used_of(cluster) == 248
    assert not cluster.world.take_used({uid: 248}, {uid: 248}), "told"


def test_while_a_pod_runs_its_growing_figure_is_no_reason_to_write() -> None:
    cluster, uid = one_grant()
    pod = cluster.add_pod("lab", 8)
    cluster.settle()
    cluster.bind(pod)
    assert cluster.world.usage[uid].held == 8
    assert not cluster.world.take_used({uid: 80}, {uid: 80})
