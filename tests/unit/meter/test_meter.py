"""The meter in an event loop, on a real ledger file: pod events in, rows and words out."""

import asyncio
import sqlite3

import pytest
from msgspec.structs import replace

from gpugrant.meter.facts import Condition, Dimensions, GrantTerms
from gpugrant.meter.intervals import NodeFacts
from gpugrant.meter.meter import Meter
from gpugrant.meter.months import Calendars
from gpugrant.model.pod import Pod, Shape
from meter_kit import NOVEMBER, a_place, a_pod, a_store, an_account

T = NOVEMBER
USED = Condition.USED


class Bench:
    """A meter on a ledger in a folder, with a clock one sets and a note of what was said to be recorded."""

    def __init__(self, folder):
        self.folder = folder
        self.now = T
        self.recorded: list[str] = []
        self.waits: list[int] = []
        self.known = True
        self.meter = None

    async def start(self, *, listed=True, **given):
        store = a_store(self.folder, now=self.now, **given)
        self.meter = Meter(
            store,
            resolve=self._resolve,
            on_recorded=lambda pod: self.recorded.append(pod.uid),
            clock=lambda: self.now,
            node_facts=lambda name: NodeFacts(),
            on_admitted=lambda account, seconds: self.waits.append(seconds),
        )
        await self.meter.start()
        if listed:
            self.meter.listing_complete()
        return self.meter

    async def restart(self, **given):
        await self.meter.stop()
        return await self.start(**given)

    def _resolve(self, pod: Pod) -> Dimensions | None:
        return a_place(server=pod.node, seats=pod.shape.amount("nvidia.com/gpu")) if self.known else None

    def sums(self):
        return self.meter.tally().sums(an_account())

    def rows(self, columns="uid, held_from - ?, held_until - ?, end_reason"):
        with sqlite3.connect(self.folder / "ledger.db") as connection:
            marks = (T,) * columns.count("?")
            return connection.execute(f"SELECT {columns} FROM holdings ORDER BY uid", marks).fetchall()


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    if bench.meter is not None:
        await bench.meter.stop()


def running(uid="a", **given):
    return a_pod(uid, **({"created": T, "scheduled_at": T} | given))


def finished(uid="a", at=T + 60, **given):
    return running(uid, phase="Succeeded", finished_at=at, **given)


async def test_a_pod_is_counted_while_it_runs_and_told_of_once_its_end_is_kept(bench):
    meter = await bench.start()
    meter.observe_pod(running())
    bench.now = T + 100
    await meter.drained()
    assert bench.sums() == {("2026-11", USED): 800}
    assert bench.recorded == []
    meter.observe_pod(finished(at=T + 90))
    assert bench.recorded == [], "told before it was committed"
    await meter.drained()
    assert bench.recorded == ["a"]
    assert bench.rows() == [("a", 0, 90, "Finished")]


async def test_the_meter_writes_by_itself_within_a_moment(bench):
    meter = await bench.start()
    told = asyncio.Event()
    meter._on_recorded = lambda pod: told.set()
    meter.observe_pod(finished())
    await asyncio.wait_for(told.wait(), 5)


async def test_repeated_events_of_an_ended_pod_are_told_of_again_only_once_it_is_kept(bench):
    meter = await bench.start()
    for _ in range(3):
        meter.observe_pod(finished())
    assert bench.recorded == []
    await meter.drained()
    assert bench.recorded == ["a"]
    meter.observe_pod(finished())
    assert bench.recorded == ["a", "a"], "the finalizer is still on: say it again"
    await meter.drained()
    assert bench.rows() == [("a", 0, 60, "Finished")]


async def test_a_relist_after_a_restart_tells_again_of_pods_whose_finalizer_is_still_on(bench):
    meter = await bench.start()
    meter.observe_pod(finished())
    await meter.drained()
    meter = await bench.restart(listed=False)
    meter.observe_pod(finished())
    meter.listing_complete()
    await meter.drained()
    assert bench.recorded == ["a", "a"]
    assert bench.rows() == [("a", 0, 60, "Finished")]


