"""SIGKILL between any two statements: started again and fed the same, the ledger is the same; both stores."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from gpugrant.meter.database import reading_engine
from gpugrant.meter.store import Store
from gpugrant.meter.verify import verify_ledger
from meter_kit import NOVEMBER as T
from meter_kit.feed import CALENDARS, feed, shown_by

STEPS = 60
TABLES = {
    "holdings": "uid, account_id, server, seats, held_from, held_until, own_until, end_reason",
    "totals": "account_id, month, condition, gpu_seconds",
    "cells": "day_id, account_id, condition, reason, gpu_seconds",
    "corrections": "day_id, account_id, booked_in, condition, gpu_seconds",
    "months": "name, manifest, account",
    "days": "programme, name, start_at, end_at, stale",
    "day_digests": "day_id, provider, sha256, revision",
    "health": "server, aspect, since, value",
    "placements": "server, since, seats",
    "grant_terms": "grant_uid, term_end",
    "accounts": "owner",
    "ledger": "watermark",
}


def feed_and_die(url: str, shown: Path, step: int) -> int:
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "meter_kit.feed", url, str(shown), str(step)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False).returncode


def content(url: str):
    """Return the rows of tables; accounts and days by what they are: their numbers may have gaps."""
    engine = reading_engine(url)
    with engine.begin() as connection:
        named = {
            "account_id": dict(connection.execute(text("SELECT id, owner FROM accounts")).all()),
            "day_id": dict(connection.execute(text("SELECT id, start_at FROM days")).all()),
        }
        found = {}
        for table, columns in TABLES.items():
            rows = connection.execute(text(f"SELECT {columns} FROM {table}")).mappings()
            found[table] = sorted(
                [
                    tuple(named[name][row[name]] if name in named else row[name] for name in row)
                    for row in rows
                ],
                key=str,
            )
        assert list(verify_ledger(connection)) == []
    engine.dispose()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    url = f"sqlite:///{folder / 'ledger.db'}"
    feed(url, folder / "shown")
    return content(url)


def test_an_undisturbed_feed_adds_up(undisturbed):
    seats, days = 16, 2
    assert sum(amount for *_, amount in undisturbed["totals"]) == seats * 50 * days
    assert [row[-1] for row in undisturbed["day_digests"]] == [0, 0]
    assert sorted(row[-1] for row in undisturbed["corrections"]) == [-800, 80, 720]


@pytest.mark.parametrize(
    ("kind", "step"),
    [("sqlite", step) for step in range(1, STEPS + 1)]
    + [("postgresql", step) for step in range(1, STEPS + 1, 3)],
)
def test_a_kill_at_any_step_changes_nothing_in_the_end(kind, step, tmp_path, undisturbed, request):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").database()
    shown = tmp_path / "shown"
    assert feed_and_die(url, shown, step) == -signal.SIGKILL, "there is no such step: lower STEPS"
    again = Store(url, CALENDARS, now=lambda: T)
    again.open()
    now, before = shown_by(again), json.loads(shown.read_text()) if shown.exists() else {}
    assert not [key for key, amount in before.items() if now[key] < amount], "a counter fell"
    again.close()
    feed(url, shown)
    assert content(url) == undisturbed


def test_no_step_is_left_out(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    assert feed_and_die(url, tmp_path / "shown", STEPS + 1) == 0, "there are more steps: raise STEPS"
