"""The check without a cluster: hostile folders, months that do not add up although they are signed, and the chain."""

import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpugrant.expose.report import signing, tables
from gpugrant.expose.report.amounts import hours
from gpugrant.expose.report.checking import check_files, verify
from gpugrant.expose.report.files import MANIFEST_INDENT, file_entry, render, total_rows, write_folder
from gpugrant.expose.report.rows import AwardFileRow, IncidentRow, Manifest, ShortfallRow, UsageFile, UsageRow
from gpugrant.meter.digests import day_digests
from gpugrant.meter.month import Correction, DayDigest, Identity
from unit.report.months import KEY, OTHER_KEY, a_month


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(render(a_month(), KEY), tmp_path / "november")
    return tmp_path / "november"


def only(problems):
    [problem] = problems
    return problem


def test_a_folder_as_it_was_written_is_fine(folder: Path):
    assert verify(folder) == []
    assert verify(folder, KEY.public_key()) == []


# -- hostile folders -----------------------------------------------------------------------------------


def test_no_folder_at_all(tmp_path: Path):
    assert "cannot be read as a folder" in only(verify(tmp_path / "none")).message
    (tmp_path / "file").write_text("x")
    assert "cannot be read as a folder" in only(verify(tmp_path / "file")).message


def test_links_are_not_followed(folder: Path, tmp_path: Path):
    outside = tmp_path / "outside.csv"
    (folder / "usage.csv").rename(outside)
    (folder / "usage.csv").symlink_to(outside)
    problem = only(verify(folder))
    assert (problem.file, problem.message) == ("usage.csv", "it is a link, not a file")


