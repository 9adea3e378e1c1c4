"""plan() under hypothesis: whatever happens, in whatever order, the rules hold (R2-R8), and what was worked out bit
by bit is what would be worked out from scratch.
"""

import random
from collections import defaultdict
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cluster_model.cluster import GPU, Cluster
from gpugrant import names
from gpugrant.config import Settings
from gpugrant.decide.actions import Action, EvictPod, ExplainPod, ReleasePod, WriteServer
from gpugrant.decide.plan import make_plan
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod, Shape

TENANTS = ("alpha", "beta", "gamma")
# Each step: what happens, and a number that says to whom. Hypothesis shrinks both.
KINDS = [
            "pod", "pod", "pod", "gang", "end", "bind", "bind_all", "delete_pod", "time", "long", "clock_back",
            "grant", "grant", "shared_grant", "future_grant", "own_grant", "grow", "shrink", "suspend", "drop_grant",
            "node", "node_lost", "node_back", "node_gone", "gpu_bad", "cordon", "quota", "promise", "own_pod",
            "odd_pod", "settle", "settle", "restart", "refusals",
]  # fmt: skip
STEP = st.tuples(st.sampled_from(KINDS), st.integers(0, 1 << 16))


def a_fleet(public: int | None) -> Cluster:
    cluster = Cluster(
        Settings.model_validate(
            {
                "programmes": {"default": {"conflictOfInterest": False, "caps": {"B200": 64}}},
                "bindTimeoutSeconds": 60,
            }
        )
    )
    for tenant in TENANTS:
        cluster.add_namespace(tenant, tenant=tenant)
        cluster.add_quota(tenant, limits=[{"gpuType": "B200", "gpus": 48}])
    cluster.add_namespace("owner", provider="nhn")
    for n in range(8):
        cluster.add_node(f"n{n}", fabric="f1" if n < 4 else "f2" if n < 7 else "f3")
    share = {} if public is None else {"publicShare": {"gpus": public}}
    cluster.add_pool("p", **share)
    return cluster


