"""What the ledger is told of servers, and that the timeline made of it is what the cluster's own objects say."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from cluster_model.cluster import GPU, START, Cluster
from gpugrant.config import Settings, load_settings
from gpugrant.decide.servers import wanted_owner
from gpugrant.meter.facts import (
    Announced,
    Aspect,
    Claimed,
    Contracted,
    GrantTerms,
    Health,
    Instalment,
    Named,
    Owner,
    Placed,
    Seated,
    Unwell,
)
from gpugrant.meter.timeline import build
from gpugrant.meter.window import Facts, Stay
from gpugrant.model.node import Node
from gpugrant.run.accounts import dimensions_of, terms_of
from gpugrant.run.stock import Stock


class Metered(Cluster):
    """A cluster whose every change is told to a Stock; the facts it tells are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told: list[object] = []
        self.kept: list[object] = []  # told before the restart
        self.stock = Stock(self.world, self.told.append, lambda: self.now)
        self.stock.load((), self.now)

    def plan(self):
        plan = super().plan()
        self.stock.take()
        return plan

    def put_node(self, node: Node) -> None:
        super().put_node(node)
        self.stock.observe_node(self.nodes[node.name])

    def drop_node(self, name: str) -> None:
        super().drop_node(name)
        self.stock.node_gone(name, self.now)

    def news(self) -> list[object]:
        found, self.told[:] = list(self.told), []
        return found

    def restart(self) -> None:
        """Another process takes over: it knows the facts, and that they were kept up until now."""
        facts, watermark = list(self.stock_facts()), self.now
        self.stock = Stock(self.world, self.told.append, lambda: self.now)
        self.stock.load(facts, watermark)

    def stock_facts(self) -> Iterable[object]:
        last = {}
        for fact in self.history:
            last[subject(fact)] = fact
        return last.values()

    @property
    def history(self) -> list[object]:
        return self.kept + self.told


def subject(fact):
    fields = {"Health": ("server", "aspect"), "Claimed": ("server", "grant_uid")}
    names = fields.get(type(fact).__name__) or (fact.__struct_fields__[0],)
    return (type(fact).__name__, *(getattr(fact, name) for name in names))


SETTINGS = load_settings(
    "programmes:\n  purchase:\n    timeZone: Asia/Seoul\n    maintenanceNoticeSeconds: 3600\n"
)


@pytest.fixture
def cluster() -> Metered:
    it = Metered(SETTINGS)
    it.add_namespace("acme", tenant="acme")
    it.add_quota("acme", affiliatedProviders=[])
    it.add_pool("pool", programme="purchase", publicShare={"gpus": 16})
    for number in range(3):
        it.add_node(f"n{number}")
    it.settle()
    return it


def of(kind, facts):
    return [fact for fact in facts if type(fact) is kind]


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
    labels = {key: value for key, value in cluster.nodes[server].labels.items() if key != "gpugrant.io/provider"}
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


def test_a_server_that_flapped_and_lost_a_device_unwatched_is_doubted_as_a_whole(cluster: Metered) -> None:
    cluster.kept = cluster.news()
    left = cluster.now
    cluster.restart()
    cluster.now += 600
    cluster.world.put_node(replace(cluster.nodes["n0"], ready_since=left + 300, allocatable=((GPU, 7),)))
    cluster.plan()
    doubts = [(one.since, one.value) for one in of(Health, cluster.news()) if one.aspect is Aspect.DOUBTED]
    assert doubts == [(left, 8), (left + 600, 0)]


def test_a_pods_devices_that_changed_unwatched_are_doubted_with_all_else_of_their_server(cluster: Metered) -> None:
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