@pytest.mark.parametrize("name", ["usage.csv", "manifest.json", "manifest.json.sig", "public-key.pem"])
def test_pipes_sockets_folders_and_devices_are_no_files(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    path = folder / name
    path.unlink()
    os.mkfifo(path)  # opening one waits for a writer, unless it is told not to
    assert name in {problem.file for problem in verify(folder)}
    path.unlink()
    path.mkdir()
    assert "it is not a file" in {problem.message for problem in verify(folder) if problem.file == name}
    path.rmdir()
    monkeypatch.chdir(folder)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        assert name in {problem.file for problem in verify(folder)}


def test_missing_and_extra_files_are_named(folder: Path):
    (folder / "incidents.csv").unlink()
    (folder / "\x1b[31mred\n.csv").write_text("x")
    problems = verify(folder)
    assert [problem.file for problem in problems] == ["incidents.csv", "\\x1b[31mred\\x0a.csv"]
    assert [problem.message.split()[1] for problem in problems] == ["is", "is"]


def test_a_name_that_is_no_text_does_no_harm(folder: Path):
    os.close(os.open(os.fsencode(folder) + b"/\xff\xfe.csv", os.O_CREAT | os.O_WRONLY))
    assert str(only(verify(folder))).isprintable()


def test_a_huge_file_is_not_read(folder: Path):
    with (folder / "usage.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    assert "no month has more" in only(verify(folder)).message


HOSTILE = {
    "nothing": b"",
    "not utf-8": b"\xff\xfe\x00",
    "deep": b"[" * 1_000_000,
    "deep objects": b'{"lines":' * 100_000,
    "a huge number": b'{"bytes":' + b"9" * 100_000 + b"}",
    "not a number": b"NaN",
    "an array": b"[1,2]",
    "a string": b'"manifest"',
    "half a character": b'{"report":"\\ud800"}',
    "nul": b"\0" * 100,
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("name", ["manifest.json", "usage.json", "usage.csv", "awards.csv", "public-key.pem"])
def test_hostile_bytes_are_a_problem_and_no_crash(name: str, what: str):
    files = render(a_month(), KEY) | {name: HOSTILE[what]}
    problems = check_files(files, [KEY.public_key()]).problems
    assert {problem.file for problem in problems} == {name}


def test_a_bomb_of_small_values_costs_no_memory(tmp_path: Path):
    write_folder(render(a_month(), KEY), tmp_path / "november")
    bomb = b'{"lines":[' + b"{}," * 10_000_000 + b"{}]}"
    (tmp_path / "november" / "usage.json").write_bytes(bomb)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from gpugrant.expose.report.checking import verify\n"
        "resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))\n"
        "print(*verify(Path(sys.argv[1])), sep='\\n')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "november")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "usage.json: its sha256 is" in ended.stdout
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 512 << 20


def test_a_key_given_twice_in_json_is_refused():
    files = render(a_month(), KEY)
    doubled = files["usage.json"].replace(b'"closed_at":', b'"closed_at":"","closed_at":', 1)
    problems = check_files(files | {"usage.json": doubled}).problems
    assert {problem.file for problem in problems} == {"usage.json"}
    assert any("key given twice" in problem.message for problem in problems)


# -- signed, and wrong ---------------------------------------------------------------------------------


def signed_anew(account=None, key=KEY, manifest=None, **content):
    """Return the files of a month whose rows or manifest were changed before it was signed."""
    files = render(account or a_month(), KEY)
    document = tables.read_json(Manifest, files["manifest.json"], MANIFEST_INDENT)
    usage = replace(tables.read_json(UsageFile, files["usage.json"]), **content)
    names = {"lines": ("usage.csv", UsageRow), "awards": ("awards.csv", AwardFileRow)}
    names |= {"incidents": ("incidents.csv", IncidentRow)}
    entries = dict(document.files)
    for field, rows in content.items():
        name, kind = names[field]
        files[name] = tables.to_csv(kind, rows)
        entries[name] = file_entry(files[name], rows)
    files["usage.json"] = tables.to_json(usage)
    entries["usage.json"] = file_entry(files["usage.json"], usage.lines)
    document = replace(document, **({"files": entries} | (manifest or {})))
    files["public-key.pem"] = signing.public_pem(key.public_key())
    files["manifest.json"] = tables.to_json(document, MANIFEST_INDENT)
    return files | {"manifest.json.sig": signing.sign(key, files["manifest.json"])}


def lines_of(account):
    return tables.read_json(UsageFile, render(account, KEY)["usage.json"]).lines


def with_line(number, **changes):
    lines = list(lines_of(a_month()))
    lines[number] = replace(lines[number], **changes)
    return tuple(lines)


def test_what_nobody_changed_passes_when_it_is_signed_anew():
    assert check_files(signed_anew()).problems == ()


def test_rows_that_were_changed_before_signing_break_day_totals_and_identity():
    more = with_line(7, gpu_seconds=1, gpu_hours=hours(1))
    messages = [problem.message for problem in check_files(signed_anew(lines=more)).problems]
    assert any("its totals are not the sums" in message for message in messages)
    assert any("'seats x seconds' of pool nhn-b200 counts" in message for message in messages)
    assert any(f"the digest of {more[7].day}" in message for message in messages)


def test_a_figure_moved_to_a_rival_is_found_at_the_award_and_the_day():
    """Sums by share, type, owner and condition stay; a day's digest and the awards do not."""
    lines = list(lines_of(a_month()))
    day, condition = "2026-11-09", "Used"
    one, other = (
        number for number, line in enumerate(lines)
        if (line.day, line.condition, line.owner) == (day, condition, "grant")
    )  # fmt: skip
    for number, more in ((one, -3600), (other, 3600)):
        amount = lines[number].gpu_seconds + more
        lines[number] = replace(lines[number], gpu_seconds=amount, gpu_hours=hours(amount))
    problems = check_files(signed_anew(lines=tuple(lines))).problems
    assert {problem.row for problem in problems if problem.file == "awards.csv"} == {2, 3}
    assert any(f"digest of {day}" in problem.message for problem in problems)


def test_hours_that_are_not_the_seconds_name_their_row():
    problems = check_files(signed_anew(lines=with_line(3, gpu_hours="1.000000"))).problems
    assert [(problem.file, problem.row) for problem in problems] == [("usage.csv", 5)]
    assert "ask who signed it" in problems[0].advice


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"programme": "lease-2025"}, "programme is 'lease-2025'"),
        ({"share": "Private"}, "share is 'Private'"),
        ({"owner": "somebody"}, "owner is 'somebody'"),
        ({"condition": "Busy"}, "condition is 'Busy'"),
        ({"day": "2026-10-31"}, "day is 2026-10-31"),
        ({"grant": "mine"}, "owner is own-use, grant is mine"),
        ({"gpu_seconds": 0, "gpu_hours": "0.000000"}, "gpu_seconds is 0"),
    ],
)
def test_a_row_that_cannot_be_is_named(changes, says):
    problems = check_files(signed_anew(lines=with_line(0, **changes))).problems
    assert any(
        (problem.file, problem.row) == ("usage.csv", 2) and says in problem.message for problem in problems
    )


