"""Where closed months lie: staged, published, checked, written again; never over something else."""

import shutil
import stat

import pytest
from msgspec.structs import replace

from gpugrant.expose.report.checking import verify
from gpugrant.expose.report.signing import load_key
from gpugrant.run.report_folder import LOST, Shelf, ShelfError, fault
from unit.report.months import a_month

ACCOUNT = a_month(closed=False, days=("2026-11-01",))
NOW = ACCOUNT.end + 4 * 86_400


def a_shelf(folder, **given):
    return Shelf(f"sqlite:///{folder / 'ledger.db'}", **given)


def closed(shelf, account=ACCOUNT, now=NOW):
    """Stage a month and give it its name, as if the ledger had closed it in between."""
    account, digest = shelf.stage(account, now)
    shelf.publish(account.name, digest)
    return account, digest


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- where ---------------------------------------------------------------------------------------------


def test_beside_a_sqlite_ledger_folder_and_key_are_made_and_the_key_is_its_owners(tmp_path):
    shelf = a_shelf(tmp_path)
    assert shelf.unable() == ""
    key = tmp_path / "signing-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert shelf.folder("x") == tmp_path / "reports" / "x"
    before = key.read_bytes()
    assert a_shelf(tmp_path).unable() == "" and key.read_bytes() == before


def test_the_fingerprint_is_logged_once(tmp_path, caplog):
    caplog.set_level("INFO")
    shelf = a_shelf(tmp_path)
    assert not shelf.unable() and not shelf.unable()
    account, _ = closed(shelf)
    fingerprints = [record.message.rpartition(" ")[2] for record in caplog.records]
    assert len(fingerprints) == 1
    manifest = (tmp_path / "reports" / account.name / "manifest.json").read_text()
    assert fingerprints[0] in manifest


@pytest.mark.parametrize("ledger", ["postgresql+psycopg://db/ledger", "sqlite://", "sqlite:///:memory:"])
def test_where_the_ledger_is_no_file_both_must_be_named(ledger, tmp_path):
    for given in ({}, {"reports": str(tmp_path)}, {"key_file": str(tmp_path / "key")}):
        words = Shelf(ledger, **given).unable()
        assert "--reports DIR" in words and "--signing-key FILE" in words


def test_a_key_that_was_named_is_not_made(tmp_path):
    shelf = Shelf("postgresql://db/ledger", str(tmp_path / "reports"), str(tmp_path / "key.pem"))
    assert "key.pem" in shelf.unable() and not (tmp_path / "key.pem").exists()
    load_key(tmp_path / "key.pem", create=True)
    assert shelf.unable() == ""


def test_a_key_that_others_may_read_signs_nothing(tmp_path):
    load_key(tmp_path / "key.pem", create=True)
    (tmp_path / "key.pem").chmod(0o644)
    shelf = a_shelf(tmp_path, key_file=str(tmp_path / "key.pem"))
    assert "chmod 600" in shelf.unable()
    with pytest.raises(ShelfError, match="chmod 600"):
        shelf.stage(ACCOUNT, NOW)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "reports").write_text("in the way")
    assert "reports cannot be kept" in a_shelf(tmp_path).unable()


# -- closing -------------------------------------------------------------------------------------------


def test_a_month_has_its_name_only_once_the_ledger_closed_it(tmp_path):
    shelf = a_shelf(tmp_path)
    account, digest = shelf.stage(ACCOUNT, NOW)
    place = tmp_path / "reports" / account.name
    assert not place.exists() and account.closed_at == NOW
    shelf.publish(account.name, digest)
    assert verify(place) == []
    assert shelf.fault(account.name, digest) == ""
    assert [path.name for path in (tmp_path / "reports").iterdir()] == [account.name]


def test_digests_are_those_of_the_files(tmp_path):
    from hashlib import sha256

    shelf = a_shelf(tmp_path)
    account, digest = closed(shelf)
    place = tmp_path / "reports" / account.name
    expected = {name: sha256(data).hexdigest() for name, data in content(place).items()}
    assert dict(shelf.digests(account.name, digest)) == expected
    (place / "usage.csv").write_text("")
    assert shelf.digests(account.name, digest) == (("manifest.json", digest),)


