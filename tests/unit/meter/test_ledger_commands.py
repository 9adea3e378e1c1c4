"""gpugrant ledger verify, backup, restore, show: on real ledgers, both stores."""

import gzip
import hashlib
import json

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from gpugrant.meter.commands import ledger
from gpugrant.meter.database import reading_engine
from gpugrant.meter.facts import Aspect, EndReason, Health
from gpugrant.meter.store import Store
from gpugrant.meter.verify import verify_ledger
from meter_kit import DECEMBER, NOVEMBER, a_place, a_server, ended, held

T = NOVEMBER
DAY = 86_400
NAME = "purchase-2025-nhn-cloud-2026-11"


def run(*given):
    return CliRunner().invoke(ledger, [str(one) for one in given])


def a_month(url):
    """Return a ledger with a closed month, corrections to it, and a day that is open."""
    store = Store(url, now=lambda: T)
    store.open()
    two = a_place(server="server-2", seats=4)
    store.commit([a_server("server-1"), a_server("server-2"), ended("a", T + 100, T + 2 * DAY)], T + 3 * DAY)
    store.commit([ended("b", T + 3 * DAY, T + 4 * DAY, two), held("c", T + 5 * DAY, two)], DECEMBER + 100)
    store.commit([ended("d", T + DAY, T + DAY + 50, two, EndReason.UNOBSERVED)])
    while store.settle():
        pass
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    store.commit(
        [Health("server-1", Aspect.READY, T + 1000, 0), Health("server-1", Aspect.READY, T + 2000, 1)]
    )
    while store.settle():
        pass
    store.commit([held("e", DECEMBER + 200)], DECEMBER + 700)
    return store


@pytest.fixture
def store(url):
    store = a_month(url)
    yield store
    store.close()


def change(url, *statements):
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0
    engine.dispose()


def test_a_ledger_that_is_right_is_said_to_be(store, url):
    found = run("verify", "--ledger", url)
    assert found.exit_code == 0, found.output
    assert found.output.startswith("ok: every day")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE cells SET gpu_seconds = 7 WHERE condition = 'Used' AND day_id = 1", "2026-11-01, nhn-cloud/"),
        ("UPDATE day_digests SET sha256 = 'aa' WHERE day_id = 3", "2026-11-03, digest for nhn-cloud"),
        ("UPDATE totals SET gpu_seconds = gpu_seconds - 5 WHERE condition = 'Idle'", "sum of 2026-11"),
        ("UPDATE day_pools SET expected = 1 WHERE day_id = 4", "2026-11-04, pool nhn-b200, seats x seconds"),
        ("UPDATE day_pools SET held = 1 WHERE day_id = 4", "2026-11-04, pool nhn-b200, held"),
        ("UPDATE holdings SET held_until = held_until - 60 WHERE uid = 'b'", "holdings, pod b, held_until"),
        ("UPDATE holdings SET seats = 9 WHERE uid = 'c'", "2026-11-06, "),
        ("UPDATE corrections SET gpu_seconds = gpu_seconds + 1 WHERE id = 1", "2026-11-01, nhn-cloud/"),
        ("UPDATE health SET since = since + 7 WHERE value = 1", "2026-11-01, nhn-cloud/"),
        ("UPDATE months SET account = replace(account, '2026-11-05', '2026-11-99')", "closed month purchase-2025"),
        ("UPDATE days SET start_at = start_at + 1 WHERE id = 2", "the day 2026-11-02 starts at"),
        ("UPDATE holdings SET held_from = held_from - 200000, seats = 9, server = 'server-1' WHERE uid = 'b'", "seats"),
    ],
)  # fmt: skip
def test_whatever_was_changed_is_found(store, url, statement, words):
    change(url, statement)
    found = run("verify", "--ledger", url)
    assert found.exit_code == 1
    assert words in found.output.splitlines()[0], found.output


def test_a_hold_that_goes_on_is_carried_through_all_days(store, url):
    engine = reading_engine(url)
    with engine.begin() as connection:
        assert list(verify_ledger(connection)) == []
    engine.dispose()
    change(url, "DELETE FROM holdings WHERE uid = 'c'")
    with engine.begin() as connection:
        days = {
            difference.where.split(",")[1].strip()
            for difference in verify_ledger(connection)
            if "2026-11-" in difference.where
        }
    engine.dispose()
    assert len([day for day in days if day.startswith("2026-11-")]) == 25


def other_urls(url, tmp_path, postgres):
    return [f"sqlite:///{tmp_path / 'restored.db'}", postgres.database()]