def test_rows_must_be_sorted_and_once():
    lines = lines_of(a_month())
    for wrong in ((lines[1], lines[0], *lines[2:]), (lines[0], *lines)):
        problems = check_files(signed_anew(lines=wrong)).problems
        assert ("usage.csv", 3) in {(problem.file, problem.row) for problem in problems}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"until": "2026-11-30T00:00:00+09:00"}, "counted to its end"),
        ({"start": "2026-11-01T01:00:00+09:00"}, "start and end are not those of 2026-11"),
        ({"start": "2026-10-31T15:00:00Z"}, "start is not written in the zone"),
        ({"start": "yesterday"}, "times cannot be read"),
        ({"start": "0001-01-01T00:00:00+09:00"}, "cannot be read"),
        ({"end": "9999-12-31T23:59:59-12:00"}, "cannot be read"),
        ({"zone": "../../etc/passwd"}, "times cannot be read"),
        ({"zone": "America"}, "times cannot be read"),
        ({"zone": "Mars/Olympus"}, "times cannot be read"),
        ({"closed_at": ""}, "the state is Closed"),
        ({"closed_at": "2026-11-15T00:00:00+09:00"}, "closes when it is over"),
        ({"report": "lease-2025-nhn-cloud-2026-11"}, "not programme-provider-month"),
        ({"settings_sha256": "abc"}, "settings_sha256 is no sha256"),
        ({"days": ()}, "no digest of 2026-11-01"),
        ({"totals": ()}, "totals is not the same"),
        ({"share_shortfall": ()}, "share_shortfall is not the same"),
        ({"share_shortfall": (ShortfallRow("nhn-b200", 5400, "2.000000"),)}, "in GPU-hours and GPU-seconds"),
        ({"identities": ()}, "no identity 'seats x seconds'"),
    ],
)
def test_a_manifest_that_cannot_be_is_told_why(changes, says):
    problems = check_files(signed_anew(manifest=changes)).problems
    assert any(problem.file == "manifest.json" and says in problem.message for problem in problems), problems


def test_a_closed_month_must_reconcile():
    account = a_month()
    one = account.identities[0]
    short = Identity(one.name, one.pool, one.expected + 60, one.counted)
    problem = only(
        check_files(render(replace(account, identities=(short, *account.identities[1:])), KEY)).problems
    )
    assert "does not hold: expected 829440060, counted 829440000" in problem.message


def test_a_closed_month_may_not_have_more_unobserved_than_is_allowed():
    account = a_month(corrections=False)
    lines = tuple(
        replace(line, condition="Unobserved", reason="EndUnseen") if line.owner == "unmanaged" else line
        for line in account.lines
    )
    days = tuple(DayDigest(day, sha256) for day, sha256 in day_digests(lines).items())
    unseen = replace(account, lines=lines, days=days)
    assert (
        "150 GPU-seconds Unobserved; 0 are allowed" in only(check_files(render(unseen, KEY)).problems).message
    )
    assert check_files(render(replace(unseen, unobserved_limit=150), KEY)).problems == ()


def test_days_that_are_missing_are_named():
    account = a_month()
    problems = check_files(render(replace(account, days=account.days[:-2]), KEY)).problems
    assert any("no digest of 2026-11-29, 2026-11-30" in problem.message for problem in problems)
    assert any("days without a digest: 2026-11-29, 2026-11-30" in problem.message for problem in problems)


def test_only_a_first_month_may_begin_later():
    """The operator was installed on the fourth."""
    account = a_month(days=[day.day for day in a_month().days[3:]])
    first = replace(account, days=account.days[3:])
    assert check_files(render(first, KEY)).problems == ()
    later = check_files(render(replace(first, previous_manifest="ab" * 32), KEY)).problems
    assert "no digest of 2026-11-01, 2026-11-02, 2026-11-03" in only(later).message


def test_totals_are_the_rows_sums():
    lines = lines_of(a_month())
    totals = total_rows(lines)
    assert sum(total.gpu_seconds for total in totals) == sum(line.gpu_seconds for line in lines)
    files = signed_anew(manifest={"totals": (*totals[:-1], replace(totals[-1], gpu_seconds=1))})
    assert any("totals" in problem.message for problem in check_files(files).problems)


# -- whose key, which chain ----------------------------------------------------------------------------


def test_a_month_signed_anew_by_somebody_else_passes_only_without_the_suppliers_key(folder: Path):
    other = render(a_month(), OTHER_KEY)
    assert check_files(other).problems == ()
    problems = check_files(other, [KEY.public_key()]).problems
    assert {problem.file for problem in problems} == {"public-key.pem", "manifest.json"}
    assert any("not the one that was named" in problem.message for problem in problems)


def test_the_public_key_alone_replaced_is_told_from_the_manifest():
    files = render(a_month(), KEY) | {"public-key.pem": signing.public_pem(OTHER_KEY.public_key())}
    assert {problem.file for problem in check_files(files).problems} == {"public-key.pem"}


def test_a_month_is_chained_to_the_one_before(tmp_path: Path):
    october = render(a_month("2026-10"), KEY)
    sha256 = hashlib.sha256(october["manifest.json"]).hexdigest()
    write_folder(october, tmp_path / "october")
    write_folder(render(a_month(previous=sha256), KEY), tmp_path / "november")
    assert verify(tmp_path / "november", previous=tmp_path / "october") == []
    # Somebody makes October anew, and signs it again.
    shutil.rmtree(tmp_path / "october")
    write_folder(render(a_month("2026-10", gpus=56), KEY), tmp_path / "october")
    assert verify(tmp_path / "october") == []
    problem = only(verify(tmp_path / "november", previous=tmp_path / "october"))
    assert f"chained to {sha256}" in problem.message


