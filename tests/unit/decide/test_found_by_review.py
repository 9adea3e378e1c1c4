"""Faults that reviewers found, each as it was shown to us."""

import pytest
from msgspec.structs import replace

from cluster_model.cluster import GPU, Cluster, instant
from gpugrant import names
from gpugrant.config import Settings
from gpugrant.decide.world import World
from gpugrant.model.pod import Shape


def a_cluster(servers: int, pool: dict[str, object] | None = None, **settings: object) -> Cluster:
    cluster = Cluster(Settings.model_validate(settings))
    for tenant in ("lab", "lab2"):
        cluster.add_namespace(tenant, tenant=tenant)
        cluster.add_quota(tenant)
    for n in range(servers):
        cluster.add_node(f"n{n}", fabric="f1")
    cluster.add_pool("p", **(pool or {}))
    return cluster


def extend(cluster: Cluster, uid: str, seconds: int) -> None:
    spec = cluster.grants[uid].spec
    assert spec
    term = {"start": spec.term.start, "end": instant(cluster.now + seconds)}
    cluster.edit_grant(uid, term=term)


def test_a_longer_term_takes_nothing_from_who_was_promised_the_server() -> None:
    cluster = a_cluster(1)
    first = cluster.add_grant("lab", "a", gpus=8, end=1000)
    cluster.settle()
    second = cluster.add_grant("lab2", "b", gpus=8, start=1000, end=2000)
    cluster.settle()
    extend(cluster, first, 50_000)
    cluster.settle()
    cluster.now += 1000
    cluster.settle()
    assert cluster.reason(second) == "Active"
    assert cluster.nodes["n0"].labels[names.GRANT_UID_LABEL] == second
    assert cluster.reason(first) == "Waitlisted"


@pytest.mark.parametrize(("grace", "left"), [(1_000_000_000, 0), (60, 1)], ids=["of years", "as long as may be"])
def test_a_pod_that_its_tenant_deletes_is_evicted_all_the_same_unless_its_grace_is_short(grace: int, left: int) -> None:
    cluster = a_cluster(1, gracePeriodCeilingSeconds=60)
    cluster.add_grant("lab", "a", gpus=8, end=1000)
    uid = cluster.add_pod("lab", 8)
    cluster.settle()
    cluster.bind(uid)
    cluster.now += 100_000
    cluster.put_pod(replace(cluster.pods[uid], deleting=cluster.now + grace))
    cluster.settle()
    assert len(cluster.running("lab")) == left


def test_a_gang_that_lost_a_member_before_it_was_whole_is_taken_back() -> None:
    cluster = a_cluster(3, bindTimeoutSeconds=60)
    cluster.add_grant("lab", "train", gpus=24)
    gang = [cluster.add_pod("lab", 8, gang_size="3", controller="job") for _ in range(3)]
    cluster.settle()
    cluster.bind(gang[0])
    cluster.bind(gang[1])
    cluster.drop_pod(gang[2])
    cluster.now += 60
    cluster.settle()
    assert cluster.running("lab") == []


def test_a_gang_that_ran_whole_keeps_running_when_a_member_ends() -> None:
    cluster = a_cluster(3, bindTimeoutSeconds=60)
    cluster.add_grant("lab", "train", gpus=24)
    gang = [cluster.add_pod("lab", 8, gang_size="3", controller="job") for _ in range(3)]
    cluster.settle()
    assert cluster.bind_all() == 3
    cluster.drop_pod(gang[2])
    cluster.now += 300
    late = cluster.add_pod("lab", 8, gang_size="3", controller="job")
    cluster.settle()
    assert cluster.bind(late)
    assert len(cluster.running("lab")) == 3


def test_a_gang_released_in_part_before_the_operator_was_away_is_taken_back() -> None:
    cluster = a_cluster(4, bindTimeoutSeconds=60)
    cluster.add_grant("lab", "train", gpus=32)
    gang = [cluster.add_pod("lab", 8, gang_size="4", controller="job") for _ in range(4)]
    cluster.settle()
    assert not any(cluster.pods[uid].gates for uid in gang)
    for uid in gang[2:]:  # as if these two PATCHes had never been sent
        pod = cluster.pods[uid]
        cluster.put_pod(replace(pod, gates=(names.GATE,), node="", grant_uid="", grant="", released_at=0))
    cluster.bind(gang[0])
    cluster.bind(gang[1])
    cluster.world = World.of(cluster.snapshot())
    cluster.now += 200
    cluster.settle()
    assert cluster.running("lab") == []


def test_a_size_that_is_refused_changes_nothing() -> None:
    cluster = a_cluster(3)
    grown, shrunk = cluster.add_grant("lab", "a", gpus=8), cluster.add_grant("lab2", "b", gpus=16)
    cluster.settle()
    cluster.edit_grant(grown, gpus=12)
    cluster.edit_grant(shrunk, gpus=15)
    cluster.settle()
    assert cluster.reason(grown, "Accepted") == cluster.reason(shrunk, "Accepted") == "NotWholeServers"
    assert cluster.grants[grown].status["allocation"]["gpus"] == 8
    assert len(cluster.grants[shrunk].status["allocation"]["servers"]) == 2


def test_seats_of_a_deleted_grant_count_against_the_tenants_limit() -> None:
    cluster = a_cluster(2)
    cluster.add_quota("lab", limits=[{"gpuType": "B200", "gpus": 8}])
    first = cluster.add_grant("lab", "a", gpus=8)
    cluster.add_pod("lab", 8)
    cluster.settle()
    cluster.bind_all()
    cluster.drop_grant(first)
    second = cluster.add_grant("lab", "b", gpus=8)
    cluster.add_pod("lab", 8)
    cluster.settle()
    assert cluster.taken(second) == 0
    assert cluster.quotas["lab"].status["limits"][0]["held"] == 8


