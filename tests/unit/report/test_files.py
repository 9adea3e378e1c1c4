"""The files: what spreadsheets need of them, what the programme is told, and a folder that is whole or not there."""

import csv
import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpugrant.expose.report import tables
from gpugrant.expose.report.checking import check_files, verify
from gpugrant.expose.report.files import FolderTaken, render, write_folder
from gpugrant.expose.report.rows import ALL_FILES, USAGE_CSV, UsageRow
from gpugrant.meter.digests import day_digests
from gpugrant.meter.month import DayDigest, Identity
from unit.report.months import KEY, OTHER_KEY, a_month, an_empty_month

COLUMNS = (
    "programme,provider,pool,fabric,gpu_type,share,owner,tenant,tenant_display_name,award,grant,condition,"
    "reason,day,gpu_seconds,gpu_hours"
)


def as_a_spreadsheet_reads(data):
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_the_same_month_gives_the_same_bytes():
    assert render(a_month(), KEY) == render(a_month(), KEY)
    assert set(render(a_month(), KEY)) == set(ALL_FILES)


def test_another_key_changes_only_what_names_the_key():
    one, other = render(a_month(), KEY), render(a_month(), OTHER_KEY)
    assert {name for name in one if one[name] != other[name]} == {
        "manifest.json",
        "manifest.json.sig",
        "public-key.pem",
    }


def test_usage_csv_is_as_korean_spreadsheets_open_it():
    data = render(a_month(), KEY)[USAGE_CSV]
    assert data.startswith(b"\xef\xbb\xbf" + COLUMNS.encode() + b"\r\n")
    assert data.endswith(b"\r\n")
    assert "한강 LM".encode() in data


def test_texts_that_would_be_formulas_are_defused_and_numbers_are_not():
    rows = as_a_spreadsheet_reads(render(a_month(), KEY)["awards.csv"])
    assert rows[1]["tenant_display_name"] == "'=SUM(A1:A9)"
    assert rows[1]["award"] == "'+A-2026-018"
    taken_back = as_a_spreadsheet_reads(render(a_month(), KEY)["corrections.csv"])[1]
    assert (taken_back["gpu_seconds"], taken_back["gpu_hours"]) == ("-1800", "-0.500000")


def test_a_text_that_begins_with_an_apostrophe_is_told_from_a_defused_one():
    rows = [a_row(tenant=text) for text in ("=x", "'=x", "''=x", "'x", "x")]
    data = tables.to_csv(UsageRow, rows)
    assert [row.tenant for row in tables.read_csv(UsageRow, data)] == ["=x", "'=x", "''=x", "'x", "x"]
    assert len(set(data.splitlines()[1:])) == 5


def a_row(**changes):
    row = next(tables.read_csv(UsageRow, render(a_month(), KEY)[USAGE_CSV]))
    return replace(row, **changes)


def test_own_use_is_one_line_a_day_unless_the_settings_say_tenant():
    total = [
        row for row in as_a_spreadsheet_reads(render(a_month(), KEY)[USAGE_CSV]) if row["owner"] == "own-use"
    ]
    assert {(row["tenant"], row["grant"], row["fabric"]) for row in total} == {("", "", "")}
    assert len(total) == 30 * 2  # Used and Idle
    detail = as_a_spreadsheet_reads(render(a_month(detail="Tenant"), KEY)[USAGE_CSV])
    own = [row for row in detail if row["owner"] == "own-use"]
    assert {row["tenant"] for row in own} == {"research", "web", ""}
    assert sum(int(row["gpu_seconds"]) for row in own) == sum(int(row["gpu_seconds"]) for row in total)


def test_a_month_in_total_and_in_detail_has_the_same_day_digests():
    total, detail = (
        json.loads(render(a_month(detail=how), KEY)["manifest.json"]) for how in ("Total", "Tenant")
    )
    assert total["days"] == detail["days"]


def test_numbers_beyond_a_double_are_exact():
    account = a_month(corrections=False)
    line = account.lines[0]
    more = 2**53 + 1
    lines = tuple(
        sorted(
            [
                replace(line, gpu_seconds=line.gpu_seconds + more),
                *(one for one in account.lines if one != line),
            ]
        )
    )
    seats = account.identities[0]
    whole = replace(
        account,
        lines=lines,
        identities=tuple(
            Identity(name, seats.pool, seats.expected + more, seats.counted + more)
            for name in ("seats x seconds", "held")
        ),
        days=tuple(DayDigest(day, sha256) for day, sha256 in day_digests(lines).items()),
    )
    files = render(whole, KEY)
    assert check_files(files).problems == ()
    assert str(line.gpu_seconds + more).encode() in files["usage.json"]
    assert (
        json.loads(files["manifest.json"])["files"][USAGE_CSV]["sums"]["gpu_seconds"] == seats.counted + more
    )


def test_an_empty_month_is_a_month():
    files = render(an_empty_month(), KEY)
    assert check_files(files).problems == ()
    assert files[USAGE_CSV] == b"\xef\xbb\xbf" + COLUMNS.encode() + b"\r\n"
    assert json.loads(files["manifest.json"])["totals"] == []


