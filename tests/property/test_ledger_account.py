"""The whole account under any delivery of any history, killed and closed on the way, against a counter of seconds."""

import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpugrant.meter.closing import NotClosable
from gpugrant.meter.day_tables import cells, corrections, days, months
from gpugrant.meter.days import day_row, read_cells
from gpugrant.meter.digests import day_digests
from gpugrant.meter.facts import Dimensions, Ended, EndReason, Held
from gpugrant.meter.months import Calendars
from gpugrant.meter.reported import name_of
from gpugrant.meter.rows import Accounts
from gpugrant.meter.store import Store
from gpugrant.meter.verify import verify_ledger
from property.test_timeline import LAST, PROGRAMMES, by_the_second, facts_of_a_window

PERIOD = 10
END = 10 * (LAST // PERIOD + 8)
CALENDARS = Calendars(period=PERIOD)


def held(stay):
    return Held(
        stay.uid,
        "space",
        stay.uid,
        Dimensions(stay.account, stay.server, stay.fabric, "", stay.seats),
        stay.start,
    )


def told_of(stay):
    """Return what is told of a hold, in order."""
    told = [held(stay)]
    if stay.end < 1000:
        reason = EndReason.UNOBSERVED if stay.gone > stay.end else EndReason.FINISHED
        told.append(Ended(held(stay), stay.end, reason, gone_at=stay.gone))
    return told


@st.composite
def deliveries(draw, facts):
    """Return batches: what is told of one subject in order, of several in any, late or not, some of it again."""
    lines = [told_of(stay) for stay in facts.stays]
    for by_subject in (
        facts.placed,
        facts.health,
        facts.unwell,
        facts.announced,
        facts.seated,
        facts.contracted,
    ):
        lines += [list(history) for history in by_subject.values()]
    for claims in facts.claimed.values():
        for uid in {claim.grant_uid for claim in claims}:
            lines.append([claim for claim in claims if claim.grant_uid == uid])
    lines = [line for line in lines if line]
    order = draw(st.permutations([number for number, line in enumerate(lines) for _ in line]))
    told, batches = [], [[]]
    for number in order:
        fact = lines[number].pop(0)
        told.append(fact)
        batches[-1].append(fact)
        if not draw(st.integers(0, 4)):
            batches[-1].append(draw(st.sampled_from(told[-5:])))  # told again
        if not draw(st.integers(0, 3)):
            batches.append([])
    return batches


def counters(store):
    return Counter(
        {
            (account, condition): amount
            for account, shown in store.tally.read().counters.items()
            for condition, amount in shown.items()
        }
    )


def close_months(store, closed):
    """Close every month that can be."""
    for programme, provider, month in store.reported():
        name = name_of(programme, provider, month)
        account = store.month_account(programme, provider, month)
        # What a bind cuts is told as its end here, so that on the way more may be held than there is.
        if name in closed or any(one.difference for one in account.identities):
            continue
        try:
            store.close_month(name, "f" * 64, 1)
        except NotClosable:
            continue
        closed[name] = (programme, provider, month, store.month_account(programme, provider, month))


def effective(connection, accounts, row):
    found = Counter(read_cells(connection, accounts, cells, row.id))
    found.update(read_cells(connection, accounts, corrections, row.id))
    return {cell: amount for cell, amount in found.items() if amount}


def check_days(connection, facts):
    """Check every cell of every stored day, and that no second is left out."""
    accounts = Accounts()
    accounts.load(connection)
    for programme in PROGRAMMES:
        stored = [
            day_row(row)
            for row in connection.execute(days.select().where(days.c.programme == programme)).all()
        ]
        # No month is made before one that is closed, whatever is told late.
        closed = connection.execute(months.select().where(months.c.programme == programme)).all()
        begin = min(row.day.start for row in stored) if closed else 0
        for start in range(0, END, PERIOD):
            wanted, expected, _ = by_the_second(facts, programme, start, start + PERIOD)
            here = [row for row in stored if row.day.start == start]
            assert bool(here) or not wanted or start < begin
            for row in here:
                assert effective(connection, accounts, row) == dict(wanted)
                assert sum(wanted.values()) == sum(expected.values())
    assert [str(one) for one in verify_ledger(connection)] == []


def run(url, facts, data):
    """Deliver a history; check what is shown on the way and what is stored in the end."""
    with ExitStack() as stack:  # an example may be given up at any draw

        def opened():
            store = Store(url, CALENDARS, now=lambda: 0)
            stack.callback(store.close)
            store.open()
            return store

        deliver(opened, facts, data)


def deliver(opened, facts, data):
    store = opened()
    store.commit([one for history in facts.terms.values() for one in history])
    batches = data.draw(deliveries(facts))
    shown, closed = Counter(), {}
    for number, batch in enumerate(batches):
        store.commit(batch, (number + 1) * (LAST + 20) // len(batches))
        for _ in range(data.draw(st.integers(0, 4))):
            store.settle()
        if not data.draw(st.integers(0, 3)):
            close_months(store, closed)
        if data.draw(st.booleans()):
            now = counters(store)
            assert all(now[key] >= amount for key, amount in shown.items())
            shown = now
        if not data.draw(st.integers(0, 5)):
            store.close()
            store = opened()
    store.commit([], END + 1)
    while store.settle():
        pass
    for programme, provider, month, account in closed.values():
        assert store.month_account(programme, provider, month) == account
    for programme, provider, month in store.reported():
        account = store.month_account(programme, provider, month)
        found = day_digests(account.lines)
        assert all(found.get(one.day, one.sha256) == one.sha256 for one in account.days)
    now = counters(store)
    assert all(now[key] >= amount for key, amount in shown.items())
    sums = store.tally.read().sums
    store._read(lambda connection: check_days(connection, facts))
    store.close()
    store = opened()
    wanted = {
        account: {key: amount for key, amount in of.items() if amount}
        for account, of in sums.items()
        if any(of.values())
    }
    found = {
        account: {key: amount for key, amount in of.items() if amount}
        for account, of in store.tally.read().sums.items()
        if any(of.values())
    }
    assert found == wanted


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    store = Store(f"sqlite:///{folder / 'ledger.db'}", CALENDARS, now=lambda: 0)
    store.open()
    store.close()
    return folder / "ledger.db"


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(facts_of_a_window(), st.data())
def test_every_cell_of_every_day_is_what_a_counter_of_seconds_finds(empty_ledger, facts, data):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(empty_ledger, folder)
        url = f"sqlite:///{Path(folder) / 'ledger.db'}"
        run(url, facts, data)


@settings(deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
@given(facts_of_a_window(), st.data())
def test_the_same_on_postgresql(postgres, facts, data):
    url = postgres.database()
    run(url, facts, data)