def test_the_month_before_must_be_the_month_before(tmp_path: Path):
    for name, month in (("september", "2026-09"), ("november", "2026-11")):
        write_folder(render(a_month(month), KEY), tmp_path / name)
    problem = only(verify(tmp_path / "november", previous=tmp_path / "september"))
    assert "is not the month before" in problem.message
    problem = only(verify(tmp_path / "november", previous=tmp_path / "none"))
    assert "none): it cannot be read as a folder" in problem.message


def test_another_key_than_the_month_before_must_be_named(tmp_path: Path):
    october = render(a_month("2026-10"), KEY)
    sha256 = hashlib.sha256(october["manifest.json"]).hexdigest()
    write_folder(october, tmp_path / "october")
    write_folder(render(a_month(previous=sha256), OTHER_KEY), tmp_path / "november")
    assert "another key" in only(verify(tmp_path / "november", previous=tmp_path / "october")).message
    assert verify(tmp_path / "november", OTHER_KEY.public_key(), tmp_path / "october") == []


def test_the_manifest_says_what_the_folder_holds(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert manifest["files"]["usage.csv"]["rows"] == len(lines_of(a_month()))
    assert set(manifest["files"]) | {"manifest.json", "manifest.json.sig"} == {
        path.name for path in folder.iterdir()
    }


# -- what is left out, or made up ----------------------------------------------------------------------


def test_failed_seconds_without_an_incident_are_named():
    account = a_month()
    lines = [(n, line) for n, line in enumerate(account.lines, 2) if line.condition == "Failed"]
    for incidents in ((), tuple(replace(one, cause="Cordoned") for one in account.incidents)):
        problem = only(check_files(render(replace(account, incidents=incidents), KEY)).problems)
        assert problem.file == "usage.csv" and problem.row in [number for number, _ in lines]
        assert f"is Failed for NotReady on {lines[0][1].day}" in problem.message


def test_what_pods_held_must_be_told_and_be_possible():
    account = a_month()
    seats, held = account.identities
    problem = only(check_files(render(replace(account, identities=(seats,)), KEY)).problems)
    assert (problem.file, problem.message) == ("manifest.json", "no identity 'held' of pool nhn-b200")
    for amount in (17, seats.counted + 1):
        wrong = Identity(held.name, held.pool, amount, amount)
        problem = only(check_files(render(replace(account, identities=(seats, wrong)), KEY)).problems)
        assert f"counts {amount} GPU-seconds" in problem.message


def test_a_reversal_without_its_re_entry_is_named():
    account = a_month()
    back, again = account.corrections
    huge = replace(back, line=replace(back.line, gpu_seconds=-(10**15)))
    for corrections in ((back,), (huge, again)):
        problem = only(check_files(render(replace(account, corrections=corrections), KEY)).problems)
        assert (problem.file, problem.row) == ("corrections.csv", 3 if again in corrections else 2)
        assert "are taken back and not entered again" in problem.message
    fewer = replace(back, why="facts came late: the pool had fewer seats then")
    assert check_files(render(replace(account, corrections=(fewer,)), KEY)).problems == ()


def test_more_than_the_month_before_had_cannot_be_taken_back(tmp_path: Path):
    october = a_month(month="2026-10")
    [line, *_] = [one for one in october.lines if one.condition == "Idle" and one.owner == "free"]
    write_folder(render(october, KEY), tmp_path / "october")
    before = hashlib.sha256((tmp_path / "october" / "manifest.json").read_bytes()).hexdigest()
    for more in (0, 1):
        back = Correction("2026-10", replace(line, gpu_seconds=-line.gpu_seconds - more), "late")
        again = Correction(
            "2026-10", replace(line, condition="Failed", gpu_seconds=line.gpu_seconds + more), "late"
        )
        account = replace(a_month(previous=before), corrections=(back, again))
        write_folder(render(account, KEY), tmp_path / f"november-{more}")
        assert verify(tmp_path / f"november-{more}") == []
        problems = verify(tmp_path / f"november-{more}", previous=tmp_path / "october")
        assert [(one.file, one.message) for one in problems] == [
            ("corrections.csv", "it takes back 1 GPU-seconds more than 2026-10 has in such rows")
        ] * more


def test_a_manifest_that_names_another_signer_is_to_blame_where_the_key_is_as_listed():
    files = render(a_month(), KEY)
    own, other = (signing.fingerprint(key.public_key()).encode() for key in (KEY, OTHER_KEY))
    changed = files | {"manifest.json": files["manifest.json"].replace(own, other)}
    assert {problem.file for problem in check_files(changed).problems} == {"manifest.json"}