def test_another_programmes_pool_of_the_type_leaves_grants_where_they_are() -> None:
    cluster = a_cluster(1, {"programme": "purchase"}, programmes={"purchase": {}, "lease": {}})
    uid = cluster.add_grant("lab", "a", gpus=8)
    cluster.settle()
    assert cluster.reason(uid) == "Active"
    cluster.add_pool("q", programme="lease", provider="other")
    cluster.settle()
    assert cluster.reason(uid) == "Active"


def test_a_server_that_a_shrinking_grant_gives_back_goes_to_who_waits() -> None:
    cluster = a_cluster(2)
    first = cluster.add_grant("lab", "a", gpus=16)
    cluster.settle()
    second = cluster.add_grant("lab2", "b", gpus=8)
    cluster.settle()
    assert cluster.reason(second) == "Waitlisted"
    cluster.edit_grant(first, gpus=8)
    cluster.settle()
    assert cluster.reason(second) == "Active"


def test_a_wish_to_grow_does_not_reject_the_tenants_other_grant() -> None:
    cluster = a_cluster(2)
    cluster.add_quota("lab", limits=[{"gpuType": "B200", "gpus": 16}])
    one, other = cluster.add_grant("lab", "a", gpus=8), cluster.add_grant("lab", "b", gpus=8)
    cluster.settle()
    cluster.edit_grant(one, gpus=16)
    cluster.settle()
    assert cluster.reason(one) == cluster.reason(other) == "Active"
    assert "limit leaves 8" in cluster.status(one, "Allocated")["message"]


def test_a_lost_public_server_is_not_replaced_by_an_edit_of_something_else() -> None:
    cluster = a_cluster(3, {"publicShare": {"gpus": 8}})
    cluster.settle()
    [public] = [n.name for n in cluster.nodes.values() if n.labels[names.SHARE_LABEL] == "Public"]
    cluster.drop_node(public)
    cluster.settle()
    pool = cluster.pools["p"]
    assert pool.spec
    body = {**pool.spec.model_dump(by_alias=True, exclude_none=True), "maxSharedServers": 3}
    cluster.put_pool(replace(pool, generation=2, spec=type(pool.spec).model_validate(body)))
    cluster.settle()
    assert all(n.labels[names.SHARE_LABEL] == "OwnUse" for n in cluster.nodes.values())


def test_a_small_shared_grant_cannot_have_a_server_opened_per_pod() -> None:
    cluster = a_cluster(5)
    cluster.add_grant("lab", "small", gpus=5, placement="SharedServers")
    for n in range(5):
        cluster.add_pod("lab", shape=Shape(((GPU, 1),), selector=((names.HOSTNAME_LABEL, f"n{n}"),)))
    cluster.settle()
    assert sum(names.SHARED_FOR_LABEL in n.labels for n in cluster.nodes.values()) == 1


def test_a_share_label_changed_by_hand_on_a_server_in_use_is_put_back() -> None:
    cluster = a_cluster(2, {"publicShare": {"gpus": 8}})
    uid = cluster.add_grant("lab", "a", gpus=8)
    cluster.add_pod("lab", 8)
    cluster.settle()
    cluster.bind_all()
    [pod] = cluster.running("lab")
    node = cluster.nodes[pod.node]
    cluster.put_node(replace(node, labels={**node.labels, names.SHARE_LABEL: "OwnUse"}))
    cluster.settle()
    assert cluster.nodes[pod.node].labels[names.SHARE_LABEL] == "Public"
    assert cluster.grants[uid].status["allocation"]["servers"] == [pod.node]


def test_absurd_amounts_stay_within_what_a_status_can_say() -> None:
    cluster = a_cluster(1)
    uid = cluster.add_grant("lab", "a", gpus=8)
    for _ in range(3):
        cluster.add_pod("lab", shape=Shape(((GPU, 10**30),)))
    cluster.settle()
    assert cluster.grants[uid].status["usage"]["waiting"] == 3 * 10**9


def test_a_later_shared_grant_does_not_delay_an_earlier_one_of_whole_servers() -> None:
    cluster = a_cluster(2)
    cluster.add_grant("lab", "now", gpus=16, end=1000, grace=0)
    cluster.settle()
    first = cluster.add_grant("lab2", "whole", gpus=16, end=5000)
    cluster.settle()
    cluster.now += 1
    later = cluster.add_grant("lab", "shared", gpus=4, end=9000, placement="SharedServers")
    cluster.settle()
    assert cluster.reason(later) == "Waitlisted"
    cluster.now += 1000
    cluster.settle()
    assert cluster.reason(first) == "Active"


def test_a_later_whole_server_does_not_take_the_place_of_a_waiting_shared_grant() -> None:
    cluster = a_cluster(1)
    now = cluster.add_grant("lab", "now", gpus=8, end=1000, grace=0)
    cluster.settle()
    first = cluster.add_grant("lab2", "shared", gpus=4, end=5000, placement="SharedServers")
    cluster.settle()
    cluster.now += 1
    later = cluster.add_grant("lab", "whole", gpus=8, end=9000)
    cluster.settle()
    cluster.drop_grant(now)
    cluster.settle()
    assert (cluster.reason(first), cluster.reason(later)) == ("Active", "Waitlisted")
