"""A ledger held against the signed reports that were made of it, after it was sealed anew; on both stores."""

import hashlib

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from sqlalchemy import create_engine

from gpugrant.expose.report import signing
from gpugrant.expose.report.files import render, write_folder
from gpugrant.expose.report.rows import MANIFEST
from gpugrant.meter.commands import ledger
from gpugrant.meter.database import reading_engine
from gpugrant.meter.facts import Aspect, GrantTerms, Health, SettingsVersion
from gpugrant.meter.seals import adopt
from gpugrant.meter.store import Store
from gpugrant.meter.verify_reports import NoReports, report_folders, verify_reports
from meter_kit import DECEMBER, NOVEMBER, a_server, ended

T, DAY = NOVEMBER, 86_400
NAME = "purchase-2025-nhn-cloud-2026-11"
TERMS = GrantTerms(
    "uid-of-pretrain", "hangang-lm", "pretrain", T, T + 90 * DAY, tenant="hangang", gpus=8, since=T
)
FACTS = (
    SettingsVersion("5e" * 32, T, ""),
    TERMS,
    a_server("server-1"),
    a_server("server-2"),
    ended("a", T + 100, T + 2 * DAY),
    Health("server-2", Aspect.READY, T + 3 * DAY, 0, T + 3 * DAY),
    Health("server-2", Aspect.READY, T + 4 * DAY, 1, T + 4 * DAY),
)


@pytest.fixture
def key(tmp_path):
    return signing.load_key(tmp_path / "key.pem", create=True)


@pytest.fixture
def reports(url, key, tmp_path):
    """Return the folder of the reports of a ledger with a closed month."""
    store = Store(url, now=lambda: T)
    store.open()
    store.commit(FACTS, DECEMBER + 100)
    while store.settle():
        pass
    found = next(one for one in store.reported() if one[2].name == "2026-11")
    account = replace(store.month_account(*found), closed_at=DECEMBER + 500)
    files = render(account, key)
    write_folder(files, tmp_path / "reports" / NAME)
    store.close_month(NAME, manifest_digest(files), DECEMBER + 500)
    store.close()
    return tmp_path / "reports"


def manifest_digest(files):
    return hashlib.sha256(files[MANIFEST]).hexdigest()


def rewrite(url, *statements):
    """Change the ledger and seal all of it anew, as whoever owns the database can."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for statement in statements:
            assert connection.exec_driver_sql(statement).rowcount > 0
        adopt(connection)
    engine.dispose()


def differences(url, folder, keys=()):
    engine = reading_engine(url)
    with engine.begin() as connection:
        found = [str(one) for one in verify_reports(connection, report_folders(folder), keys)]
    engine.dispose()
    return found


def test_a_ledger_is_what_its_reports_say(url, reports, key):
    assert differences(url, reports) == []
    assert differences(url, reports / NAME, [key.public_key()]) == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE cells SET gpu_seconds = gpu_seconds + 60 WHERE condition = 'Used' AND day_id = 1",
            "of usage.csv, gpu_seconds: 690460 is stored, the signed report says 690400 (+60)",
        ),
        (
            "UPDATE months SET account = replace(account, '\"gpus\":8', '\"gpus\":9')",
            f"closed month {NAME}, row 2 of awards.csv, gpus: 9 is stored, the signed report says 8 (+1)",
        ),
        (
            "UPDATE months SET account = replace(account, 'NotReady', 'Cordoned')",
            f"closed month {NAME}, row 2 of incidents.csv: no such row is stored",
        ),
        (
            "UPDATE months SET account = replace(account, '\"revision\":0', '\"revision\":1')",
            f"closed month {NAME}, days: ",
        ),
        ("DELETE FROM months", f"table months, {NAME}: no such month is stored"),
        ("UPDATE months SET manifest = 'aa'", f"table months, {NAME}, manifest: aa is stored"),
    ],
)
def test_what_was_rewritten_and_sealed_again_is_not_what_was_signed(url, reports, statement, words):
    rewrite(url, statement)
    found = differences(url, reports)
    assert found, "nothing was found"
    assert words in found[0], found


def test_a_report_that_was_changed_is_no_witness(url, reports, tmp_path):
    file = reports / NAME / "usage.csv"
    file.write_bytes(file.read_bytes().replace(b"690400", b"690401"))
    assert "usage.csv" in differences(url, reports)[0]


def test_a_report_signed_by_another_is_no_witness(url, reports, tmp_path):
    other = signing.load_key(tmp_path / "other.pem", create=True)
    assert any("key" in one for one in differences(url, reports, [other.public_key()]))


def test_the_command_compares_with_reports(url, reports, key, tmp_path):
    public = tmp_path / "public.pem"
    public.write_bytes(signing.public_pem(key.public_key()))

    def run(*given):
        asked = ["verify", "--ledger", url, "--reports", str(reports), *given]
        return CliRunner().invoke(ledger, asked)

    found = run("--public-key", str(public))
    assert found.exit_code == 0, found.output
    assert "1 signed report says the same" in found.output
    assert "by its own key" in run().output
    rewrite(url, "DELETE FROM months")
    found = run()
    assert (found.exit_code, "no such month is stored" in found.output) == (1, True)
    asked = ["verify", "--ledger", url, "--reports", str(tmp_path / "nothing")]
    found = CliRunner().invoke(ledger, asked)
    assert found.exit_code != 0 and "Traceback" not in found.output


def test_a_folder_without_reports_is_said_to_be_one(tmp_path):
    with pytest.raises(NoReports, match="holds no month's report"):
        report_folders(tmp_path)