async def test_a_pod_that_waits_holds_nothing_and_leaves_no_row(bench):
    meter = await bench.start()
    meter.observe_pod(running(node="", phase="Pending", finalizer=False))
    meter.pod_gone(running(node="", phase="Pending", finalizer=False), T + 5)
    await meter.drained()
    assert bench.rows() == []


async def test_a_released_pod_that_goes_before_it_is_bound_is_recorded_as_holding_nothing(bench):
    meter = await bench.start()
    meter.observe_pod(running(node="", phase="Pending", scheduled_at=0))
    await meter.drained()
    assert bench.recorded == []
    meter.observe_pod(running(node="", phase="Pending", scheduled_at=0, deleting=T + 7))
    await meter.drained()
    assert bench.recorded == ["a"]
    assert bench.rows() == [("a", 7, 7, "NeverBound")]


async def test_an_absurd_number_of_gpus_on_a_pod_that_was_never_bound_stops_nothing(bench):
    meter = await bench.start()
    absurd = Shape(resources=(("nvidia.com/gpu", 10**30),))
    meter.observe_pod(running("absurd", node="", phase="Pending", deleting=T + 7, shape=absurd))
    meter.observe_pod(finished("b"))
    await meter.drained()
    assert sorted(bench.recorded) == ["absurd", "b"]


async def test_a_fact_that_no_database_takes_holds_up_no_other(bench):
    meter = await bench.start()
    absurd = Shape(resources=(("nvidia.com/gpu", 10**30),))
    for uid in ("a", "b", "c"):
        meter.observe_pod(finished(uid, node=f"server-{uid}"))
    meter.observe_pod(finished("absurd", node="server-x", shape=absurd))
    for uid in ("d", "e"):
        meter.observe_pod(finished(uid, node=f"server-{uid}"))
    await meter.drained()
    assert bench.recorded == ["a", "b", "c", "d", "e"]
    assert meter.health().refused_facts == 1
    assert "refused" in meter.health().detail


async def test_a_pod_whose_object_goes_while_the_watch_looks_held_until_then(bench):
    meter = await bench.start()
    meter.observe_pod(running(finalizer=False))
    meter.pod_gone(running(finalizer=False), T + 30)
    bench.now = T + 100
    await meter.drained()
    assert bench.sums() == {("2026-11", USED): 240}
    assert bench.rows() == [("a", 0, 30, "Gone")]


async def test_what_vanished_while_the_operator_was_down_is_bounded_and_the_rest_is_kept_as_unobserved(bench):
    meter = await bench.start()
    meter.observe_pod(running("gone", finalizer=False))
    meter.observe_pod(running("stays", node="server-2"))
    bench.now = T + 50
    await meter.stop()
    bench.now = T + 500
    meter = await bench.start(listed=False)
    assert bench.sums() == {("2026-11", USED): 2 * 400}, "at once, and up to where it had seen"
    meter.observe_pod(running("stays", node="server-2"))
    meter.listing_complete()
    await meter.drained()
    assert bench.rows("uid, held_until - ?, gone_at - ?, observed") == [
        ("gone", 50, 500, 0),
        ("stays", None, -T, 0),
    ]
    assert bench.sums() == {("2026-11", USED): 400 + 500 * 8}
    with sqlite3.connect(bench.folder / "ledger.db") as connection:
        assert connection.execute("SELECT start_at, end_at FROM gaps").fetchall() == [(T + 50, T + 500)]


async def test_the_watermark_waits_for_the_first_complete_listing(bench):
    meter = await bench.start(listed=False)
    bench.now = T + 100
    meter.observe_pod(running())
    await meter.drained()
    assert meter.health().watermark == T
    meter.listing_complete()
    await meter.drained()
    assert meter.health().watermark == T + 100


