"""The store on real databases of both kinds: rows once, sums with them, and a database that does not play."""

import sqlite3
import stat
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from gpugrant.meter.database import reading_engine, writing_engine
from gpugrant.meter.facts import Condition, EndReason, Failure, Gap, GrantTerms, SettingsVersion
from gpugrant.meter.migrations import upgrade
from gpugrant.meter.months import Calendars
from gpugrant.meter.store import Store, StoreAwayError
from gpugrant.meter.tables import metadata
from gpugrant.meter.verify import verify_ledger
from meter_kit import DECEMBER, NOVEMBER, a_place, a_store, an_account, ended, held

T = NOVEMBER
USED, GRACE = Condition.USED, Condition.GRACE


@pytest.fixture
def store(url):
    store = Store(url, now=lambda: T)
    store.open()
    yield store
    store.close()


def rows(url, query):
    engine = reading_engine(url)
    with engine.begin() as connection:
        found = [tuple(row) for row in connection.execute(text(query))]
    engine.dispose()
    return found


def file_url(folder):
    return f"sqlite:///{folder / 'ledger.db'}"


def sums(store, account=None):
    """Return an account's sums once the watermark is past all that is told of here, but what is held."""
    return {key: amount for key, amount in store.tally.sums(account or an_account()).items() if amount}


def test_migrations_make_exactly_the_tables_that_the_code_reads(url):
    engine = writing_engine(url, 5.0)
    with engine.begin() as connection:
        upgrade(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_what_is_held_counts_up_to_the_watermark(store):
    store.commit([held("a", T)], T + 100)
    assert sums(store) == {("2026-11", USED): 800}


def test_what_ended_counts_to_its_end_whatever_the_watermark(store):
    store.commit([ended("a", T, T + 60)], T + 100)
    assert sums(store) == {("2026-11", USED): 480}


def test_an_end_alone_is_enough_where_the_bind_was_not_seen(store, url):
    store.commit([ended("a", T, T + 60)])
    assert rows(url, "SELECT uid, held_from, held_until, seats FROM holdings") == [("a", T, T + 60, 8)]


def test_the_same_facts_again_change_nothing(store, url):
    facts = [held("a", T), ended("a", T, T + 60), held("b", T + 60, a_place(server="server-2"))]
    store.commit(facts, T + 100)
    before = sums(store), rows(url, "SELECT * FROM holdings"), rows(url, "SELECT * FROM totals")
    assert store.commit([*facts, *reversed(facts)], T + 100) == []
    assert (
        sums(store),
        rows(url, "SELECT * FROM holdings"),
        rows(url, "SELECT * FROM totals"),
    ) == before


def test_a_bind_that_arrives_after_its_end_does_not_open_it_again(store):
    store.commit([ended("a", T, T + 60)], T + 100)
    store.commit([held("a", T)], T + 200)
    assert sums(store) == {("2026-11", USED): 480}


def test_the_first_end_that_was_recorded_stays(store):
    store.commit([ended("a", T, T + 60)])
    store.commit([ended("a", T, T + 99)], T + 100)
    assert sums(store) == {("2026-11", USED): 480}


def test_an_end_that_was_only_bounded_is_replaced_once_it_is_known(store):
    store.commit([held("a", T)])
    store.commit([ended("a", T, T + 50, reason=EndReason.UNOBSERVED)])
    store.commit([ended("a", T, T + 60)])
    store.commit([ended("a", T, T + 55, reason=EndReason.UNOBSERVED)], T + 100)
    assert sums(store) == {("2026-11", USED): 480}


def test_an_end_that_was_bounded_once_is_not_bounded_otherwise_later(store):
    for seen in (50, 70, 30):
        store.commit([ended("a", T, T + seen, reason=EndReason.UNOBSERVED)], T + 100)
    assert sums(store) == {("2026-11", USED): 400}


def test_all_dimensions_stay_as_they_were_at_bind(store):
    store.commit([held("a", T, a_place(an_account("first")))])
    store.commit([ended("a", T, T + 60, a_place(an_account("second"), seats=1))], T + 100)
    assert sums(store, an_account("first")) == {("2026-11", USED): 480}
    assert sums(store, an_account("second")) == {}


def test_a_hold_through_midnight_is_booked_in_both_months(store):
    store.commit([ended("a", DECEMBER - 10, DECEMBER + 5)], DECEMBER + 5)
    assert sums(store) == {("2026-11", USED): 80, ("2026-12", USED): 40}


def test_after_a_restart_the_sums_are_there_at_once(store, url):
    store.commit([ended("a", T, T + 60), held("b", T + 60)], T + 100)
    again = Store(url)
    assert again.open() == {"b": T + 60}
    assert sums(again) == sums(store) == {("2026-11", USED): 800}
    again.close()


def test_seconds_after_the_terms_end_are_grace_for_held_and_for_ended(store):
    terms = GrantTerms("uid-of-pretrain", "hangang-lm", "pretrain", T - 100, T + 50, since=T)
    store.commit([terms, ended("a", T, T + 60), held("b", T + 40, a_place(server="server-2"))], T + 100)
    assert sums(store) == {("2026-11", USED): 8 * (50 + 10), ("2026-11", GRACE): 8 * (10 + 50)}


def test_a_term_that_changes_within_what_was_booked_moves_only_the_seconds_after_the_change(store):
    store.commit([GrantTerms("uid-of-pretrain", "n", "pretrain", T, T + 1000, since=T)], T + 10)
    store.commit([ended("a", T, T + 100)], T + 20)  # a node's clock ahead of ours
    store.commit([GrantTerms("uid-of-pretrain", "n", "pretrain", T, T + 5, since=T + 40)], T + 200)
    assert sums(store) == {("2026-11", USED): 8 * 40, ("2026-11", GRACE): 8 * 60}


def test_terms_that_say_nothing_new_add_no_history(store, url):
    terms = GrantTerms("uid-of-pretrain", "n", "pretrain", T, T + 1000, since=T)
    for _ in range(3):
        store.commit([terms], T + 10)
    again = Store(url)
    again.open()
    again.commit([terms])
    again.close()
    assert rows(url, "SELECT count(*) FROM grant_terms") == [(1,)]


def test_a_counter_stands_still_while_an_end_learnt_late_is_caught_up(store, url):
    store.commit([held("a", T)], T + 100)
    assert store.tally.read().counters[an_account()] == {USED: 800}
    store.commit([ended("a", T, T + 60)], T + 101)
    assert sums(store) == {("2026-11", USED): 480}
    assert store.tally.read().counters[an_account()] == {USED: 800}
    again = Store(url)
    again.open()
    assert again.tally.read().counters[an_account()] == {USED: 800}
    again.commit([held("b", T + 101)], T + 201)
    assert again.tally.read().counters[an_account()] == {USED: 480 + 800}
    again.close()


def test_two_pods_on_one_seat_the_next_bind_wins_in_whichever_order_they_come(tmp_path):
    facts = [ended("a", T, T + 105), ended("b", T + 103, T + 200), held("c", T + 198)]
    expected = [("a", T + 103, T + 105), ("b", T + 198, T + 200), ("c", None, None)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]):
        folder = tmp_path / "".join(map(str, order))
        folder.mkdir()
        store = a_store(folder, now=T)
        store.open()
        for index in order:
            store.commit([facts[index]], T + 300)
        assert (
            rows(file_url(folder), "SELECT uid, held_until, own_until FROM holdings ORDER BY uid") == expected
        )
        assert sums(store) == {("2026-11", USED): 8 * 300}
        store.close()