def test_a_backup_restores_into_either_store_and_goes_on(store, url, tmp_path, postgres):
    file = tmp_path / "backup.gz"
    found = run("backup", "--ledger", url, file)
    assert found.exit_code == 0, found.output
    assert file.stat().st_mode & 0o777 == 0o600
    month = next(one[2] for one in store.reported() if one[2].name == "2026-11")
    for other in other_urls(url, tmp_path, postgres):
        found = run("restore", "--ledger", other, file)
        assert found.exit_code == 0, found.output
        assert run("verify", "--ledger", other).exit_code == 0
        again = Store(other)
        assert again.open() == {"c": T + 5 * DAY, "e": DECEMBER + 200}
        assert again.tally.read() == store.tally.read()
        who = ("purchase-2025", "nhn-cloud", month)
        assert again.month_account(*who) == store.month_account(*who)
        again.commit([held("new", DECEMBER + 300, a_place(server="server-7"))], DECEMBER + 3 * DAY)
        while again.settle():
            pass
        assert "new" in again.open()
        again.close()
        copy = tmp_path / "again.gz"
        assert run("backup", "--ledger", other, copy).exit_code == 0


def test_the_same_rows_make_the_same_backup(store, url, tmp_path):
    for name in ("one.gz", "two.gz"):
        assert run("backup", "--ledger", url, tmp_path / name).exit_code == 0
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def test_a_backup_is_taken_while_the_operator_is_in_the_middle_of_a_commit(url, tmp_path):
    file = tmp_path / "backup.gz"
    taken = []

    def on_step(step):
        if step == "ended" and armed:
            taken.append(run("backup", "--ledger", url, file).exit_code)

    armed = False
    store = Store(url, now=lambda: T, on_step=on_step)
    store.open()
    store.commit([held("a", T)], T + 10)
    armed = True
    store.commit([held("b", T, a_place(server="server-2"))], T + 20)
    store.close()
    assert taken == [0]
    with gzip.open(file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert [
        row[1] for row in rows if isinstance(row, list) and "hangang-lm" in row and "server-1" in row
    ] == ["a"]
    assert not [row for row in rows if "server-2" in row]


@pytest.mark.parametrize("damage", ["cut", "edited", "not ours", "empty"])
def test_a_damaged_backup_is_refused_and_nothing_is_written(store, url, tmp_path, damage):
    file, other = tmp_path / "backup.gz", f"sqlite:///{tmp_path / 'restored.db'}"
    run("backup", "--ledger", url, file)
    with gzip.open(file, "rb") as lines:
        whole = lines.read()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-200])
    elif damage == "edited":
        file.write_bytes(gzip.compress(whole.replace(b'"Used"', b'"Idle"', 1)))
    elif damage == "not ours":
        file.write_bytes(gzip.compress(b'{"format":"something else"}\n'))
    else:
        file.write_bytes(b"")
    found = run("restore", "--ledger", other, file)
    assert found.exit_code == 1
    assert "backup" in found.output and "Traceback" not in found.output
    engine = create_engine(other)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar() == 0
    engine.dispose()


def test_a_backup_of_a_newer_version_is_refused_with_what_to_do(store, url, tmp_path):
    file, other = tmp_path / "backup.gz", tmp_path / "other.db"
    assert run("backup", "--ledger", url, file).exit_code == 0
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    lines[0] = json.dumps({**json.loads(lines[0]), "revision": "0999"}).encode() + b"\n"
    digest = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    lines[-1] = json.dumps({**json.loads(lines[-1]), "sha256": digest}).encode() + b"\n"
    file.write_bytes(gzip.compress(b"".join(lines)))
    found = run("restore", "--ledger", f"sqlite:///{other}", file)
    assert (found.exit_code, "the shape 0999, which a newer gpugrant gave it" in found.stderr) == (1, True), found
    assert run("show", "--ledger", f"sqlite:///{other}").exit_code == 1, "and nothing was written"


def test_a_ledger_is_never_restored_over(store, url, tmp_path):
    file = tmp_path / "backup.gz"
    run("backup", "--ledger", url, file)
    found = run("restore", "--ledger", url, file)
    assert found.exit_code == 1
    assert "never written over" in found.output


def test_show_says_how_it_stands(store, url):
    found = run("show", "--ledger", url)
    assert found.exit_code == 0, found.output
    assert f"month      {NAME}: closed 2026-11-30T15:08:20Z" in found.output
    assert "purchase-2025: 30 days closed" in found.output


@pytest.mark.parametrize("command", ["verify", "show"])
def test_where_there_is_no_ledger_that_is_said(tmp_path, command):
    found = run(command, "--ledger", f"sqlite:///{tmp_path / 'new.db'}")
    assert (found.exit_code, "no ledger" in found.output) == (1, True)
    found = run(command, "--ledger", f"sqlite:///{tmp_path}/no/such.db")
    assert (found.exit_code, "no such file" in found.output) == (1, True)
    found = run(command, "--ledger", "nonsense")
    assert (found.exit_code, "no URL" in found.output) == (2, True)


def test_days_are_compared_with_their_facts_one_after_the_other(store, url):
    assert [store.check_day() for _ in range(31)] == [0] * 31
    change(url, "UPDATE cells SET gpu_seconds = gpu_seconds + 4 WHERE condition = 'Used' AND day_id = 2")
    assert [store.check_day() for _ in range(3)] == [4, 4, 4]
    change(url, "UPDATE cells SET gpu_seconds = gpu_seconds - 4 WHERE condition = 'Used' AND day_id = 2")
    assert [store.check_day() for _ in range(30)][-1] == 0
