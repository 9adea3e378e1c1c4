"""SIGKILL between any two steps of closing a month: started again, one month is closed, with the same bytes."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest

from gpugrant.expose.report.checking import verify
from gpugrant.expose.report.signing import load_key
from gpugrant.run.report_folder import Shelf
from report_kit.closing import close, fill

STEPS = 10


def close_and_die(folder, step):
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "report_kit.closing", str(folder), str(step)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False).returncode


def reports(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("reports/**/*")
        if path.is_file()
    }


def closed_months(folder):
    with sqlite3.connect(folder / "ledger.db") as connection:
        return connection.execute(
            "SELECT programme, provider, name, manifest, closed_at FROM months"
        ).fetchall()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")
    fill(folder)
    load_key(folder / "signing-key.pem", create=True)
    return folder


@pytest.fixture(scope="module")
def undisturbed(ledger, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "ledger"
    shutil.copytree(ledger, folder)
    seen = close(folder)
    return folder, seen


def test_a_short_month_of_a_real_ledger_closes_to_a_folder_that_verifies(undisturbed):
    folder, seen = undisturbed
    place = folder / "reports" / seen.name
    assert verify(place) == []
    assert Shelf(f"sqlite:///{folder / 'ledger.db'}").fault(seen.name, seen.closing.manifest_sha256) == ""
    assert [row[3] for row in closed_months(folder)] == [seen.closing.manifest_sha256]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_kill_at_any_step_changes_nothing_in_the_end(step, ledger, undisturbed, tmp_path):
    folder = tmp_path / "ledger"
    shutil.copytree(ledger, folder)
    assert close_and_die(folder, step) == -signal.SIGKILL, "there is no such step: lower STEPS"
    close(folder)
    assert reports(folder) == reports(undisturbed[0])
    assert closed_months(folder) == closed_months(undisturbed[0])


def test_no_step_is_left_out(ledger, tmp_path):
    folder = tmp_path / "ledger"
    shutil.copytree(ledger, folder)
    assert close_and_die(folder, STEPS + 1) == 0, "there are more steps: raise STEPS"