def test_two_pods_that_both_seem_to_hold_one_seat_the_next_bind_wins(store, url):
    for number in range(3):
        store.commit([held(f"pod-{number}", T + number * 50)], T + 200)
    assert rows(url, f"SELECT uid, held_until - {T} FROM holdings ORDER BY uid") == [
        ("pod-0", 50),
        ("pod-1", 100),
        ("pod-2", None),
    ]
    assert sums(store) == {("2026-11", USED): 8 * 200}


def test_a_pod_that_turns_out_rejected_gives_back_what_its_bind_cut(store):
    store.commit([held("a", T), held("b", T + 50)], T + 100)
    assert sums(store) == {("2026-11", USED): 8 * 100}
    store.commit([ended("b", T + 50, T + 50, reason=EndReason.REJECTED)], T + 100)
    assert sums(store) == {("2026-11", USED): 8 * 100}
    store.commit([ended("a", T, T + 80)], T + 100)
    assert sums(store) == {("2026-11", USED): 8 * 80}


def test_a_sum_that_came_back_to_zero_goes_on_after_a_restart(store, url):
    store.commit([ended("a", T, T + 90)], T + 100)
    store.commit([held("b", T)])  # bound in the same second: it has all of it
    assert sums(store) == {("2026-11", USED): 8 * 100}
    store.close()
    again = Store(url)
    again.open()
    again.commit([ended("b", T, T, reason=EndReason.REJECTED)])
    assert sums(again) == {("2026-11", USED): 8 * 90}
    again.close()


def test_a_refusal_that_was_seen_without_its_bind_ends_where_the_pod_was_bound(store):
    """The kubelet was away for ten minutes, and so was who watched: by its words the pod began when it was refused."""
    store.commit([held("a", T)], T + 10)
    store.commit([ended("a", T + 600, T + 600, reason=EndReason.REJECTED)], T + 700)
    assert sums(store) == {}
    assert store._read(lambda connection: list(verify_ledger(connection))) == []


def test_months_are_summed_again_when_a_zone_is_set_otherwise(url):
    store = Store(url, now=lambda: T)
    store.open()
    store.commit([ended("a", DECEMBER - 3600, DECEMBER + 3600)], DECEMBER + 7200)
    store.use_calendars(Calendars((("purchase-2025", "Europe/Berlin"),)))
    store.open()
    assert sums(store) == {("2026-11", USED): 8 * 7200}
    store.close()