# -- the facts are the truth -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_timeline_of_the_facts_is_what_the_objects_said_every_second(seed: int) -> None:
    rng = random.Random(seed)
    cluster = Metered(Settings())
    cluster.rng = rng
    for tenant in ("acme", "beta"):
        cluster.add_namespace(tenant, tenant=tenant)
        cluster.add_quota(tenant, affiliatedProviders=[])
    cluster.add_pool("pool", publicShare={"gpus": 24})
    for number in range(5):
        cluster.add_node(f"n{number}", fabric=f"f{number % 2}")
    cluster.settle()
    stays: dict[str, Stay] = {}
    terms: dict[str, list[GrantTerms]] = defaultdict(list)
    installed, owned, failed = Counter(), Counter(), Counter()

    def look() -> None:
        """Add up one second of what the objects say."""
        world = cluster.world
        for name in world.pools["pool"].servers:
            server = world.servers[name]
            installed["pool"] += 8
            unwell = world.seats_failed(server)
            failed["pool"] += unwell
            owner = wanted_owner(world, server, cluster.now)
            held = Counter()
            for pod in cluster.pods.values():
                if pod.node == name and not pod.ended:
                    held[pod.grant_uid] += pod.shape.amount(GPU)
            if owner:
                owned[owner] += 8 - held.total() + held[owner]
                held.pop(owner, None)
            owned.update({uid: n for uid, n in held.items() if uid})
        for state in world.grants.values():
            now = terms_of(world, state.grant)
            if not terms[state.grant.uid] or replace(terms[state.grant.uid][-1], since=0) != now:
                terms[state.grant.uid].append(replace(now, since=cluster.now))

    def note_pods() -> None:
        for pod in cluster.pods.values():
            if not pod.node:
                continue
            end = pod.finished_at or pod.disrupted_at or 1 << 40
            known = stays.get(pod.uid)
            if known is None:
                found = dimensions_of(cluster.world, pod)
                stays[pod.uid] = Stay(
                    pod.uid, pod.node, found.account, found.fabric, found.seats, pod.scheduled_at, end
                )
            else:
                stays[pod.uid] = replace(known, end=end)

    grants: list[str] = []
    begin = cluster.now
    for _ in range(70):
        for _ in range(rng.randrange(1, 4)):
            act(rng, cluster, grants)
        cluster.settle()
        cluster.bind_all()
        cluster.settle()
        note_pods()
        for _ in range(rng.choice((1, 1, 5, 40))):
            cluster.settle()  # terms begin and end in time
            note_pods()
            look()
            cluster.now += 1
    facts = Facts(stays=list(stays.values()), terms=terms, **histories(cluster.told))
    built = build(facts, "default", begin, cluster.now)
    by_owner, by_condition = Counter(), Counter()
    for cell, amount in built.cells.items():
        if cell.account.grant_uid:
            by_owner[cell.account.grant_uid] += amount
        by_condition[cell.condition.value] += amount
    assert built.expected["nhn", "pool"] == sum(built.cells.values()) == installed["pool"]
    assert by_condition["Failed"] == failed["pool"]
    assert +by_owner == +owned
    assert by_condition["Unobserved"] == by_condition["Undelivered"] == 0


def act(rng: random.Random, cluster: Metered, grants: list[str]) -> None:
    """Do one thing that people or machines do."""
    match rng.randrange(9):
        case 0 if len(grants) < 6:
            grants.append(
                cluster.add_grant(
                    rng.choice(("acme", "beta")),
                    f"g{len(grants)}",
                    gpus=8 * rng.randrange(1, 3),
                    start=rng.randrange(-5, 40),
                    end=rng.randrange(50, 400),
                    grace=rng.choice((0, 20)),
                    placement="AnyFabric",
                )
            )
        case 1 if grants and rng.random() < 0.3:
            uid = rng.choice(grants)
            if uid in cluster.grants:
                cluster.drop_grant(uid)
        case 2 | 3:
            cluster.add_pod(rng.choice(("acme", "beta")), gpus=rng.choice((1, 2, 8)))
        case 4 | 5:
            running = sorted(uid for uid, pod in cluster.pods.items() if pod.node and not pod.ended)
            if running:
                cluster.end_pod(rng.choice(running))
        case 6:
            name = rng.choice(sorted(cluster.nodes))
            ready = cluster.nodes[name].ready
            cluster.change_node(name, ready=not ready, ready_since=cluster.now)
        case 7:
            name = rng.choice(sorted(cluster.nodes))
            cluster.change_node(name, allocatable=((GPU, rng.choice((8, 8, 7, 4))),))
        case 8:
            name = rng.choice(sorted(cluster.nodes))
            cluster.change_node(name, unschedulable=not cluster.nodes[name].unschedulable)


def histories(facts: Iterable[object]) -> dict[str, dict]:
    found: dict[str, dict] = {
        name: defaultdict(list)
        for name in ("placed", "health", "announced", "claimed", "seated", "contracted")
    }
    for fact in facts:
        match fact:
            case Placed():
                found["placed"][fact.server].append(fact)
            case Health():
                found["health"][fact.server, fact.aspect].append(fact)
            case Claimed():
                found["claimed"][fact.server].append(fact)
            case Seated():
                found["seated"][fact.grant_uid].append(fact)
            case Contracted():
                found["contracted"][fact.pool].append(fact)
    return found
