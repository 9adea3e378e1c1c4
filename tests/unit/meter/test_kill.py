"""SIGKILL between any two statements: started again and fed the same, the ledger is the same."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from meter_kit.feed import feed

STEPS = 32
TABLES = {
    "holdings": "uid, account_id, server, seats, held_from, held_until, own_until, end_reason",
    "totals": "account_id, month, condition, gpu_seconds",
    "grant_terms": "grant_uid, term_end",
    "accounts": "digest",
    "ledger": "watermark",
}


def feed_and_die(folder: Path, step: int) -> int:
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "meter_kit.feed", str(folder), str(step)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False).returncode


def content(folder: Path):
    with sqlite3.connect(folder / "ledger.db") as connection:
        return {
            table: sorted(connection.execute(f"SELECT {columns} FROM {table}").fetchall(), key=str)
            for table, columns in TABLES.items()
        }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    feed(folder)
    return content(folder)


def test_an_undisturbed_feed_adds_up(undisturbed):
    assert sum(amount for *_, amount in undisturbed["totals"]) == 8 * (88 + 95 + 42)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_kill_at_any_step_changes_nothing_in_the_end(step, tmp_path, undisturbed):
    assert feed_and_die(tmp_path, step) == -signal.SIGKILL, "there is no such step: lower STEPS"
    feed(tmp_path)
    assert content(tmp_path) == undisturbed


def test_no_step_is_left_out(tmp_path):
    assert feed_and_die(tmp_path, STEPS + 1) == 0, "there are more steps: raise STEPS"