def test_a_failure_is_counted_once_however_often_it_is_seen(store, url):
    failure = Failure("p", "n", "pool", "B200", "Public", "server-1", "NotReady", T, 8)
    store.commit([failure, failure])
    store.commit([failure])
    again = Store(url)
    again.open()
    assert sum(again.tally.failures.values()) == sum(store.tally.failures.values()) == 1
    again.close()


def test_settings_and_gaps_are_kept_once(store, url):
    store.commit([SettingsVersion("d1", T, "a"), Gap(T, T + 5)])
    store.commit([SettingsVersion("d1", T + 9, "a"), SettingsVersion("d2", T + 9, "b"), Gap(T, T + 5)])
    assert rows(url, "SELECT digest FROM settings_versions ORDER BY id") == [("d1",), ("d2",)]
    assert rows(url, "SELECT start_at, end_at FROM gaps") == [(T, T + 5)]


def test_the_watermark_never_goes_back(store):
    store.commit([], T + 100)
    store.commit([], T + 50)
    assert store.tally.watermark == T + 100


def test_a_second_writer_is_noticed_before_anything_is_counted_twice(store, url):
    store.commit([held("a", T)])
    other = Store(url)
    other.open()
    other.commit([ended("a", T, T + 60)])
    with pytest.raises(StoreAwayError, match="another process wrote"):
        store.commit([ended("a", T, T + 60)])
    store.open()
    store.commit([ended("a", T, T + 60)], T + 100)
    assert sums(store) == {("2026-11", USED): 480}
    other.close()


def test_a_locked_database_is_said_to_be_away_and_takes_the_same_facts_later(tmp_path):
    store = a_store(tmp_path, now=T, lock_wait=0.01)
    store.open()
    blocker = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreAwayError, match="locked"):
        store.commit([ended("a", T, T + 60)])
    blocker.execute("ROLLBACK")
    blocker.close()
    store.open()
    store.commit([ended("a", T, T + 60)], T + 100)
    assert sums(store) == {("2026-11", USED): 480}
    store.close()


def test_a_read_only_database_is_said_to_be_away(tmp_path):
    store = a_store(tmp_path, now=T)
    store.open()
    store.commit([held("a", T)])
    store.close()
    read_only = Store(f"sqlite:///file:{tmp_path / 'ledger.db'}?mode=ro&uri=true")
    with pytest.raises(StoreAwayError, match="readonly"):
        read_only.open()
    read_only.close()


def test_a_full_disk_is_said_to_be_away_and_nothing_is_half_written(tmp_path):
    full = [True]

    def on_step(step: str) -> None:
        if full[0] and step == "ended":
            raise OSError(28, "No space left on device")

    store = a_store(tmp_path, now=T, on_step=on_step)
    store.open()
    with pytest.raises(StoreAwayError, match="No space left"):
        store.commit([ended("a", T, T + 60)])
    assert rows(file_url(tmp_path), "SELECT count(*) FROM holdings") == [(0,)]
    full[0] = False
    store.open()
    store.commit([ended("a", T, T + 60)], T + 100)
    assert sums(store) == {("2026-11", USED): 480}
    store.close()


def test_a_folder_that_is_not_there_is_said_to_be_away(tmp_path):
    store = a_store(tmp_path / "not-mounted")
    with pytest.raises(StoreAwayError, match="unable to open"):
        store.open()
    (tmp_path / "not-mounted").mkdir(mode=stat.S_IRWXU)
    store.open()
    store.close()


def test_a_file_that_is_no_database_is_said_to_be_away_and_left_alone(tmp_path):
    (tmp_path / "ledger.db").write_text("these are not the bytes of a database, but somebody's letter" * 40)
    store = a_store(tmp_path)
    with pytest.raises(StoreAwayError, match="is no database"):
        store.open()
    assert (tmp_path / "ledger.db").read_text().startswith("these are not")


def test_readers_that_come_and_go_leave_a_writer_its_log(tmp_path):
    """Closing a file drops a process' locks on it: whoever looks at the ledger's file must not do so by itself."""
    store = a_store(tmp_path, now=T)
    store.open()
    for number in range(3):
        store.commit([ended(f"pod-{number}", T, T + 60)], T + 100 + number)
        with reading_engine(file_url(tmp_path)).connect():
            pass
        # In a process of its own, as a command is: the last to go takes the log with it, if it thinks it is the last.
        read = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM holdings').fetchall()"
        subprocess.run([sys.executable, "-c", read, str(tmp_path / "ledger.db")], check=True)
        assert (tmp_path / "ledger.db-wal").exists()
    assert rows(file_url(tmp_path), "SELECT count(*) FROM holdings") == [(3,)]
    store.close()