async def test_an_end_found_by_a_relist_after_a_gap_is_bounded_by_what_was_seen(bench):
    meter = await bench.start()
    meter.observe_pod(running(finalizer=False))
    meter.pod_gone(running(finalizer=False), T + 90, seen=T + 40)
    await meter.drained()
    assert bench.rows() == [("a", 0, 40, "Unobserved")]


async def test_while_the_world_is_not_loaded_facts_wait_and_the_watermark_with_them(bench):
    bench.known = False
    meter = await bench.start()
    meter.observe_pod(running("a"))
    meter.observe_pod(finished("b", node="server-2"))
    meter.observe_pod(running("c", node="server-3", finalizer=False))
    meter.pod_gone(running("c", node="server-3", finalizer=False), T + 20)
    bench.now = T + 100
    await meter.drained()
    assert (bench.rows(), meter.health().watermark) == ([], T)
    assert "not known yet" in meter.health().detail
    bench.known = True
    await meter.drained()
    assert bench.rows() == [("a", 0, None, ""), ("b", 0, 60, "Finished"), ("c", 0, 20, "Gone")]
    assert bench.recorded == ["b"]


async def test_while_the_store_is_away_nothing_is_lost_and_it_says_so_and_catches_up(bench):
    away = [False]

    def on_step(step):
        if away[0]:
            raise OSError(5, "Input/output error")

    meter = await bench.start(on_step=on_step)
    meter.observe_pod(running())
    await meter.drained()
    away[0] = True
    meter.observe_pod(finished())
    meter.observe_pod(running("b", node="server-2"))
    assert not await meter._committing.flush()
    health = meter.health()
    assert (health.ready, health.queued, health.failed_commits >= 1) == (False, 2, True)
    assert "Input/output error" in health.detail
    assert bench.recorded == []
    away[0] = False
    bench.now = T + 100
    await meter.drained()
    assert (meter.health().ready, meter.health().queued, bench.recorded) == (True, 0, ["a"])
    assert bench.sums() == {("2026-11", USED): 480 + 800}


async def test_a_store_that_is_away_at_the_start_delays_only_the_writing(bench):
    folder = bench.folder / "volume"
    bench.folder = folder
    meter = await bench.start()
    assert meter.tally() is None
    meter.observe_pod(finished())
    assert "unable to open" in meter.health().detail
    folder.mkdir()
    await meter.drained()
    assert (bench.recorded, meter.health().ready) == (["a"], True)


async def test_what_runs_quietly_while_the_store_comes_back_goes_on(bench):
    """Seen before its place in the world was known, and before the ledger could say that it is held."""
    meter = await bench.start()
    meter.observe_pod(running())
    await meter.drained()
    await meter.stop()
    ledger = bench.folder / "ledger.db"
    ledger.rename(bench.folder / "away.db")
    ledger.mkdir()
    bench.known = False
    meter = await bench.start(listed=False)
    assert meter.tally() is None
    meter.observe_pod(running())
    bench.known = True
    bench.now = T + 100
    meter.listing_complete()
    ledger.rmdir()
    (bench.folder / "away.db").rename(ledger)
    await meter.drained()
    assert bench.rows("uid, held_until, end_reason") == [("a", None, "")]
    assert bench.sums() == {("2026-11", USED): 8 * 100}


