"""The ledger under any history and any delivery of it, against a counter that looks at every second."""

import shutil
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gpugrant.meter.facts import Ended, EndReason, GrantTerms, Held
from gpugrant.meter.intervals import Hold, cut_overlaps
from gpugrant.meter.months import Calendars
from gpugrant.meter.store import Store
from meter_kit import a_place, a_store, an_account, ended, held

T = 1_793_458_800
SPAN = 120
SHORT_MONTHS = Calendars(period=50)  # so that every history crosses some


@st.composite
def histories(draw):
    """Return pods' facts: each is bound somewhere, and most end."""
    facts = []
    for number in range(draw(st.integers(1, 8))):
        start = T + draw(st.integers(0, SPAN))
        account = an_account(draw(st.sampled_from(["pretrain", "eval"])))
        place = a_place(
            account, draw(st.sampled_from(["server-1", "server-2"])), draw(st.sampled_from([8, 4, 1]))
        )
        uid = f"pod-{number}"
        length = draw(st.none() | st.integers(0, SPAN))
        if length is None:
            facts.append(held(uid, start, place))
        else:
            reason = EndReason.FINISHED if length else EndReason.REJECTED
            facts.append(ended(uid, start, start + length, place, reason))
    return facts


@st.composite
def deliveries(draw, facts):
    """Return batches: every fact at least once, binds before, after or without their ends, repeated."""
    told = []
    for fact in facts:
        told += [fact] * draw(st.integers(1, 2))
        if isinstance(fact, Ended):
            told += [fact.hold] * draw(st.integers(0, 2))
            if draw(st.booleans()):  # it was missed first: bounded, until its end is known
                seen = draw(st.integers(fact.hold.start, T + 2 * SPAN))
                told.append(replace(fact, end=seen, reason=EndReason.UNOBSERVED, gone_at=T + 2 * SPAN))
    told = draw(st.permutations(told))
    ends = draw(st.lists(st.booleans(), min_size=len(told), max_size=len(told)))
    batches = [[]]
    for fact, ends_batch in zip(told, ends, strict=True):
        batches[-1].append(fact)
        if ends_batch:
            batches.append([])
    return batches


def by_the_second(facts, mark, term_end):
    """Return GPU-seconds by grant, month and condition, counted second by second."""
    ends = {}
    for server in ("server-1", "server-2"):
        ends |= cut_overlaps(
            Hold(bind.uid, bind.start, None if fact is bind else fact.end, bind.dimensions.seats, 8)
            for fact in facts
            for bind in [fact.hold if isinstance(fact, Ended) else fact]
            if bind.dimensions.server == server
        )
    sums = Counter()
    for fact in facts:
        bind: Held = fact.hold if isinstance(fact, Ended) else fact
        end = ends[bind.uid]
        for second in range(bind.start, mark if end is None else min(end, mark)):
            grant = bind.dimensions.account.grant
            month = SHORT_MONTHS.of("").month_of(second).name
            condition = "Grace" if grant == "pretrain" and second >= term_end else "Used"
            sums[grant, month, condition] += bind.dimensions.seats
    return sums


def settle_all(store: Store):
    """Close every day that is over, and make anew what facts came late for."""
    while store.settle():
        pass


def shown(store: Store):
    return Counter(
        {
            (grant, month, str(condition)): amount
            for grant in ("pretrain", "eval")
            for (month, condition), amount in store.tally.sums(an_account(grant)).items()
            if amount
        }
    )


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    store = a_store(folder, now=T, calendars=SHORT_MONTHS)
    store.open()
    store.close()
    return folder / "ledger.db"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_delivery_of_a_history_gives_the_sums_of_every_second(empty_ledger, data):
    facts = data.draw(histories())
    term_end = T + data.draw(st.integers(0, 2 * SPAN))
    batches = data.draw(deliveries(facts))
    restarts = data.draw(st.sets(st.integers(0, len(batches) - 1), max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(empty_ledger, folder)
        store = a_store(Path(folder), calendars=SHORT_MONTHS)
        store.open()
        store.commit([GrantTerms("uid-of-pretrain", "n", "pretrain", T, term_end, since=T)])
        counters = Counter()
        for number, batch in enumerate(batches):
            store.commit(batch, T + (number + 1) * SPAN // len(batches))
            for _ in range(data.draw(st.integers(0, 3))):
                store.settle()
            if number in restarts:
                store.close()
                store = a_store(Path(folder), calendars=SHORT_MONTHS)
                store.open()
            # Whatever was learnt late: counters never fall, also over restarts.
            now = Counter(
                {
                    (a.grant, c): amount
                    for a, per in store.tally.read().counters.items()
                    for c, amount in per.items()
                }
            )
            assert all(now[key] >= amount for key, amount in counters.items())
            counters = now
        settle_all(store)
        mark = store.tally.watermark
        assert shown(store) == by_the_second(facts, mark, term_end)
        store.commit([], T + 5 * SPAN)
        settle_all(store)
        assert shown(store) == by_the_second(facts, T + 5 * SPAN, term_end)
        store.close()
        check_totals_are_the_sums_of_rows(Path(folder) / "ledger.db", len(facts))


def check_totals_are_the_sums_of_rows(path, pods):
    """Check what is in the file itself: one row per pod, and totals that equal the rows in the closed days."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT uid) FROM holdings").fetchone() == (
            pods,
            pods,
        )
        (end,) = connection.execute("SELECT max(end_at) FROM days").fetchone()
        rows = connection.execute(
            f"SELECT account_id, sum((min(coalesce(held_until, {end}), {end}) - held_from) * seats) "
            f"FROM holdings WHERE min(coalesce(held_until, {end}), {end}) > held_from GROUP BY account_id"
        ).fetchall()
        assert connection.execute("SELECT count(*) FROM days WHERE stale").fetchone() == (0,)
        totals = connection.execute(
            "SELECT account_id, sum(gpu_seconds) FROM totals GROUP BY account_id HAVING sum(gpu_seconds) > 0"
        ).fetchall()
        assert sorted(rows) == sorted(totals)
        assert connection.execute("SELECT count(*) FROM totals WHERE gpu_seconds < 0").fetchone() == (0,)
    connection.close()
