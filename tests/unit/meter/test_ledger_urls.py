"""What --ledger may name: anything else is told in words by every command, and no password is ever shown."""

import os
import sqlite3
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gpugrant.main import main
from gpugrant.meter.database import LedgerUrlError, check_ledger
from meter_kit import NOVEMBER, a_store

READERS = [("ledger", "show"), ("ledger", "verify"), ("report", "list"), ("usage",)]
SECRET = "open-sesame"
BAD_URLS = {
    "another database": (f"mysql://u:{SECRET}@db/ledger", "a ledger is kept in SQLite or PostgreSQL, not in 'mysql'"),
    "a typo": (f"postgressql://u:{SECRET}@db/ledger", "not in 'postgressql'"),
    "another driver": ("sqlite+aiosqlite:///x.db", "not in 'sqlite+aiosqlite'"),
    "another driver of PostgreSQL": (f"postgresql+asyncpg://u:{SECRET}@db/ledger", "not in 'postgresql+asyncpg'"),
    "no URL": (f"u:{SECRET}@db", "is no URL of a database: write it as sqlite:////"),
    "a port that is no number": (f"postgresql://u:{SECRET}@db:port/ledger", "is no URL of a database"),
    "too few slashes": ("sqlite://var/lib/ledger.db", "a URL of SQLite has no host"),
}  # fmt: skip


def run(command, url):
    return CliRunner().invoke(main, [*command, "--ledger", url])


@pytest.mark.parametrize("command", READERS, ids=" ".join)
@pytest.mark.parametrize("case", BAD_URLS)
def test_a_url_that_names_no_ledger_is_wrong_usage(command, case):
    url, words = BAD_URLS[case]
    done = run(command, url)
    assert (done.exit_code, words in done.stderr) == (2, True), done.output
    assert "--ledger or $GPUGRANT_LEDGER" in done.stderr
    assert SECRET not in done.output
    assert isinstance(done.exception, SystemExit)


def test_a_missing_driver_is_named_and_not_the_password(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LedgerUrlError, match="its driver psycopg is not installed") as raised:
        check_ledger(f"postgresql://u:{SECRET}@db/ledger")
    assert SECRET not in str(raised.value)
    for command in READERS:
        done = run(command, f"postgresql://u:{SECRET}@db/ledger")
        assert (done.exit_code, "extra postgres" in done.stderr, SECRET in done.output) == (2, True, False)


def a_file(tmp_path, kind):
    """Return a path that holds no ledger, and the words for it."""
    path = tmp_path / "ledger.db"
    if kind == "nothing":
        return path, f"there is no ledger in {path}: no such file"
    if kind == "folder":
        path.mkdir()
        return path, f"{path} is a folder: name the ledger's file in it"
    if kind == "text":
        path.write_text("date,gpu_seconds\n")
        return path, f"{path} is no database of SQLite's"
    if kind == "empty":
        path.touch()
        return path, f"there is no ledger in {path}: the file is empty"
    if kind == "another":
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE books (title TEXT)")
        return path, "there is no ledger in this database"
    store = a_store(tmp_path, now=NOVEMBER)
    store.open()
    store.close()
    with sqlite3.connect(path) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '0999'")
    return path, "the ledger has the shape 0999, which a newer gpugrant gave it"


@pytest.mark.parametrize("command", READERS, ids=" ".join)
@pytest.mark.parametrize("kind", ["nothing", "folder", "text", "empty", "another", "newer"])
def test_what_is_no_ledger_is_told_apart(tmp_path, kind, command):
    path, words = a_file(tmp_path, kind)
    done = run(command, f"sqlite:///{path}")
    assert (done.exit_code, words in done.stderr) == (1, True), done.output
    assert path.exists() == (kind != "nothing")


def start(url):
    return subprocess.run(
        [sys.executable, "-m", "gpugrant", "run", "--kubeconfig", "/nowhere", "--ledger", url],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ,
    )  # fmt: skip


@pytest.mark.parametrize("case", ["another database", "too few slashes"])
def test_the_operator_says_so_at_its_start(case):
    url, words = BAD_URLS[case]
    done = start(url)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr and SECRET not in done.stderr


@pytest.mark.parametrize("given", ["", " \n"])
@pytest.mark.parametrize("by", ["variable", "option"])
def test_a_ledger_that_is_named_and_empty_is_not_taken_for_none(by, given):
    """A Secret whose key is empty: without this the operator would run, and meter nothing."""
    variable, option = ({"GPUGRANT_LEDGER": given}, []) if by == "variable" else ({}, ["--ledger", given])
    done = CliRunner().invoke(main, ["run", "--kubeconfig", "/nowhere", *option], env=variable)
    assert (done.exit_code, "--ledger or $GPUGRANT_LEDGER: is empty" in done.stderr) == (2, True), done.output


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_white_space_around_a_url_is_no_part_of_it(tmp_path, command):
    store = a_store(tmp_path, now=NOVEMBER)
    store.open()
    store.close()
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    plain, padded = run(command, url), run(command, f" {url}\n")
    assert padded.output == plain.output
    assert "no such file" not in plain.output


def test_the_operator_does_not_start_on_a_file_of_something_else(tmp_path):
    path, words = a_file(tmp_path, "text")
    done = start(f"sqlite:///{path}")
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("url", ["postgresql://u:p@127.0.0.1:1/ledger", "sqlite:////nowhere/there/ledger.db"])
def test_a_database_that_is_merely_away_stops_no_operator(url):
    pytest.importorskip("psycopg")
    check_ledger(url)


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_ledger_that_is_not_named_is_asked_for_with_its_variable(command):
    done = CliRunner().invoke(main, command, env={"GPUGRANT_LEDGER": None})
    assert (done.exit_code, "GPUGRANT_LEDGER" in done.stderr) == (2, True)
    assert "GPUGRANT_LEDGER" in CliRunner().invoke(main, [*command, "--help"]).stdout
