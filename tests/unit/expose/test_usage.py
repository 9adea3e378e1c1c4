"""``gpugrant usage``: a month off the ledger's file, exact, as people and as programs read it."""

import csv
import io
import json

import pytest
from click.testing import CliRunner

from gpugrant.expose.usage import usage
from gpugrant.meter.facts import GrantTerms, Owner, Placed
from meter_kit import DECEMBER, NOVEMBER, a_place, a_store, an_account, ended, held

DAY = 86_400
OWN = an_account("", owner=Owner.OWN_USE, share="OwnUse", tenant="", tenant_namespace="nhn-render")
OTHER = an_account("eval", tenant="saebyeok", tenant_namespace="saebyeok-a")
TWIN = an_account("eval", tenant="saebyeok", tenant_namespace="saebyeok-b", grant_uid="uid-of-twin")


@pytest.fixture
def ledger(tmp_path):
    """A ledger in which November is stored but for its last day, and December is three hours old."""
    store = a_store(tmp_path, now=NOVEMBER)
    store.open()
    facts = [
        Placed(
            "server-1", NOVEMBER, "purchase-2025", "nhn-cloud", "nhn-b200", "NVIDIA-B200", "Public", "f", 8
        ),
        GrantTerms(
            "uid-of-pretrain", "hangang-lm", "pretrain", NOVEMBER, NOVEMBER + 2 * DAY, tenant="hangang"
        ),
        held("long", NOVEMBER + DAY, a_place(seats=2)),
        ended("own", NOVEMBER + 5, NOVEMBER + 25, a_place(OWN, "server-2", seats=2)),
        ended("a", NOVEMBER + 10, NOVEMBER + 20, a_place(OTHER, "server-3", seats=4)),
        ended("b", NOVEMBER + 10, NOVEMBER + 17, a_place(TWIN, "server-4", seats=1)),
    ]
    store.commit(facts, DECEMBER + 3 * 3600)
    for _ in range(29):
        assert store.settle()
    store.close()
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def run(*arguments, status=0):
    done = CliRunner().invoke(usage, arguments)
    assert done.exit_code == status, done.output
    return done


def rows_of(ledger, *arguments, month="2026-11"):
    done = run("--ledger", ledger, "--month", month, "-o", "csv", *arguments)
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_rows_are_exact_and_grace_is_not_used(ledger):
    found = {
        (row["owner"], row["tenant"]): (row["used_gpu_seconds"], row["all_gpu_seconds"])
        for row in rows_of(ledger)
    }
    assert found == {
        ("free", ""): ("0", str(8 * 30 * DAY - 2 * 29 * DAY)),
        ("grant", "hangang"): (str(2 * DAY), str(2 * 29 * DAY)),
        ("grant", "saebyeok"): ("47", "47"),
        ("own-use", ""): ("40", "40"),
    }


def test_hours_are_not_rounded_up_and_the_total_is_the_sum(ledger):
    done = run(
        "--ledger", ledger, "--month", "2026-11", "--by", "grant", "--tenant", "saebyeok", "-o", "json"
    )
    found = json.loads(done.stdout)
    assert [(row["namespace"], row["grant"], row["used_gpu_seconds"]) for row in found["rows"]] == [
        ("saebyeok-a", "eval", 40),
        ("saebyeok-b", "eval", 7),
    ]
    assert found["total"] == {
        "used_gpu_hours": "0.013056",
        "used_gpu_seconds": 47,
        "all_gpu_hours": "0.013056",
        "all_gpu_seconds": 47,
    }


def test_a_grant_is_named_with_or_without_its_namespace(ledger):
    def used(grant):
        return [row["used_gpu_seconds"] for row in rows_of(ledger, "--grant", grant, "--by", "day")]

    assert (used("eval"), used("saebyeok-b/eval")) == (["47"], ["7"])


def test_days_are_those_that_are_stored_and_those_that_are_not(ledger):
    days = rows_of(ledger, "--by", "day")
    assert [row["day"] for row in days] == [f"2026-11-{number:02}" for number in range(1, 31)]
    assert {int(row["all_gpu_seconds"]) for row in days[1:]} == {8 * DAY}
    (today,) = rows_of(ledger, "--by", "day", month="2026-12")
    assert (today["day"], today["all_gpu_seconds"]) == ("2026-12-01", str(8 * 3 * 3600))


def test_every_way_to_divide_a_month_comes_to_the_same_total(ledger):
    totals = set()
    for by in ("day", "tenant", "grant", "condition", "pool"):
        rows = rows_of(ledger, "--by", by)
        column = "gpu_seconds" if by == "condition" else "all_gpu_seconds"
        totals.add(sum(int(row[column]) for row in rows))
    assert totals == {8 * 30 * DAY + 40 + 47}


def test_the_running_month_is_the_default_and_stderr_says_until_when(ledger):
    done = run("--ledger", ledger, "--by", "condition")
    assert "total" in done.stdout
    assert done.stderr == "2026-12, counted until 2026-12-01T03:00:00+09:00: provisional\n"
    assert "provisional" in run("--ledger", ledger, "--month", "2026-11").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tenant", "hangnag"), 'tenant "hangnag" not found in the ledger; there are: hangang, saebyeok'),
        (("--grant", "x/eval"), "there are: hangang-lm/pretrain, saebyeok-a/eval, saebyeok-b/eval"),
        (("--tenant", "hangang", "--grant", "eval"), 'grant of tenant hangang "eval" not found'),
        (("--month", "2025-03"), "the ledger has nothing of 2025-03; it has 2026-12 (running), 2026-11"),
        (("--month", "2027-03"), "2027-03 has not begun by the ledger, which is in 2026-12"),
    ],
)
def test_what_is_not_there_is_said_with_what_there_is(ledger, arguments, words):
    done = run("--ledger", ledger, *arguments, status=1)
    assert done.stderr.startswith("Error: ")
    assert words in done.stderr


@pytest.mark.parametrize("month", ["nov", "2026-13", "2026-1", "11-2026"])
def test_what_is_no_month_is_wrong_usage(ledger, month):
    done = run("--ledger", ledger, "--month", month, status=2)
    assert f"{month!r} is no month: write it as 2026-11" in done.stderr


def test_a_ledger_that_is_not_there_is_not_made(tmp_path):
    done = run("--ledger", f"sqlite:///{tmp_path / 'none.db'}", status=1)
    assert "the ledger cannot be read: there is no ledger in" in done.stderr
    assert not (tmp_path / "none.db").exists()
    assert "is no URL of a database" in run("--ledger", "/var/ledger.db", status=2).stderr


def test_a_tenant_without_use_in_the_month_is_no_error(ledger):
    done = run("--ledger", ledger, "--tenant", "saebyeok", "--month", "2026-12")
    assert (done.stdout, done.stderr.splitlines()[0]) == ("", "No usage found.")
