"""What the ledger is told of servers, as it happens."""

import pytest
from msgspec.structs import replace

from cluster_model.cluster import GPU, START
from gpugrant.meter.facts import (
    Announced,
    Aspect,
    Claimed,
    Contracted,
    Health,
    Instalment,
    Owner,
    Placed,
    Seated,
    Unwell,
)
from unit.run.metered import Metered, a_cluster, of


@pytest.fixture
def cluster() -> Metered:
    return a_cluster()


def test_every_server_is_told_once_with_its_place(cluster: Metered) -> None:
    facts = cluster.news()
    placed = of(Placed, facts)
    assert {(one.server, one.share, one.seats, one.idle_owner) for one in placed} == {
        ("n0", "Public", 8, Owner.FREE),
        ("n1", "Public", 8, Owner.FREE),
        ("n2", "OwnUse", 8, Owner.OWN_USE),
    }
    assert {(one.programme, one.provider, one.gpu_type, one.fabric) for one in placed} == {
        ("purchase", "nhn", "B200", "f1")
    }
    assert [one.promised for one in of(Contracted, facts)] == [16]
    cluster.now += 5
    cluster.change_node("n0", memory=1 << 40)
    cluster.settle()
    assert cluster.news() == []


def test_own_use_that_must_be_granted_belongs_to_nobody(cluster: Metered) -> None:
    cluster.news()
    pool = cluster.pools["pool"]
    cluster.now += 5
    cluster.put_pool(replace(pool, generation=2, spec=pool.spec.model_copy(update={"own_use": "Granted"})))
    cluster.settle()
    (placed,) = of(Placed, cluster.news())
    assert (placed.server, placed.idle_owner, placed.since) == ("n2", Owner.FREE, cluster.now)


def test_a_grants_servers_are_claimed_from_when_it_got_them_and_let_go(cluster: Metered) -> None:
    cluster.news()
    cluster.now += 10
    uid = cluster.add_grant("acme", "train", gpus=16, programme="purchase", start=1000)
    cluster.settle()
    claims = of(Claimed, cluster.news())
    assert {(one.server, one.grant_uid, one.since, one.has) for one in claims} == {
        ("n0", uid, cluster.now, True),
        ("n1", uid, cluster.now, True),
    }
    cluster.now += 10
    cluster.drop_grant(uid)
    cluster.settle()
    assert {(one.server, one.has, one.since) for one in of(Claimed, cluster.news())} == {
        ("n0", False, cluster.now),
        ("n1", False, cluster.now),
    }


def test_a_grant_on_shared_servers_is_told_with_its_seats(cluster: Metered) -> None:
    cluster.news()
    uid = cluster.add_grant("acme", "small", gpus=3, programme="purchase", placement="SharedServers")
    cluster.settle()
    (seated,) = of(Seated, cluster.news())
    assert (seated.grant_uid, seated.pool, seated.share, seated.seats) == (uid, "pool", "Public", 3)
    cluster.edit_grant(uid, gpus=5)
    cluster.settle()
    assert [one.seats for one in of(Seated, cluster.news())] == [5]
    cluster.drop_grant(uid)
    cluster.settle()
    assert [one.seats for one in of(Seated, cluster.news())] == [0]


def test_health_is_dated_by_the_transition_and_by_its_sight(cluster: Metered) -> None:
    cluster.news()
    cluster.now += 100
    cluster.change_node("n0", ready=False, ready_since=cluster.now - 3)
    cluster.change_node("n1", unschedulable=True)
    cluster.change_node("n2", allocatable=((GPU, 6),))
    facts = of(Health, cluster.news())
    assert {(one.server, one.aspect, one.value, one.since, one.seen) for one in facts} == {
        ("n0", Aspect.READY, 0, cluster.now - 3, cluster.now),
        ("n1", Aspect.CORDONED, 1, cluster.now, cluster.now),
        ("n2", Aspect.OFFERED, 6, cluster.now, cluster.now),
    }


