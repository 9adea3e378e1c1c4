"""What people say of a month's report, and who reads the ledger beside the operator; on both stores."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from gpugrant.expose.report.source import MarkRefused
from gpugrant.meter.facts import (
    Aspect,
    Health,
)
from gpugrant.meter.reader import open_reader
from gpugrant.meter.store import StoreAwayError
from meter_kit import DECEMBER
from unit.meter.november import (
    NAME,
    T,
    account,
    by_condition,
    opened,
    settle,
    through_november,
)


@pytest.fixture
def store(url):
    with opened(url) as store:
        yield store


def test_marks_are_left_by_another_process_without_superseding_the_one_who_writes(store, url):
    through_november(store)
    reader = open_reader(url)
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    reader.mark(NAME, "sign-off", "kim", "")
    store.mark(NAME, "acknowledge", "lee", "2026-113", DECEMBER + 600)
    store.mark(NAME, "acknowledge", "lee", "2026-113", DECEMBER + 600)
    assert [
        (one.kind, one.by, one.reference) for one in sorted(store.marks(NAME), key=lambda one: one.by)
    ] == [
        ("sign-off", "kim", ""),
        ("acknowledge", "lee", "2026-113"),
    ]
    row = next(one for one in reader.names() if one.name == NAME)
    assert row.manifest_sha256 == "f" * 64
    assert (row.state, row.signed_off_by, row.acknowledged) == ("Acknowledged", "kim", "2026-113")
    assert reader.account(NAME) == account(store)
    with pytest.raises(LookupError, match="knows no month"):
        reader.mark("nobody-2026-11", "sign-off", "kim", "")
    reader.close()


def test_a_month_is_signed_off_once_and_acknowledged_once_and_only_when_it_is_closed(store, url):
    through_november(store)
    reader = open_reader(url)
    for kind in ("sign-off", "acknowledge"):
        with pytest.raises(MarkRefused):
            reader.mark(NAME, kind, "kim", "2026-113")
    assert store.marks(NAME) == []
    store.close_month(NAME, "f" * 64, DECEMBER + 500)
    with pytest.raises(MarkRefused, match="not signed off"):
        reader.mark(NAME, "acknowledge", "kim", "2026-113")
    reader.mark(NAME, "sign-off", "kim", "")
    with pytest.raises(MarkRefused, match="signed off by kim already"):
        reader.mark(NAME, "sign-off", "lee", "")
    store.mark(NAME, "acknowledge", "officer", "", DECEMBER + 600)  # as the object's spec says
    with pytest.raises(MarkRefused, match="acknowledged already on its UsageReport"):
        reader.mark(NAME, "acknowledge", "kim", "2026-113")
    with pytest.raises(MarkRefused, match="never changes"):
        reader.mark(NAME, "close", "kim", "")
    store.mark(NAME, "acknowledge", "later", "", DECEMBER + 700)
    assert [(one.kind, one.by) for one in store.marks(NAME)] == [
        ("sign-off", "kim"),
        ("acknowledge", "officer"),
    ]
    reader.close()


def test_of_many_who_sign_off_at_once_one_does(store, url):
    through_november(store)
    store.close_month(NAME, "f" * 64, DECEMBER + 500)

    def sign(who):
        reader = open_reader(url)
        try:
            reader.mark(NAME, "sign-off", who, "")
        except MarkRefused:
            return ""
        finally:
            reader.close()
        return who

    with ThreadPoolExecutor(8) as pool:
        signed = [who for who in pool.map(sign, "abcdefgh") if who]
    assert [one.by for one in store.marks(NAME)] == signed and len(signed) == 1


def test_a_reader_sees_one_moment_while_the_operator_writes(store, url):
    through_november(store)
    reader = open_reader(url)
    before = reader.account(NAME)
    store.commit([Health("server-1", Aspect.READY, T + 1000, 0)], DECEMBER + 200)
    settle(store)
    assert by_condition(before) != by_condition(reader.account(NAME))
    reader.close()


def test_a_ledger_that_is_not_there_cannot_be_read(tmp_path):
    with pytest.raises(StoreAwayError, match="there is no ledger in"):
        open_reader(f"sqlite:///{tmp_path}/no/ledger.db").names()


def test_a_mistyped_path_is_no_new_ledger(tmp_path):
    with pytest.raises(StoreAwayError, match="there is no ledger in"):
        open_reader(f"sqlite:///{tmp_path}/leger.db").names()
    assert list(tmp_path.iterdir()) == []
