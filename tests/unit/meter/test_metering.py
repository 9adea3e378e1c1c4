"""The meter wired to the world: on whose account pods are booked, whatever was seen first."""

import itertools
import sqlite3

import pytest
from msgspec.structs import replace

from gpugrant import names
from gpugrant.api.grant import GpuGrantSpec
from gpugrant.api.pool import GpuPoolSpec
from gpugrant.config import Settings
from gpugrant.decide.judge import read_terms
from gpugrant.decide.world import World
from gpugrant.meter.facts import Condition
from gpugrant.model.node import Node
from gpugrant.model.objects import Allocation, Grant, Namespace, Pool
from gpugrant.run.metering import Metering
from meter_kit import NOVEMBER, a_pod

T = NOVEMBER
GPU = names.DEFAULT_RESOURCE
DAY = 86_400


def a_node(name="server-1"):
    labels = {names.PROVIDER_LABEL: "nhn", names.PRODUCT_LABEL: "B200", names.FABRIC_LABEL: "f1"}
    return Node(name, f"uid-{name}", labels=labels, capacity=((GPU, 8),), allocatable=((GPU, 8),))


def a_pool(name="nhn-b200", programme="purchase-2025", gpu_type="B200"):
    spec = {"provider": "nhn", "gpuType": gpu_type, "programme": programme, "ownUse": "Open"}
    return Pool(name, f"uid-{name}", spec=GpuPoolSpec.model_validate(spec))


def a_grant(allocation=None, start="2026-10-01", end="2026-11-02", **spec):
    body = {"gpuType": "B200", "gpus": 8, "term": {"start": start, "end": end}, **spec}
    return Grant(
        "hangang-lm", "pretrain", "uid-g", spec=GpuGrantSpec.model_validate(body), allocation=allocation
    )


class Bench:
    """A world and its metering on a ledger in a folder, with a clock one sets."""

    def __init__(self, folder):
        self.folder, self.now = folder, T + 1000
        self.recorded = []
        programmes = {"purchase-2025": {}, "lease-2025": {"timeZone": "America/New_York"}}
        self.world = World(Settings.model_validate({"programmes": programmes}))
        url = f"sqlite:///{folder / 'ledger.db'}"
        self.metering = Metering(url, self.world, lambda *_: None, clock=lambda: self.now)
        self.metering.fresh = lambda: self.now
        self.metering.strip = lambda pod: self.recorded.append(pod.uid)

    def put_pool(self, pool):
        self.world.put_pool(pool)
        self.metering.world_changed()

    def put_namespace(self, namespace):
        self.world.put_namespace(namespace)
        self.metering.world_changed(namespace.name)

    def put_grant(self, grant):
        self.world.put_grant(grant)
        self.metering.observe_grant(grant)

    def put_pod(self, pod):
        self.world.put_pod(pod)
        self.metering.observe_pod(pod)

    async def booked(self):
        """Return the account of every pod, with its seats."""
        await self.metering.meter.drained()
        with sqlite3.connect(self.folder / "ledger.db") as connection:
            connection.row_factory = sqlite3.Row
            query = "SELECT * FROM holdings JOIN accounts ON accounts.id = holdings.account_id"
            return {row["uid"]: dict(row) for row in connection.execute(query)}

    def ends(self):
        """Return the ends of the grant's term in the order in which they were learnt."""
        with sqlite3.connect(self.folder / "ledger.db") as connection:
            return [row[0] for row in connection.execute("SELECT term_end FROM grant_terms ORDER BY since")]


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path)
    await bench.metering.meter.start()
    yield bench
    await bench.metering.meter.stop()


FACTS = {
    "node": lambda bench: bench.world.put_node(a_node()),
    "pod": lambda bench: bench.put_pod(
        a_pod(namespace="nhn-research", created=T, scheduled_at=T, finalizer=False)
    ),
    "namespace": lambda bench: bench.put_namespace(Namespace("nhn-research", provider="nhn")),
    "pool": lambda bench: bench.put_pool(a_pool()),
}


@pytest.mark.parametrize("order", list(itertools.permutations(FACTS)), ids=", ".join)
async def test_in_whatever_order_things_are_first_seen_the_account_is_the_same(bench, order):
    for name in order:
        FACTS[name](bench)
        await bench.booked()
    bench.metering.first_look_complete()
    row = (await bench.booked())["a"]
    told = {name: row[name] for name in ("owner", "pool", "programme", "provider", "gpu_type", "seats")}
    assert told == {
        "owner": "own-use",
        "pool": "nhn-b200",
        "programme": "purchase-2025",
        "provider": "nhn",
        "gpu_type": "B200",
        "seats": 8,
    }


async def test_a_pod_whose_server_went_before_the_start_holds_nothing_up_and_is_its_grants(bench):
    bench.put_pool(a_pool())
    bench.put_namespace(Namespace("hangang-lm", tenant="hangang"))
    bench.put_grant(a_grant(Allocation("nhn-b200", "f1", ("server-gone",), 8)))
    pod = a_pod(
        node="server-gone",
        created=T,
        scheduled_at=T,
        phase="Failed",
        disrupted_at=T + 500,
        grant="pretrain",
        grant_uid="uid-g",
        gpu_label=True,
    )
    bench.put_pod(pod)
    bench.metering.first_look_complete()
    row = (await bench.booked())["a"]
    assert bench.recorded == ["a"]
    assert (row["owner"], row["tenant"], row["grant_uid"]) == ("grant", "hangang", "uid-g")
    assert (row["pool"], row["programme"], row["share"]) == ("nhn-b200", "purchase-2025", "Public")
    assert (row["seats"], row["held_until"] - row["held_from"], row["server"]) == (8, 500, "server-gone")
    assert bench.metering.meter.health().watermark == bench.now


