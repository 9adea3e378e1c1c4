"""gpugrant report, as people and scripts use it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec.structs import replace

from gpugrant.expose.report import signing
from gpugrant.expose.report.checking import verify
from gpugrant.expose.report.commands import report
from gpugrant.expose.report.files import render, write_folder
from gpugrant.expose.report.source import MarkRefused, ReportRow, refusal
from gpugrant.meter.month import Identity
from gpugrant.meter.store import StoreAwayError
from unit.report.months import KEY, OTHER_KEY, a_month

NOVEMBER, OCTOBER = "purchase-2025-nhn-cloud-2026-11", "purchase-2025-nhn-cloud-2026-10"


class Kept:
    """Months kept in memory, which people's marks change as the operator's would."""

    def __init__(self) -> None:
        running = a_month(until=a_month().start + 5 * 86_400, closed=False)
        self.accounts = {NOVEMBER: running, OCTOBER: a_month("2026-10")}
        self.rows = {
            NOVEMBER: ReportRow(
                name=NOVEMBER, state="Open", zone="Asia/Seoul", ends_at=running.end, until=running.until
            ),
            OCTOBER: ReportRow(
                name=OCTOBER,
                state="Closed",
                zone="Asia/Seoul",
                until=a_month().start,
                closed_at=a_month().start + 86_400 * 4,
            ),
        }
        self.marks: list[tuple[str, ...]] = []

    def names(self):
        return tuple(self.rows.values())

    def account(self, name):
        return self.accounts[name]

    def mark(self, name, kind, by, reference):
        if why := refusal(self.rows[name], kind):
            raise MarkRefused(why)
        self.marks.append((name, kind, by, reference))
        if kind == "sign-off":
            self.rows[name] = replace(self.rows[name], signed_off_by=by)
        if kind == "acknowledge":
            self.rows[name] = replace(self.rows[name], state="Acknowledged", acknowledged=reference)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def run(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs a command and says what came of it."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, ledger=True):
        env = {
            "GPUGRANT_LEDGER": "sqlite://" if ledger else None,
            "GPUGRANT_SIGNING_KEY": str(tmp_path / "key.pem"),
        }
        return CliRunner().invoke(report, [str(one) for one in arguments], obj=lambda url: kept, env=env)

    return invoke


def test_list_is_plain_columns_in_a_pipe(run):
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == [
        "NAME", "STATE", "UNTIL", "CLOSED-AT", "DUE-AT", "SIGNED-OFF-BY", "ACKNOWLEDGED",
    ]  # fmt: skip
    assert [line.split()[:2] for line in lines[1:]] == [[OCTOBER, "Closed"], [NOVEMBER, "Open"]]
    assert "\x1b" not in "".join(lines) and not any(line.endswith(" ") for line in lines)


def test_list_for_programs(run):
    rows = json.loads(run("list", "-o", "json").stdout)
    assert [row["name"] for row in rows] == [OCTOBER, NOVEMBER]
    assert rows[0]["until"] == "2026-11-01T00:00:00+09:00"
    assert run("list", "-o", "csv").stdout.splitlines()[0].startswith("name,state,until")


def test_no_reports_are_no_error_and_no_output(run, kept):
    kept.rows.clear()
    ended = run("list")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "", "No reports found.\n")


def test_show_says_what_holds(run, kept):
    ended = run("show", OCTOBER)
    assert ended.exit_code == 0
    assert ended.stdout.splitlines()[0] == f"{OCTOBER} · closed 2026-11-05T00:00:00+09:00"
    assert "reconciles to the second: 2 identities hold" in ended.stdout
    assert "2 lines correct earlier months" in ended.stdout
    assert "share shortfall of nhn-b200: 5400 GPU-seconds (1.500000 GPU-hours)" in ended.stdout
    [free] = [line for line in ended.stdout.splitlines() if " free " in line]
    assert free.split() == ["Public", "NVIDIA-B200", "free", "Idle", "47615.956944", "171,417,445"]


def test_show_says_what_does_not_hold(run, kept):
    one = kept.accounts[NOVEMBER].identities[0]
    wrong = Identity(one.name, one.pool, one.expected, one.counted - 3)
    kept.accounts[NOVEMBER] = replace(kept.accounts[NOVEMBER], identities=(wrong,))
    shown = run("show", NOVEMBER).stdout
    assert "provisional, counted to 2026-11-06T00:00:00+09:00" in shown
    assert "does not hold: seats x seconds of nhn-b200: 3 GPU-seconds too few" in shown
    assert "reconciles" not in shown


def test_show_for_programs(run):
    shown = json.loads(run("show", OCTOBER, "-o", "json").stdout)
    assert (shown["report"], shown["state"]) == (OCTOBER, "Closed")
    assert sum(total["gpu_seconds"] for total in shown["totals"]) == 320 * 31 * 86_400
    assert shown["share_shortfall"] == [{"pool": "nhn-b200", "gpu_seconds": 5400, "gpu_hours": "1.500000"}]
    rows = run("show", OCTOBER, "-o", "csv").stdout.splitlines()
    assert rows[0] == "share,gpu_type,owner,condition,gpu_hours,gpu_seconds"
    assert len(rows) == 1 + len(shown["totals"])


@pytest.mark.parametrize("command", ["show", "get", "build", "close"])
def test_a_name_that_is_not_there(run, tmp_path, command):
    signing.load_key(tmp_path / "key.pem", create=True)
    ended = run(command, "purchase-2025-nhn-cloud-2026-1")
    assert ended.exit_code == 1
    assert f'report "purchase-2025-nhn-cloud-2026-1" not found; did you mean {NOVEMBER}?' in ended.stderr


def test_a_ledger_that_cannot_be_read_is_told_in_words(run, kept, monkeypatch):
    def away():
        raise StoreAwayError("it is locked")

    monkeypatch.setattr(kept, "names", away)
    ended = run("list")
    assert (ended.exit_code, ended.stderr) == (1, "Error: the ledger cannot be read: it is locked\n")


def test_without_a_ledger_the_usage_is_wrong(run):
    ended = run("list", ledger=False)
    assert ended.exit_code == 2
    assert "--ledger" in ended.stderr


def test_get_writes_what_verifies(run, tmp_path):
    ended = run("get", OCTOBER, "--create-key")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, f"{OCTOBER}\n", "")
    assert verify(tmp_path / OCTOBER) == []
    before = (tmp_path / OCTOBER / "manifest.json.sig").read_bytes()
    assert run("get", OCTOBER, "-o", "again").exit_code == 0
    assert (tmp_path / "again" / "manifest.json.sig").read_bytes() == before


def test_get_needs_a_key(run, tmp_path):
    ended = run("get", OCTOBER)
    assert ended.exit_code == 1 and "there is no signing key" in ended.stderr
    key = tmp_path / "key.pem"
    signing.load_key(key, create=True)
    key.chmod(0o644)
    ended = run("get", OCTOBER)
    assert ended.exit_code == 1 and "chmod 600" in ended.stderr
    assert not (tmp_path / OCTOBER).exists()


def test_get_gives_a_closed_month_only_as_it_was_closed(run, kept, tmp_path):
    closed = render(kept.accounts[OCTOBER], KEY)["manifest.json"]
    kept.rows[OCTOBER] = replace(kept.rows[OCTOBER], manifest_sha256=hashlib.sha256(closed).hexdigest())
    ended = run("get", OCTOBER, "--create-key")
    assert ended.exit_code == 1 and "sign with the key that it was closed with" in ended.stderr
    assert not (tmp_path / OCTOBER).exists()
    key = tmp_path / "key.pem"
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert run("get", OCTOBER).exit_code == 0
    assert (tmp_path / OCTOBER / "manifest.json").read_bytes() == closed


def test_get_replaces_only_the_same_month_provisional(run, kept, tmp_path):
    first = run("get", NOVEMBER, "--create-key")
    assert first.exit_code == 0 and "its figures will still change" in first.stderr
    kept.accounts[NOVEMBER] = a_month()
    assert run("get", NOVEMBER).exit_code == 0
    assert json.loads((tmp_path / NOVEMBER / "manifest.json").read_bytes())["state"] == "Closed"
    kept.accounts[NOVEMBER] = a_month(gpus=56)
    ended = run("get", NOVEMBER)
    assert ended.exit_code == 1 and "holds something else" in ended.stderr
    assert json.loads((tmp_path / NOVEMBER / "usage.json").read_bytes())["awards"][0]["gpus"] == 64


def test_get_does_not_take_others_files_away(run, tmp_path):
    assert run("get", NOVEMBER, "--create-key").exit_code == 0
    (tmp_path / NOVEMBER / "notes.txt").write_text("asked on the phone")
    ended = run("get", NOVEMBER)
    assert ended.exit_code == 0 or "move it away" in ended.stderr
    assert (tmp_path / NOVEMBER / "notes.txt").read_text() == "asked on the phone"


def test_get_does_not_write_a_closed_month_that_fails_its_check(run, kept, tmp_path):
    account = kept.accounts[OCTOBER]
    kept.accounts[OCTOBER] = replace(account, lines=account.lines[1:])
    ended = run("get", OCTOBER, "--create-key")
    assert ended.exit_code == 1
    assert "fails its own check; nothing was written" in ended.stderr
    assert "its rows have" in ended.stderr
    assert not (tmp_path / OCTOBER).exists()


def test_the_way_of_a_month(run, kept):
    assert run("build", NOVEMBER, "--by", "kim").stdout == f"{NOVEMBER}: build requested\n"
    early = run("close", NOVEMBER, "--by", "kim")
    assert early.exit_code == 1 and f"{NOVEMBER} still runs until 2026-12-01T00:00:00+09:00" in early.stderr
    kept.rows[NOVEMBER] = replace(kept.rows[NOVEMBER], state="Closing")
    assert run("close", NOVEMBER, "--by", "kim").stdout == f"{NOVEMBER}: close requested\n"
    for command in ("build", "close"):
        ended = run(command, OCTOBER)
        assert ended.exit_code == 1 and "a closed month never changes" in ended.stderr
    early = run("sign-off", NOVEMBER, "--by", "Lee")
    assert early.exit_code == 1 and "only a closed month can be signed off" in early.stderr
    early = run("ack", OCTOBER, "--reference", "NIPA-7")
    assert (
        early.exit_code == 1 and f"`gpugrant report sign-off {OCTOBER} --by WHO` comes before" in early.stderr
    )
    assert run("sign-off", OCTOBER, "--by", "Lee").exit_code == 0
    assert run("sign-off", OCTOBER, "--by", "Lee").exit_code == 1
    assert run("ack", OCTOBER, "--reference", "NIPA-7", "--by", "kim").exit_code == 0
    again = run("ack", OCTOBER, "--reference", "NIPA-8")
    assert again.exit_code == 1 and "acknowledged already, under NIPA-7" in again.stderr
    assert kept.marks == [
        (NOVEMBER, "build", "kim", ""),
        (NOVEMBER, "close", "kim", ""),
        (OCTOBER, "sign-off", "Lee", ""),
        (OCTOBER, "acknowledge", "kim", "NIPA-7"),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("sign-off", OCTOBER),
        ("sign-off", OCTOBER, "--by", " "),
        ("sign-off", OCTOBER, "--by", "a\nb"),
        ("ack", OCTOBER),
        ("ack", OCTOBER, "--reference", ""),
        ("ack", OCTOBER, "--reference", "x" * 257),
        ("show",),
        ("verify",),
        ("merge",),
    ],
)
def test_wrong_usage_ends_with_two_and_marks_nothing(run, kept, arguments):
    assert run(*arguments).exit_code == 2
    assert kept.marks == []


def test_verify_says_what_the_folder_is(run, tmp_path):
    write_folder(render(a_month(), KEY), tmp_path / "november")
    ended = run("verify", "november", ledger=False)
    assert ended.exit_code == 0
    assert ended.stdout == f"{NOVEMBER}: closed 2026-12-05T00:00:00+09:00; reconciles; signature valid\n"
    assert f"own key {signing.fingerprint(KEY.public_key())}" in ended.stderr
    (tmp_path / "key.pub").write_bytes(signing.public_pem(KEY.public_key()))
    assert run("verify", "november", "--public-key", "key.pub").stderr == ""


def test_verify_names_file_and_row(run, tmp_path):
    write_folder(render(a_month(), KEY), tmp_path / "november")
    table = tmp_path / "november" / "awards.csv"
    table.write_bytes(table.read_bytes().replace(b",64,", b",65,", 1))
    ended = run("verify", "november")
    assert ended.exit_code == 1
    assert "awards.csv, row 2: gpus is 65; usage.json says 64; get the folder again" in ended.stdout
    assert ended.stderr == "november: 2 problems\n"


def test_verify_with_another_key_fails(run, tmp_path):
    write_folder(render(a_month(), KEY), tmp_path / "november")
    (tmp_path / "key.pub").write_bytes(signing.public_pem(OTHER_KEY.public_key()))
    assert run("verify", "november", "--public-key", "key.pub").exit_code == 1
    (tmp_path / "key.pub").write_text("no key")
    ended = run("verify", "november", "--public-key", "key.pub")
    assert ended.exit_code == 1 and "not a public key" in ended.stderr


def test_verify_of_a_folder_that_is_no_report_is_one_line(run, tmp_path):
    (tmp_path / "other").mkdir()
    for number in range(300):
        (tmp_path / "other" / f"file-{number}").touch()
    ended = run("verify", "other")
    assert ended.exit_code == 1
    assert len(ended.stdout.splitlines()) == 1 and "it is no report's folder" in ended.stdout
    assert ended.stderr == "other: 1 problem\n"


def test_what_file_managers_leave_is_a_note_and_other_strangers_are_a_fault(run, tmp_path):
    write_folder(render(a_month(), KEY), tmp_path / "november")
    for name in (".DS_Store", "desktop.ini", "Thumbs.db"):
        (tmp_path / "november" / name).touch()
    ended = run("verify", "november")
    assert ended.exit_code == 0, ended.stdout
    assert "note: .DS_Store is no part of the report" in ended.stderr
    for number in range(12):
        (tmp_path / "november" / f"note-{number}").touch()
    ended = run("verify", "november")
    assert ended.exit_code == 1 and "2 others are no part of a report either" in ended.stdout


def test_merge_knows_the_pools_that_are_partial(run, tmp_path):
    write_folder(render(a_month(), KEY), tmp_path / "nhn")
    ended = run("merge", "nhn", "--partial", "nhn-cloud/nhn-b20", "-o", "all")
    assert ended.exit_code == 2
    assert "no folder has the pool 'nhn-cloud/nhn-b20'; there are: nhn-cloud/nhn-b200" in ended.stderr
    assert not (tmp_path / "all").exists()
    assert run("merge", "nhn", "--partial", "nhn-cloud/nhn-b200").exit_code == 0


def test_verify_prints_nothing_that_moves_the_cursor(run, tmp_path):
    write_folder(render(a_month(), KEY), tmp_path / "november")
    (tmp_path / "november" / "\x1b[2Jall is well").touch()
    ended = run("verify", "november")
    assert ended.exit_code == 1
    assert "\x1b" not in ended.stdout + ended.stderr


def test_merge_adds_and_writes(run, tmp_path):
    write_folder(render(a_month(), KEY), tmp_path / "nhn")
    other = a_month(
        provider="kakao", pool="kakao-b200", tenants=("hangang-lm", "z"), awards=("K-1", "K-2"), gpus=88
    )
    other = replace(other, caps=(("NVIDIA-B200", 128),), settings_digest="ab" * 32)
    write_folder(render(other, KEY), tmp_path / "kakao")
    ended = run("merge", "nhn", "kakao", "-o", "all", ledger=False)
    assert ended.exit_code == 0, ended.stderr
    assert "flag: tenant hangang-lm was granted 152 public NVIDIA-B200 at once" in ended.stderr
    assert "flag: the settings were not the same" in ended.stderr
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        "usage.csv", "awards.csv", "incidents.csv", "corrections.csv", "summary.json",
    }  # fmt: skip
    again = run("merge", "nhn", "nhn")
    assert again.exit_code == 1 and "is the same report as" in again.stderr


def test_help_needs_nothing_heavy():
    script = (
        "import sys; from gpugrant.expose.report.commands import report\n"
        "try: report(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'sqlalchemy', 'cryptography', 'rich', 'kopf', 'pydantic', 'aiohttp'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    for command in ("list", "show", "get", "build", "close", "sign-off", "ack", "verify", "merge"):
        assert f"  {command} " in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"