async def test_a_ledger_that_a_newer_version_has_shaped_delays_only_the_writing(bench):
    def reshape(revision):
        with sqlite3.connect(bench.folder / "ledger.db") as connection:
            [(was,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        return was

    await (await bench.start()).stop()
    known = reshape("0999")
    meter = await bench.start()
    meter.observe_pod(finished())
    assert (meter.health().ready, bench.recorded) == (False, [])
    assert "the ledger is away: the ledger has the shape 0999" in meter.health().detail
    reshape(known)
    await meter.drained()
    assert (bench.recorded, meter.health().ready) == (["a"], True)


async def test_grace_is_counted_apart_from_the_end_of_the_term_on(bench):
    meter = await bench.start()
    meter.observe_terms(GrantTerms("uid-of-pretrain", "hangang-lm", "pretrain", T - 100, T + 50))
    meter.observe_pod(running())
    bench.now = T + 80
    await meter.drained()
    assert bench.sums() == {("2026-11", USED): 400, ("2026-11", Condition.GRACE): 240}


async def test_what_was_before_there_was_a_ledger_is_on_no_account_and_what_runs_has_its_bind(bench):
    bench.now = T + 100
    meter = await bench.start(listed=False)
    meter.observe_pod(finished("before", at=T + 60, finalizer=False))
    meter.observe_pod(finished("ours", at=T + 60, node="server-2"))
    meter.observe_pod(running("adopted", node="server-3", finalizer=False))
    meter.listing_complete()
    await meter.drained()
    assert bench.rows() == [("adopted", 0, None, ""), ("ours", 0, 60, "Finished")]
    assert bench.sums() == {}
    bench.now = T + 150
    meter.observe_pod(finished("adopted", at=T + 140, node="server-3", finalizer=False))
    await meter.drained()
    assert bench.sums() == {("2026-11", USED): 8 * 40}


async def test_settings_in_force_decide_how_months_are_cut(bench):
    meter = await bench.start()
    meter.observe_settings("digest", "text", Calendars(period=60))
    meter.observe_pod(finished(at=T + 90))
    bench.now = T + 100
    await meter.drained()
    assert sorted(bench.sums().values()) == [240, 480]


async def test_waits_are_told_once_per_pod_and_not_again_after_a_restart(bench):
    meter = await bench.start()
    meter.observe_pod(running(released_at=T + 12))
    meter.observe_pod(running("own-use", node="server-2"))
    await meter.drained()
    meter = await bench.restart(listed=False)
    meter.observe_pod(running(released_at=T + 12))
    meter.listing_complete()
    await meter.drained()
    assert bench.waits == [12]


@pytest.mark.parametrize("turns", range(8))
async def test_stopping_writes_what_is_queued_at_whatever_moment_it_comes(bench, turns):
    meter = await bench.start()
    meter.observe_pod(finished())
    for _ in range(turns):  # turns of the loop: the writer has just begun, waits, has been woken
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await meter.stop()
    bench.meter = None
    assert bench.rows() == [("a", 0, 60, "Finished")]


async def test_a_batch_whose_answer_was_lost_is_written_once(tmp_path):
    """A term that was cut by mistake and put back: told again, both would be edits of their own."""
    lose = False

    def on_step(step):
        nonlocal lose
        if step == "committed" and lose:
            lose = False
            raise OSError("the connection broke after COMMIT")

    bench = Bench(tmp_path)
    meter = await bench.start(on_step=on_step)
    terms = GrantTerms("uid-of-pretrain", "hangang-lm", "pretrain", T, T + 900_000, tenant="hangang", gpus=8)
    meter.observe_terms(terms)
    await meter.drained()
    bench.now = T + 101
    lose = True
    meter.observe_terms(replace(terms, end=T + 50))
    meter.observe_terms(terms)
    meter.observe_pod(a_pod("a", scheduled_at=T + 100))
    await meter.drained()
    assert not lose
    query = "SELECT term_end - ? FROM grant_terms ORDER BY id"
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute(query, (T,)).fetchall() == [(900_000,), (50,), (900_000,)]
    assert [row[0] for row in bench.rows()] == ["a"]
    assert meter.health().held_pods == 1
    assert meter.health().queued == 0
    await meter.stop()


async def test_who_asks_is_answered_by_the_settings_that_were_told_last(tmp_path):
    bench = Bench(tmp_path)
    meter = await bench.start()
    short = Calendars((), 600)
    meter.observe_settings("d", "period: 600s", short)
    assert await meter.ask(lambda store: store.tally.calendars) == short
    await meter.stop()