@pytest.mark.parametrize(
    ("month", "day", "day_hours"), [("2026-10", "2026-10-25", 25), ("2026-03", "2026-03-29", 23)]
)
def test_a_month_in_which_clocks_change_has_a_longer_and_a_shorter_day(month, day, day_hours):
    files = render(a_month(month, "Europe/Berlin"), KEY)
    assert check_files(files).problems == ()
    rows = [row for row in as_a_spreadsheet_reads(files[USAGE_CSV]) if row["day"] == day]
    assert sum(int(row["gpu_seconds"]) for row in rows) == 320 * day_hours * 3600
    manifest = json.loads(files["manifest.json"])
    assert {manifest["start"][-6:], manifest["end"][-6:]} == {"+01:00", "+02:00"}


def test_incidents_are_told_in_the_programmes_zone_and_in_utc():
    rows = as_a_spreadsheet_reads(render(a_month(), KEY)["incidents.csv"])
    failed = next(row for row in rows if row["server"] == "nhn-0412")
    assert (failed["start"], failed["start_utc"]) == ("2026-11-01T02:02:11+09:00", "2026-10-31T17:02:11Z")
    assert (failed["detected"], failed["restored"]) == (
        "2026-11-01T02:02:22+09:00",
        "2026-11-01T02:30:00+09:00",
    )
    assert (failed["gpus"], failed["cause"]) == ("8", "NotReady")
    assert [row["restored"] for row in rows if row["server"] == "nhn-0413"] == [""]


def test_an_award_says_what_share_of_what_was_granted_it_held():
    row = as_a_spreadsheet_reads(render(a_month(), KEY)["awards.csv"])[0]
    assert int(row["granted_gpu_seconds"]) == 64 * 30 * 86_400
    assert row["held_percent_of_granted"] == "85.706252"  # 142176388 of 165888000


def test_a_month_that_is_not_closed_says_so():
    files = render(a_month(until=1_793_458_800 + 5 * 86_400 + 17, closed=False), KEY)
    manifest = json.loads(files["manifest.json"])
    assert (manifest["state"], manifest["closed_at"]) == ("Provisional", "")
    assert manifest["until"] == "2026-11-06T00:00:17+09:00"
    assert check_files(files).problems == ()


def test_a_short_month_that_a_period_makes_is_a_month():
    """Its one day has its name."""
    name, start = "2026-11-22t211930z", 1_795_382_370
    whole = a_month(corrections=False)
    lines = tuple(
        replace(line, day=name) for line in whole.lines if line.day == "2026-11-30" and line.owner != "grant"
    )
    counted = sum(line.gpu_seconds for line in lines)
    short = replace(
        whole,
        month=name,
        start=start,
        end=start + 30,
        until=start + 30,
        closed_at=start + 31,
        lines=lines,
        awards=(),
        incidents=(),
        identities=tuple(
            Identity(name, "nhn-b200", counted, counted) for name in ("seats x seconds", "held")
        ),
        days=tuple(DayDigest(day, sha256) for day, sha256 in day_digests(lines).items()),
    )
    assert check_files(render(short, KEY)).problems == ()
    missing = check_files(render(replace(short, days=()), KEY)).problems
    assert any("rows of days without a digest" in problem.message for problem in missing)


def names_in(folder):
    return [path.name for path in folder.iterdir()]


# -- the folder ----------------------------------------------------------------------------------------


def test_a_folder_is_written_once_and_the_same_again_changes_nothing(tmp_path: Path):
    files, folder = render(a_month(), KEY), tmp_path / "made" / "november"
    write_folder(files, folder)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
    write_folder(files, folder)
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()} == before
    assert {name: data for name, (_, data) in before.items()} == files
    assert names_in(tmp_path / "made") == ["november"]


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path: Path):
    folder = tmp_path / "november"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FolderTaken, match="move it away"):
        write_folder(render(a_month(), KEY), folder)
    assert [path.read_text() for path in folder.iterdir()] == ["years of work"]
    assert names_in(tmp_path) == ["november"]


def test_a_folder_that_may_be_replaced_is_replaced_whole(tmp_path: Path):
    folder = tmp_path / "november"
    early = render(a_month(until=1_793_458_800 + 86_400, closed=False), KEY)
    write_folder(early | {"more.txt": b"x"}, folder)
    write_folder(render(a_month(), KEY), folder, replace=True)
    assert verify(folder) == []
    assert names_in(tmp_path) == ["november"]


def test_a_disk_that_refuses_leaves_no_half_folder(tmp_path: Path):
    # A process of its own that may write no file larger than 20,000 bytes: usage.csv is larger.
    script = """
        import resource, sys
        from pathlib import Path
        from gpugrant.expose.report.files import render, write_folder
        from unit.report.months import KEY, a_month
        files = render(a_month(), KEY)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        write_folder(files, Path(sys.argv[1]) / "november")
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "File too large" in ended.stderr
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("lines", [1, 2, 3, 5, 8])
def test_a_process_that_is_killed_as_it_writes_leaves_the_folder_whole_or_away(tmp_path: Path, lines: int):
    script = """
        import sys
        from pathlib import Path
        from gpugrant.expose.report.files import render, write_folder
        from unit.report.months import KEY, a_month
        months = [render(a_month(gpus=gpus), KEY) for gpus in (56, 64)]
        for number in range(10_000):
            write_folder(months[number % 2], Path(sys.argv[1]) / "november", replace=True)
            print(number, flush=True)
    """
    writing = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
    )
    assert writing.stdout is not None
    with writing.stdout as told:
        for _ in range(lines):
            assert told.readline()
        writing.kill()  # in the midst of the next one
        writing.wait()
    folder = tmp_path / "november"
    assert not folder.exists() or verify(folder) == []
    write_folder(render(a_month(), KEY), folder, replace=True)
    assert verify(folder) == []