def test_a_node_clock_that_is_ahead_dates_nothing_in_the_future(cluster: Metered) -> None:
    cluster.news()
    cluster.change_node("n0", ready=False, ready_since=cluster.now + 50)
    assert [one.since for one in of(Health, cluster.news())] == [cluster.now]


def test_a_maintenance_window_is_told_with_the_programmes_notice(cluster: Metered) -> None:
    cluster.news()
    window = "2027-02-01T00:00:00+09:00/2027-02-01T06:00:00+09:00"
    cluster.change_node("n0", maintenance=window)
    cluster.settle()
    (told,) = of(Announced, cluster.news())
    assert (told.end - told.start, told.notice, told.since) == (6 * 3600, 3600, cluster.now)
    for nonsense in ("tomorrow", "2027-02-01/2027-02-02", "2027-02-02T00:00:00Z/2027-02-01T00:00:00Z", ""):
        cluster.change_node("n0", maintenance=nonsense)
        cluster.settle()
    # The first nonsense ended the window; what followed said nothing new.
    assert [(one.start, one.end) for one in of(Announced, cluster.news())] == [(0, 0)]


def test_a_node_that_goes_is_of_no_pool_any_more_and_not_present(cluster: Metered) -> None:
    cluster.news()
    cluster.now += 7
    cluster.drop_node("n0")
    cluster.settle()
    facts = cluster.news()
    assert [(one.server, one.seats, one.since) for one in of(Placed, facts)] == [("n0", 0, cluster.now)]
    assert [(one.aspect, one.value) for one in of(Health, facts)] == [(Aspect.PRESENT, 0)]
    cluster.now += 60
    cluster.add_node("n0")
    cluster.settle()
    facts = cluster.news()
    assert [(one.server, one.seats, one.since) for one in of(Placed, facts)] == [("n0", 8, cluster.now)]
    assert [(one.aspect, one.value) for one in of(Health, facts)] == [(Aspect.PRESENT, 1), (Aspect.READY, 1)]


def test_a_contract_is_told_as_instants_in_the_programmes_zone(cluster: Metered) -> None:
    cluster.news()
    pool = cluster.pools["pool"]
    body = {**pool.spec.model_dump(by_alias=True, exclude_none=True)}
    body["delivery"] = [{"gpus": 16, "publicGpus": 8, "due": "2026-11-01"}, {"gpus": 8, "due": "2026-12-01"}]
    cluster.put_pool(replace(pool, generation=2, spec=type(pool.spec).model_validate(body)))
    cluster.settle()
    (told,) = of(Contracted, cluster.news())
    assert told.instalments == (
        Instalment(1_793_458_800, 16, 8),  # 2026-11-01T00:00:00+09:00
        Instalment(1_796_050_800, 8, 8),
    )
    cluster.pools.pop("pool")
    cluster.world.drop_pool("pool")
    cluster.settle()
    facts = cluster.news()
    assert [one.instalments for one in of(Contracted, facts)] == [()]
    assert {one.server for one in of(Placed, facts) if not one.seats} == {"n0", "n1", "n2"}


def test_unhealthy_devices_of_a_pod_are_told_until_they_heal(cluster: Metered) -> None:
    cluster.news()
    pod = cluster.pods[cluster.add_pod("acme", gpus=2)]
    bound = replace(pod, node="n0", gates=(), scheduled_at=cluster.now)
    for unwell in (0, 1, 1, 2, 0):
        cluster.now += 10
        cluster.stock.observe_pod(replace(bound, unwell=unwell))
    assert [(one.since - START, one.seats) for one in of(Unwell, cluster.news())] == [
        (20, 1),
        (40, 2),
        (50, 0),
    ]


def test_three_changes_within_a_second_are_three_facts(cluster: Metered) -> None:
    cluster.news()
    for cordoned in (True, False, True):
        cluster.change_node("n0", unschedulable=cordoned)
    told = of(Health, cluster.news())
    assert [one.value for one in told] == [1, 0, 1]
    # The third is not the first told again.
    assert [one.since - START for one in told] == [0, 0, 1]
