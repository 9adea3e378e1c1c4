"""SIGKILL between any two statements: started again and fed the same, the ledger is the same."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from meter_kit.feed import feed

STEPS = 53
TABLES = {
    "holdings": "uid, account_id, server, seats, held_from, held_until, own_until, end_reason",
    "totals": "account_id, month, condition, gpu_seconds",
    "cells": "day_id, account_id, condition, reason, gpu_seconds",
    "days": "programme, name, start_at, end_at, stale",
    "day_digests": "day_id, provider, sha256, revision",
    "health": "server, aspect, since, value",
    "placements": "server, since, seats",
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
    seats, days = 16, 2
    assert sum(amount for *_, amount in undisturbed["totals"]) == seats * 50 * days
    assert [row[-1] for row in undisturbed["day_digests"]] == [1, 0]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_kill_at_any_step_changes_nothing_in_the_end(step, tmp_path, undisturbed):
    assert feed_and_die(tmp_path, step) == -signal.SIGKILL, "there is no such step: lower STEPS"
    feed(tmp_path)
    assert content(tmp_path) == undisturbed


def test_no_step_is_left_out(tmp_path):
    assert feed_and_die(tmp_path, STEPS + 1) == 0, "there are more steps: raise STEPS"