def test_a_second_try_with_the_same_figures_is_the_same_month(tmp_path):
    first, digest = a_shelf(tmp_path).stage(ACCOUNT, NOW)
    again, same = a_shelf(tmp_path).stage(ACCOUNT, NOW + 500)
    assert (again, same) == (first, digest)


def test_a_second_try_with_other_figures_is_another_one(tmp_path):
    _, digest = a_shelf(tmp_path).stage(ACCOUNT, NOW)
    other = replace(ACCOUNT, owner="somebody else")
    shelf = a_shelf(tmp_path)
    account, another = closed(shelf, other, NOW + 500)
    assert another != digest and account.closed_at == NOW + 500
    assert shelf.fault(account.name, another) == ""


def test_what_lies_under_the_name_is_not_written_over(tmp_path):
    shelf = a_shelf(tmp_path)
    account, _ = closed(shelf)
    place = tmp_path / "reports" / account.name
    before = content(place)
    with pytest.raises(ShelfError, match="move the folder away"):
        shelf.stage(replace(ACCOUNT, owner="somebody else"), NOW)
    assert content(place) == before


def test_an_older_ledger_closes_the_same_month_to_the_same_bytes(tmp_path):
    shelf = a_shelf(tmp_path)
    account, digest = closed(shelf)
    before = content(tmp_path / "reports" / account.name)
    assert closed(a_shelf(tmp_path), now=NOW + 86_400) == (account, digest)
    assert content(tmp_path / "reports" / account.name) == before
    assert [path.name for path in (tmp_path / "reports").iterdir()] == [account.name]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("last", ["rendered", "staged", "published"])
def test_whatever_step_it_ends_at_the_next_process_ends_with_one_whole_month(last, tmp_path):
    def die(step):
        if step == last:
            raise Killed

    with pytest.raises(Killed):
        closed(a_shelf(tmp_path, on_step=die))
    shelf = a_shelf(tmp_path)
    account, digest = closed(shelf)
    assert shelf.fault(account.name, digest) == ""
    assert [path.name for path in (tmp_path / "reports").iterdir()] == [account.name]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    shelf = a_shelf(tmp_path)
    account, digest = shelf.stage(ACCOUNT, NOW)
    left = tmp_path / "reports" / f"..{account.name}.closing.0123456789ab.partial"
    left.mkdir()
    shelf.publish(account.name, digest)
    assert not left.exists()


# -- what lies there -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["usage.csv", "manifest.json", "manifest.json.sig", "public-key.pem"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_file_that_is_not_what_was_closed_is_named(name, how, tmp_path):
    shelf = a_shelf(tmp_path)
    account, digest = closed(shelf)
    assert shelf.fault(account.name, digest) == ""
    path = tmp_path / "reports" / account.name / name
    if how == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert name in shelf.fault(account.name, digest)


def test_a_lost_folder_is_written_again_with_the_same_bytes(tmp_path):
    shelf = a_shelf(tmp_path)
    account, digest = closed(shelf)
    place = tmp_path / "reports" / account.name
    before = content(place)
    shutil.rmtree(place)
    assert shelf.fault(account.name, digest) == LOST
    shelf.write_again(account, digest)
    assert content(place) == before and shelf.fault(account.name, digest) == ""


def test_with_another_key_a_lost_folder_is_not_written_again(tmp_path):
    account, digest = closed(a_shelf(tmp_path))
    place = tmp_path / "reports" / account.name
    shutil.rmtree(place)
    load_key(tmp_path / "other.pem", create=True)
    shelf = a_shelf(tmp_path, key_file=str(tmp_path / "other.pem"))
    with pytest.raises(ShelfError, match="another key"):
        shelf.write_again(account, digest)
    assert not place.exists()


def test_writing_again_never_writes_over_a_folder(tmp_path):
    shelf = a_shelf(tmp_path)
    account, digest = closed(shelf)
    (tmp_path / "reports" / account.name / "usage.csv").write_text("mine")
    with pytest.raises(ShelfError, match="already"):
        shelf.write_again(account, digest)
    assert (tmp_path / "reports" / account.name / "usage.csv").read_text() == "mine"


def test_a_folder_without_a_manifest_is_no_month(tmp_path):
    (tmp_path / "month").mkdir()
    assert "manifest.json" in fault(tmp_path / "month", "0" * 64)
    assert fault(tmp_path / "nowhere", "0" * 64) == LOST