async def test_a_pod_bound_to_a_server_that_is_about_to_be_seen_waits_for_it(bench):
    bench.put_pool(a_pool())
    bench.put_namespace(Namespace("hangang-lm", tenant="hangang"))
    bench.metering.first_look_complete()
    bench.put_pod(a_pod(created=bench.now - 2, scheduled_at=bench.now - 1, finalizer=False))
    assert await bench.booked() == {}
    bench.world.put_node(a_node())
    assert (await bench.booked())["a"]["fabric"] == "f1"


async def test_a_pod_of_a_namespace_that_is_about_to_be_seen_waits_for_it(bench):
    bench.put_pool(a_pool())
    bench.world.put_node(a_node())
    bench.metering.first_look_complete()
    bench.put_pod(
        a_pod(namespace="nhn-new", created=bench.now - 2, scheduled_at=bench.now - 1, finalizer=False)
    )
    assert await bench.booked() == {}
    bench.put_namespace(Namespace("nhn-new", provider="nhn"))
    assert (await bench.booked())["a"]["owner"] == "own-use"


async def test_a_pod_bound_to_a_server_that_nobody_ever_sees_waits_for_a_minute(bench):
    bench.metering.first_look_complete()
    bench.put_pod(a_pod(created=bench.now - 2, scheduled_at=bench.now - 1, finalizer=False))
    bench.now += 60
    assert (await bench.booked())["a"]["seats"] == 8


async def test_a_pod_on_a_server_that_went_in_this_life_keeps_its_seats(bench):
    bench.put_pool(a_pool())
    bench.put_namespace(Namespace("hangang-lm", tenant="hangang"))
    bench.metering.first_look_complete()
    bench.metering.gone["server-1"] = bench.now
    bench.put_pod(a_pod(created=bench.now - 2, scheduled_at=bench.now - 1, finalizer=False))
    assert (await bench.booked())["a"]["seats"] == 8


async def test_grace_begins_where_what_enforces_the_term_says_it_ends(bench):
    """Of two programmes the grant names none: the pools of its GPU type say which it is."""
    bench.put_namespace(Namespace("hangang-lm", tenant="hangang"))
    bench.put_grant(a_grant())
    bench.put_pool(a_pool(programme="purchase-2025"))
    bench.world.put_node(a_node())
    bench.put_pod(a_pod(created=T, scheduled_at=T, grant="pretrain", grant_uid="uid-g"))
    bench.metering.first_look_complete()
    await bench.booked()
    state = bench.world.grants["uid-g"]
    read_terms(bench.world, state)
    assert bench.ends() == [state.end] == [T + DAY]
    bench.now = T + DAY + 100
    await bench.metering.meter.drained()
    sums = bench.metering.meter.tally().read().sums
    assert list(sums.values()) == [
        # The ledger was opened 1000 s after the bind.
        {("2026-11", Condition.USED): 8 * (DAY - 1000), ("2026-11", Condition.GRACE): 800},
    ]


async def test_terms_are_learnt_again_when_a_pool_tells_of_another_programme(bench):
    bench.put_namespace(Namespace("hangang-lm", tenant="hangang"))
    bench.put_grant(a_grant())
    bench.metering.first_look_complete()
    await bench.booked()
    bench.now += 1
    bench.put_pool(a_pool(programme="lease-2025"))
    await bench.booked()
    bench.now += 1
    bench.put_pool(a_pool(programme="lease-2025"))
    await bench.booked()
    in_utc, in_new_york = T + DAY + 9 * 3600, T + DAY + 9 * 3600 + 5 * 3600
    assert bench.ends() == [in_utc, in_new_york]


async def test_an_edited_term_is_learnt_before_it_is_planned_on(bench):
    bench.put_pool(a_pool())
    bench.put_grant(a_grant())
    bench.metering.first_look_complete()
    await bench.booked()
    bench.now += 1
    bench.put_grant(a_grant(end="2026-11-03"))
    await bench.booked()
    assert bench.ends() == [T + DAY, T + 2 * DAY]


async def test_before_there_is_a_cache_facts_are_dated_by_the_api_servers_clock(tmp_path):
    url, world = f"sqlite:///{tmp_path / 'ledger.db'}", World(Settings())
    metering = Metering(url, world, lambda *_: None, clock=lambda: T + 1000.9)
    await metering.meter.start()
    metering.observe_settings("digest", "period: 10s", Settings())
    await metering.meter.stop()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("SELECT since FROM settings_versions").fetchall() == [(T + 1000,)]


async def test_a_pod_that_ran_on_without_an_operator_is_on_the_grant_that_the_ledger_has_it_on(bench, tmp_path):
    """gpugrant was taken out, which takes its marks off pods, and installed again over the same ledger."""
    def furnish(bench):
        bench.put_pool(a_pool())
        bench.put_namespace(Namespace("hangang-lm", tenant="hangang"))
        bench.put_grant(a_grant(Allocation("nhn-b200", "f1", ("server-1",), 8)))
        bench.world.put_node(a_node())

    furnish(bench)
    marked = a_pod(created=T, scheduled_at=T, grant="pretrain", grant_uid="uid-g")
    bench.put_pod(marked)
    bench.metering.first_look_complete()
    assert (await bench.booked())["a"]["grant_uid"] == "uid-g"
    await bench.metering.meter.stop()

    again = Bench(tmp_path)
    await again.metering.meter.start()
    furnish(again)
    again.put_pod(replace(marked, grant="", grant_uid="", gpu_label=False, finalizer=False))
    again.metering.first_look_complete()
    before = await again.booked()
    again.metering.planned()
    assert again.world.usage["uid-g"].held == 8
    assert await again.booked() == before, "one row, as it was"
    await again.metering.meter.stop()