class History:
    """Carries out steps on a cluster and checks the rules after each."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.c = cluster
        self.c.rng = random.Random(seed)
        self.share_of: dict[str, str] = {}  # of every grant there ever was

    def run(self, steps: list[tuple[str, int]]) -> None:
        self.settle()
        for kind, number in steps:
            getattr(self, kind)(number)
            self.c.now += number % 3
            self.act_once()
            self.check()
        self.c.failing = 0.0
        self.c.now += 700
        self.settle()
        self.check()

    # -- steps -----------------------------------------------------------------------------------------

    def pick(self, items: list[str], number: int) -> str | None:
        return sorted(items)[number % len(items)] if items else None

    def pod(self, n: int) -> None:
        self.c.add_pod(TENANTS[n % 3], 1 + n % 8)

    def gang(self, n: int) -> None:
        size = 2 + n % 3
        owner = self.c.next_uid("job")
        for _ in range(size):
            self.c.add_pod(TENANTS[n % 3], (8, 4, 2)[n % 3], gang_size=str(size), controller=owner)

    def odd_pod(self, n: int) -> None:
        odd: list[dict[str, Any]] = [
            {"gang_size": "0"},
            {"gang_size": "many"},
            {"gang_size": "100000"},
            {"grant": "no-such"},
            {"shape": Shape(resources=((GPU, 10**30),))},
            {"shape": Shape(resources=((GPU, 1), ("rebellions.ai/ATOM", 1)))},
            {"shape": Shape(resources=((GPU, 2),), selector=(("no", "where"),))},
            {"shape": Shape(dra=True)},
            {"priority": 5},
            {"shape": Shape(resources=((GPU, 2),), spread=True)},
        ]
        self.c.add_pod(TENANTS[n % 3], 1, **odd[n % len(odd)])

    def own_pod(self, n: int) -> None:
        self.c.add_pod(
            "owner",
            shape=Shape(resources=((GPU, 1 + n % 8),), selector=((names.OWN_USE_LABEL, "nhn"),)),
        )

    def end(self, n: int) -> None:
        uid = self.pick([p.uid for p in self.c.pods.values() if p.held], n)
        if uid:
            self.c.end_pod(uid)

    def bind(self, n: int) -> None:
        uid = self.pick([p.uid for p in self.c.pods.values() if not p.gates and not p.node], n)
        if uid:
            self.c.bind(uid)

    def bind_all(self, n: int) -> None:
        self.c.bind_all()

    def delete_pod(self, n: int) -> None:
        uid = self.pick(list(self.c.pods), n)
        if uid and self.c.pods[uid].held and n % 2:
            self.c.put_pod(replace(self.c.pods[uid], deleting=self.c.now))
        elif uid:
            self.c.drop_pod(uid)

    def time(self, n: int) -> None:
        self.c.now += n % 200

    def long(self, n: int) -> None:
        self.c.now += n % 3000

    def clock_back(self, n: int) -> None:
        self.c.now -= n % 30

    def grant(self, n: int) -> None:
        self.c.add_grant(
            TENANTS[n % 3], self.c.next_uid("g"), gpus=8 * (1 + n % 4), end=500 + n % 5000,
            placement=("OneFabric", "AnyFabric")[n % 2], priority=n % 5 // 4, grace=n % 500,
        )  # fmt: skip

    def shared_grant(self, n: int) -> None:
        self.c.add_grant(
            TENANTS[n % 3],
            self.c.next_uid("s"),
            gpus=1 + n % 12,
            end=500 + n % 5000,
            placement="SharedServers",
        )

    def future_grant(self, n: int) -> None:
        self.c.add_grant(
            TENANTS[n % 3], self.c.next_uid("f"), gpus=8 * (1 + n % 3), start=n % 2000, end=3000 + n % 500
        )

    def own_grant(self, n: int) -> None:
        self.c.add_grant(TENANTS[n % 3], self.c.next_uid("o"), gpus=8, share="OwnUse", end=500 + n % 5000)

    def grow(self, n: int) -> None:
        self.resize(n, +8)

    def shrink(self, n: int) -> None:
        self.resize(n, -8)

    def resize(self, n: int, by: int) -> None:
        uid = self.pick(list(self.c.grants), n)
        spec = self.c.grants[uid].spec if uid else None
        if uid and spec and spec.gpus + by > 0:
            self.c.edit_grant(uid, gpus=spec.gpus + by)

    def suspend(self, n: int) -> None:
        uid = self.pick(list(self.c.grants), n)
        if uid:
            self.c.edit_grant(uid, suspend=("None", "Hold", "Drain")[n // 7 % 3])

    def drop_grant(self, n: int) -> None:
        uid = self.pick(list(self.c.grants), n)
        if uid:
            self.c.drop_grant(uid)

    def node(self, n: int) -> None:
        if len(self.c.nodes) < 12:
            self.c.add_node(self.c.next_uid("extra"), fabric=f"f{1 + n % 4}", gpus=(8, 8, 8, 7)[n % 4])

    def any_node(self, n: int) -> str | None:
        return self.pick(list(self.c.nodes), n)

    def node_lost(self, n: int) -> None:
        name = self.any_node(n)
        if name:
            self.c.change_node(name, ready=False, ready_since=self.c.now)

    def node_back(self, n: int) -> None:
        for node in list(self.c.nodes.values()):
            if not node.ready or node.unschedulable or node.allocatable != node.capacity:
                self.c.change_node(node.name, ready=True, unschedulable=False, allocatable=node.capacity)

    def node_gone(self, n: int) -> None:
        name = self.any_node(n)
        if name and len(self.c.nodes) > 3:
            self.c.drop_node(name)

    def gpu_bad(self, n: int) -> None:
        name = self.any_node(n)
        if name:
            self.c.change_node(name, allocatable=((GPU, n % 9),))

    def cordon(self, n: int) -> None:
        name = self.any_node(n)
        if name:
            self.c.change_node(name, unschedulable=True)

    def quota(self, n: int) -> None:
        tenant = TENANTS[n % 3]
        spec = self.c.quotas[tenant].spec
        assert spec
        limits = [{"gpuType": "B200", "gpus": 8 * (n % 8)}]
        self.c.put_quota(
            replace(
                self.c.quotas[tenant],
                generation=self.c.quotas[tenant].generation + 1,
                spec=type(spec).model_validate({"limits": limits}),
            )
        )

    def promise(self, n: int) -> None:
        pool = self.c.pools["p"]
        assert pool.spec
        spec = pool.spec.model_dump(by_alias=True, exclude_none=True)
        spec["publicShare"] = {"gpus": 8 * (n % 12)}
        self.c.put_pool(
            replace(pool, generation=pool.generation + 1, spec=type(pool.spec).model_validate(spec))
        )

    def restart(self, n: int) -> None:
        """The operator is killed and starts again: all it knows is what the objects say."""
        self.c.world = World.of(self.c.snapshot())

    def refusals(self, n: int) -> None:
        self.c.failing = (0.0, 0.3)[n % 2]

    def settle(self, n: int = 0) -> None:
        failing, self.c.failing = self.c.failing, 0.0
        for _ in range(80):
            self.c.world.status_at.clear()  # figures need not wait their two seconds here
            if not self.act_once():
                if not self.c.world.retry_at:
                    break
                self.c.now += 61  # what was refused is tried again by then
        else:
            raise AssertionError("the planner does not come to rest")
        self.check_rest()
        self.c.failing = failing

    # -- the actor, watched ----------------------------------------------------------------------------

    def act_once(self) -> list[Action]:
        self.share_of |= {uid: g.spec.share for uid, g in self.c.grants.items() if g.spec}
        actions = list(make_plan(self.c.world, self.c.now).actions)
        self.check_gangs(actions)
        for action in actions:
            if isinstance(action, ReleasePod):
                self.check_release(action)
            elif isinstance(action, WriteServer):
                self.check_server_write(action)
            self.c.carry_out(action)
        return actions

    def check_release(self, action: ReleasePod) -> None:
        c = self.c
        grant = c.grants[action.grant_uid]
        pod = c.pods[action.uid]
        assert grant.spec
        start, end = grant.spec.term.bounds(ZoneInfo("Asia/Seoul"))
        assert start <= c.now < end, "released outside of the term"
        assert grant.spec.suspend == "None"
        need = pod.shape.amount(GPU)
        assert c.taken(grant.uid) + need <= grant.spec.gpus, "more than granted"
        tenant = c.namespaces[pod.namespace].tenant
        assert c.namespaces[grant.namespace].tenant == tenant, "another tenant's grant"
        quota = c.quotas[tenant].spec
        assert quota
        if grant.spec.share == "Public":
            mine = sum(
                p.shape.amount(GPU)
                for p in c.pods.values()
                if p.grant_uid
                and not p.ended
                and c.namespaces[p.namespace].tenant == tenant
                and not (p.deleting and not p.node)
                and self.share_of.get(p.grant_uid) == "Public"
            )
            assert mine + need <= quota.limits[0].gpus, "more than the tenant's limit, gone grants counted"
        node = c.nodes[action.server]
        assert node.ready and not node.unschedulable, "released onto a server that cannot take it"
        assert node.labels.get(names.SHARE_LABEL) == grant.spec.share, "shares mixed"
        for key, value in action.selector:
            assert node.labels.get(key) == value
        pinned = [
            p
            for p in c.pods.values()
            if not p.ended
            and (p.node == node.name or (not p.node and not p.deleting and _pin(p) == node.name))
        ]
        used = sum(p.shape.amount(GPU) for p in pinned)
        assert used + need <= dict(node.allocatable)[GPU], "more than the server has"
        others = {p.grant_uid for p in pinned if p.grant_uid} - {grant.uid}
        if grant.spec.placement != "SharedServers":
            assert not others, "a server of its own is shared"
        assert {c.namespaces[p.namespace].tenant for p in pinned if p.grant_uid} <= {tenant}, (
            "tenants share a server"
        )

    def check_server_write(self, action: WriteServer) -> None:
        node = self.c.nodes.get(action.node)
        if node is None:
            return
        here = [p for p in self.c.pods.values() if p.node == node.name and not p.ended]
        for key, value in action.labels:
            if key == names.SHARE_LABEL and value and node.labels.get(key):
                assert not here, "a server in use changes share"
            if key == names.GRANT_UID_LABEL and node.labels.get(key) not in (None, value):
                assert not here, "a server in use leaves its grant"
            if key == names.GRANT_UID_LABEL and value:
                assert all(p.grant_uid in ("", value) for p in here)
                assert not any(not p.grant_uid for p in here), "a server is given away under somebody's pod"

    def check_gangs(self, actions: list[Action]) -> None:
        released: dict[tuple[str, str], list[ReleasePod]] = defaultdict(list)
        for action in actions:
            if isinstance(action, ReleasePod) and not action.replacement:
                pod = self.c.pods[action.uid]
                if pod.gang_size.isdigit() and int(pod.gang_size) > 1:
                    released[pod.namespace, pod.controller or pod.name].append(action)
        for (namespace, owner), part in released.items():
            living = [
                p
                for p in self.c.pods.values()
                if (p.namespace, p.controller) == (namespace, owner) and not p.gates and not p.ended
            ]
            size = int(self.c.pods[part[0].uid].gang_size)
            newest = max(self.c.pods[each.uid].created for each in part)
            ran_ahead = [
                p
                for p in self.c.pods.values()
                if (p.namespace, p.controller) == (namespace, owner) and p.phase == "Succeeded"
                and p.released_at >= newest
            ]
            assert len(part) + len(living) + len(ran_ahead) >= size, "a gang is released in parts"

    # -- what must hold at any moment --------------------------------------------------------------------

    def check(self) -> None:
        c = self.c
        # No two grants have one server at one time.
        for server in c.world.servers.values():
            booked = sorted((b.start, b.end, b.grant) for b in server.bookings if b.end > c.now)
            for one, other in pairwise(booked):
                assert one[1] <= other[0], f"{server.name} is booked twice: {one} {other}"
        for state in c.world.grants.values():
            spec = state.grant.spec
            if not spec or not state.pool or state.shared:
                continue
            fabrics = {c.world.servers[n].fabric for n in state.servers if n in c.nodes}
            if spec.placement == "OneFabric":
                assert len(fabrics) <= 1, "a OneFabric grant is spread"
            assert len(set(state.servers)) == len(state.servers)
        # The planner's books are the cluster's.
        for uid, usage in c.world.usage.items():
            mine = c.taken(uid)
            assert (
                usage.held
                + usage.reserved
                - sum(
                    c.pods[u].shape.amount(GPU)
                    for u in c.world.assumed
                    if c.world.assumed[u].grant_uid == uid
                )
                == mine
            ), f"{uid}: {usage} but {mine}"
        for server in c.world.servers.values():
            if server.pool:
                held = sum(
                    p.shape.amount(GPU) for p in c.pods.values() if p.node == server.name and not p.ended
                )
                assert server.seats_held == held

    def check_rest(self) -> None:
        """At rest, a world made from scratch finds nothing to do either."""
        scratch = World.of(self.c.snapshot())
        mine = self.c.world
        # Memory that no object carries is handed over: back-off, delays, when a shared server was emptied.
        scratch.backoff = dict(mine.backoff)
        scratch.retry_at, scratch.failures = dict(mine.retry_at), mine.failures
        scratch.evicting = dict(mine.evicting)
        scratch.policies, scratch.policies_at, scratch.hour = mine.policies, mine.policies_at, mine.hour
        with_node = {name: server for name, server in mine.servers.items() if server.node}
        for name, server in with_node.items():
            scratch.servers[name].emptied_at = server.emptied_at
        for key, gang in mine.gangs.items():
            if key in scratch.gangs:
                scratch.gangs[key].whole = gang.whole
                scratch.gangs[key].released_here = gang.released_here
                scratch.gangs[key].bound_once |= gang.bound_once
                scratch.gangs[key].succeeded |= gang.succeeded
        scratch.places = {u: s for u, s in mine.places.items() if u in scratch.pods}
        for uid in scratch.places:
            scratch.put_pod(replace(scratch.pods[uid], version="again"))
        for uid, until in mine.parked.items():
            scratch.park(uid, until)
        # A pod that was set aside keeps its words until something about it changes; from scratch they may be others.
        # One whose eviction was refused is asked again a little later, which is not remembered either.
        asked = {uid for _, uid in mine.deadlines}
        left = [
            a
            for a in make_plan(scratch, self.c.now).actions
            if not isinstance(a, ExplainPod) and not (isinstance(a, EvictPod) and a.uid in asked)
        ]
        assert not left, f"from scratch there is more to do: {left[:3]}"
        for uid, state in mine.grants.items():
            other = scratch.grants[uid]
            assert (state.accepted, state.allocated, state.servers, state.seats, state.position) == (
                other.accepted, other.allocated, other.servers, other.seats, other.position,
            )  # fmt: skip
        for name, server in with_node.items():
            assert server.share == scratch.servers[name].share
            assert server.seats_used == scratch.servers[name].seats_used
            assert server.bucket == scratch.servers[name].bucket


def _pin(pod: Pod) -> str:
    return dict(pod.shape.selector).get(names.HOSTNAME_LABEL, "")


@pytest.mark.parametrize("seed", range(60))
def test_every_rule_holds_in_long_random_histories(seed: int) -> None:
    dice = random.Random(seed)
    steps = [(dice.choice(KINDS), dice.randrange(1 << 16)) for _ in range(100)]
    History(a_fleet(dice.choice([None, 32, 40, 100])), seed).run(steps)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(STEP, max_size=60),
    public=st.sampled_from([None, 32, 40, 100]),
    seed=st.integers(0, 1000),
)
def test_every_rule_holds_in_any_history(steps: list[tuple[str, int]], public: int | None, seed: int) -> None:
    History(a_fleet(public), seed).run(steps)
