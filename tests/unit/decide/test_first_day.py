"""The main job in memory: pools, grants, pods, end to end through plan()."""

from cluster_model.cluster import Cluster
from gpugrant import names
from gpugrant.config import Settings
from gpugrant.model.node import Taint
from gpugrant.model.pod import Shape


def a_cluster(**settings: object) -> Cluster:
    cluster = Cluster(Settings.model_validate(settings))
    cluster.add_namespace("lab", tenant="lab")
    cluster.add_quota("lab")
    return cluster


def four_servers(cluster: Cluster) -> None:
    for n in range(4):
        cluster.add_node(f"n{n}", fabric="f1" if n < 3 else "f2")


def test_a_grant_gets_whole_servers_of_one_fabric_and_its_pods_run_there() -> None:
    cluster = a_cluster()
    four_servers(cluster)
    cluster.add_pool("p")
    uid = cluster.add_grant("lab", "train", gpus=16)
    pods = [cluster.add_pod("lab", 8) for _ in range(3)]
    cluster.settle()
    assert cluster.reason(uid) == "Active"
    assert cluster.bind_all() == 2
    cluster.settle()
    assert cluster.taken(uid) == 16
    assert {cluster.nodes[cluster.pods[p].node].labels[names.FABRIC_LABEL] for p in pods[:2]} == {"f1"}
    waiting = cluster.pods[pods[2]]
    assert waiting.waiting == ("waiting for 8 GPUs: grant train (16 GPUs, B200) has 0 free; it is next")
    cluster.end_pod(pods[0])
    cluster.settle()
    assert cluster.bind_all() == 1


def test_small_pods_share_a_server_opened_for_their_tenant() -> None:
    cluster = a_cluster()
    four_servers(cluster)
    cluster.add_pool("p")
    uid = cluster.add_grant("lab", "notebooks", gpus=6, placement="SharedServers")
    cluster.add_pod("lab", 2)
    cluster.add_pod("lab", 3)
    cluster.settle()
    cluster.bind_all()
    cluster.settle()
    assert cluster.taken(uid) == 5
    assert len({p.node for p in cluster.running("lab")}) == 1
    assert cluster.running("lab")[0].node == "n3"  # the small fabric is broken before the large one


def test_a_gang_waits_until_all_of_it_fits_and_small_pods_do_not_pass_it() -> None:
    cluster = a_cluster()
    four_servers(cluster)
    cluster.add_pool("p")
    cluster.add_grant("lab", "train", gpus=16)
    first = cluster.add_pod("lab", 8)
    cluster.settle()
    cluster.now += 1
    gang = [cluster.add_pod("lab", 8, gang_size="2", controller="job", name=f"g{i}") for i in range(2)]
    cluster.now += 1
    small = cluster.add_pod("lab", 1)
    cluster.settle()
    cluster.bind_all()
    assert {p.uid for p in cluster.running("lab")} == {first}
    cluster.end_pod(first)
    cluster.settle()
    cluster.bind_all()
    assert {p.uid for p in cluster.running("lab")} == set(gang)
    assert cluster.pods[small].gates


def test_what_does_not_bind_in_time_is_taken_back() -> None:
    cluster = a_cluster(bindTimeoutSeconds=60)
    four_servers(cluster)
    cluster.add_pool("p")
    uid = cluster.add_grant("lab", "train", gpus=8)
    cluster.add_pod("lab", 8)
    cluster.settle()
    assert cluster.taken(uid) == 8
    cluster.now += 59
    cluster.settle()
    assert cluster.taken(uid) == 8
    cluster.now += 1
    cluster.settle()
    assert cluster.taken(uid) == 0


def test_after_the_grace_running_pods_are_evicted() -> None:
    cluster = a_cluster()
    four_servers(cluster)
    cluster.add_pool("p")
    uid = cluster.add_grant("lab", "train", gpus=8, end=1000, grace=600)
    cluster.add_pod("lab", 8)
    cluster.settle()
    cluster.bind_all()
    cluster.now += 1000
    late = cluster.add_pod("lab", 1)
    cluster.settle()
    assert cluster.reason(uid) == "Grace"
    assert "ended" in cluster.pods[late].waiting
    assert cluster.taken(uid) == 8
    cluster.now += 600
    cluster.settle()
    assert cluster.taken(uid) == 0
    assert cluster.reason(uid) == "Ended"
    assert names.GRANT_UID_LABEL not in {k for n in cluster.nodes.values() for k in n.labels}


def test_a_pod_that_no_server_could_take_for_a_moment_is_judged_again() -> None:
    cluster = a_cluster()
    four_servers(cluster)
    for name in list(cluster.nodes):
        cluster.change_node(name, taints=(Taint("node.kubernetes.io/not-ready", "", "NoSchedule"),))
        cluster.change_node(
            name, labels={k: v for k, v in cluster.nodes[name].labels.items() if "fast" not in k}
        )
    cluster.add_pool("p")
    uid = cluster.add_grant("lab", "train", gpus=16)
    shape = Shape(resources=((names.DEFAULT_RESOURCE, 8),), selector=(("fast", "yes"),))
    choosy = cluster.add_pod("lab", shape=shape)
    other = cluster.add_pod("lab", 8)
    cluster.settle()
    assert cluster.taken(uid) == 0
    assert "matches the pod's nodeSelector" in cluster.pods[choosy].waiting
    assert cluster.pods[other].waiting == (
        "waiting for 8 GPUs: grant train (16 GPUs, B200) has 16 free, but not where this fits: "
        "servers with 8 free have the taint node.kubernetes.io/not-ready (2 servers); it is next"
    )
    for name in list(cluster.nodes):
        taints = tuple(t for t in cluster.nodes[name].taints if t.key != "node.kubernetes.io/not-ready")
        cluster.change_node(name, taints=taints, labels={**cluster.nodes[name].labels, "fast": "yes"})
    cluster.settle()
    assert cluster.taken(uid) == 16


def test_a_grant_that_was_seen_before_the_pool_that_forbids_it_gives_its_servers_back() -> None:
    cluster = a_cluster(programmes={"default": {"conflictOfInterest": True}})
    four_servers(cluster)
    cluster.add_quota("lab", affiliatedProviders=["rival"])
    cluster.add_pool("p")
    uid = cluster.add_grant("lab", "train", gpus=16)
    cluster.settle()
    assert cluster.reason(uid) == "Active"
    cluster.add_pool("q", provider="rival")
    cluster.settle()
    assert cluster.reason(uid) == "Rejected"
    assert "allocation" not in cluster.grants[uid].status
    assert not any(names.GRANT_UID_LABEL in node.labels for node in cluster.nodes.values())
