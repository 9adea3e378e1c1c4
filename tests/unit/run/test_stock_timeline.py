"""The timeline made of what the ledger is told is what the cluster's own objects say, every second."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from cluster_model.cluster import GPU
from gpugrant.config import Settings
from gpugrant.decide.servers import wanted_owner
from gpugrant.meter.facts import (
    Claimed,
    Contracted,
    GrantTerms,
    Health,
    Placed,
    Seated,
)
from gpugrant.meter.timeline import build
from gpugrant.meter.window import Facts, Stay
from gpugrant.run.accounts import dimensions_of, terms_of
from unit.run.metered import Metered


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
