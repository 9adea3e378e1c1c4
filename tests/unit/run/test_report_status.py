"""What a report says of its month, and what keeps a month from closing."""

import re
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from gpugrant.api.report import UsageReportStatus
from gpugrant.config import Programme
from gpugrant.decide.reasons import Verdict
from gpugrant.meter.month import Identity
from gpugrant.meter.months import Calendar
from gpugrant.run.report_rules import Mark, Standing, days_of, figures_of, hindrances
from gpugrant.run.report_status import (
    Closing,
    acknowledgement,
    closed_status,
    is_acknowledged,
    manifest_in,
    news,
    open_status,
    says,
)
from unit.report.months import a_month

MONTH = Calendar().month_of(1_793_458_800)
RULES = Programme()
DAYS = days_of(MONTH, RULES)
FIGURES = figures_of(a_month(closed=False))
GOOD = Verdict(True, "AsClosed")
SHA = "ab" * 32
CLOSED = Closing(SHA, DAYS.close, (("manifest.json", SHA), ("usage.csv", "cd" * 32)))


def standing(now=DAYS.close, **given):
    values = {
        "programme": "purchase-2025",
        "month": MONTH,
        "zone": RULES.time_zone,
        "days": DAYS,
        "now": now,
        "watermark": now,
    }
    return Standing(**(values | given))


def seoul(*moment):
    return int(datetime(*moment, tzinfo=ZoneInfo("Asia/Seoul")).timestamp())


def states(status):
    return {one["type"]: one["status"] == "True" for one in status["conditions"]}


def reason(status, kind):
    return next(one["reason"] for one in status["conditions"] if one["type"] == kind)


# -- days ----------------------------------------------------------------------------------------------


def test_the_days_are_midnights_of_the_programmes_zone_and_the_due_day_counts_whole():
    assert DAYS.closing == seoul(2026, 12, 3)
    assert DAYS.close == seoul(2026, 12, 5)
    assert DAYS.due == seoul(2026, 12, 10, 23, 59, 59)


def test_the_28th_of_february_has_a_day_after_it():
    month = Calendar().month_of(seoul(2027, 1, 15))
    rules = Programme.from_wire({"report": {"dueDay": 28}})
    assert days_of(month, rules).due == seoul(2027, 2, 28, 23, 59, 59)


def test_clocks_that_change_in_between_move_no_midnight():
    rules = Programme.from_wire({"timeZone": "Europe/Berlin", "report": {"closeDay": 28, "dueDay": 28}})
    march = days_of(Calendar("Europe/Berlin").month_of(seoul(2026, 2, 15)), rules)
    zone = ZoneInfo("Europe/Berlin")
    assert march.closing == int(datetime(2026, 3, 3, tzinfo=zone).timestamp())
    october = days_of(Calendar("Europe/Berlin").month_of(seoul(2026, 9, 15)), rules)
    assert october.due == int(datetime(2026, 10, 28, 23, 59, 59, tzinfo=zone).timestamp())


def test_a_short_period_closes_at_once_and_is_due_one_period_later():
    month = Calendar(period=60).month_of(MONTH.start)
    days = days_of(month, RULES)
    assert (days.closing, days.close, days.due) == (month.end, month.end, month.end + 60)


# -- what keeps it from closing ------------------------------------------------------------------------


def why(given=FIGURES, **changes):
    return [verdict.reason for verdict in hindrances(standing(**changes), given)]


def test_a_month_that_holds_closes_on_its_day_and_not_before():
    assert why() == []
    assert why(now=DAYS.close - 1) == ["BeforeCloseDay"]


def test_an_officer_may_close_it_before_its_day_but_not_before_its_end():
    mark = (Mark("close", "kim", "", MONTH.end),)
    assert why(now=MONTH.end, marks=mark) == []
    assert why(now=MONTH.end - 1, marks=mark) == ["MonthRunning"]


def test_a_month_waits_for_the_ledger():
    assert why(watermark=MONTH.end - 1) == ["LedgerBehind"]
    assert why(replace(FIGURES, until=MONTH.end - 1)) == ["LedgerBehind"]


def test_a_sum_that_is_not_equal_is_named_with_its_pool_and_by_how_much():
    account = a_month(closed=False)
    off = Identity("held x seconds", "nhn-b200", 100, 93)
    figures = figures_of(replace(account, identities=(*account.identities, off)))
    (found,) = hindrances(standing(), figures)
    assert found.reason == "NotReconciled"
    for words in ("held x seconds", "nhn-b200", "expected 100", "counted 93", "-7", "gpugrant ledger verify"):
        assert words in found.message


def with_unobserved(amount, limit):
    account = a_month(closed=False)
    first, *others = account.lines
    lost = replace(first, condition="Unobserved", gpu_seconds=amount)
    return figures_of(replace(account, lines=(lost, *others), unobserved_limit=limit))


def test_unobserved_time_is_allowed_up_to_the_limit():
    assert why(with_unobserved(500, 500)) == []
    (found,) = hindrances(standing(), with_unobserved(501, 500))
    assert found.reason == "TooMuchUnobserved"
    for words in ("501", "pool nhn-b200: 501", "500 are allowed", "unobservedLimitGpuSeconds"):
        assert words in found.message


def test_every_day_must_be_closed_in_the_ledger():
    account = a_month(closed=False)
    figures = figures_of(replace(account, days=account.days[:-2]))
    (found,) = hindrances(standing(), figures)
    assert found.reason == "DaysOpen"
    assert "2026-11-29; 2026-11-30" in found.message


def test_the_first_month_begins_when_the_ledger_did_and_later_ones_do_not():
    account = a_month(closed=False)
    begun = replace(account, days=account.days[21:])
    assert figures_of(begun).missing_days == ()
    assert figures_of(replace(begun, previous_manifest=SHA)).missing_days[0] == "2026-11-01"


def test_a_short_month_is_one_day_of_the_ledger():
    month = Calendar(period=60).month_of(MONTH.start)
    account = replace(
        a_month(closed=False), month=month.name, start=month.start, end=month.end, until=month.end
    )
    named = replace(account.days[0], day=month.name)
    assert figures_of(replace(account, days=(named,))).missing_days == ()
    assert figures_of(replace(account, days=())).missing_days == (month.name,)


def test_months_close_in_order_and_only_where_they_can_be_signed():
    assert why(earlier_open="purchase-2025-nhn-cloud-2026-10") == ["EarlierMonthOpen"]
    assert why(unable="start the operator with --reports DIR") == ["CannotSign"]


def test_all_that_keeps_it_is_told_at_once():
    told = why(with_unobserved(501, 500), now=DAYS.closing, unable="no key")
    assert told == ["TooMuchUnobserved", "CannotSign", "BeforeCloseDay"]


def test_whoever_reads_a_reason_finds_it_in_the_manual():
    root = Path(__file__).parents[3]
    sources = [path.read_text() for path in (root / "operator/gpugrant/run").glob("report*.py")]
    reasons = {found for text in sources for found in re.findall(r'Verdict\(False, "(\w+)"', text)}
    assert len(reasons) > 10
    page = (root / "docs/reports.md").read_text()
    table = set(re.findall(r"\w+", " ".join(re.findall(r"^\| \w+ \| ([\w, ]+) \|.*\|$", page, re.MULTILINE))))
    assert reasons - table - {"Closing"} == set()


# -- the status ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "watermark", "state"),
    [
        (MONTH.start + 60, MONTH.start + 58, "Open"),
        (MONTH.end, MONTH.end, "Open"),
        (DAYS.closing, MONTH.end - 1, "Open"),
        (DAYS.closing, DAYS.closing, "Closing"),
    ],
    ids=["runs", "is over", "its ledger is behind", "its closing day has come"],
)
def test_a_month_is_open_until_its_closing_day_and_until_its_sources_are_complete(now, watermark, state):
    status = open_status({}, standing(now=now, watermark=watermark), FIGURES)
    assert status["summary"]["state"] == state
    assert states(status) == {
        "Open": state == "Open",
        "Closing": state == "Closing",
        "Closed": False,
        "Acknowledged": False,
        "Overdue": False,
    }


def test_statuses_are_what_the_kind_allows():
    for status in (
        open_status({}, standing(now=MONTH.start), FIGURES),
        closed_status({}, standing(), CLOSED, FIGURES, GOOD),
    ):
        UsageReportStatus.from_wire(status)


def test_figures_are_those_of_the_account():
    account = a_month(closed=False)
    status = open_status({}, standing(now=DAYS.closing), FIGURES)
    assert sum(one["gpuSeconds"] for one in status["totals"]) == sum(
        line.gpu_seconds for line in account.lines
    )
    used = sum(line.gpu_seconds for line in account.lines if line.condition == "Used")
    assert status["summary"]["heldHours"] == f"{used * 100 // 3600 / 100:.2f}"
    assert status["reconciliation"]["reconciles"] is True
    assert status["dueAt"] == "2026-12-10T23:59:59+09:00"


def test_a_report_that_is_not_closed_by_its_due_day_is_overdue_and_says_why():
    unable = "no key"
    status = open_status({}, standing(now=DAYS.due, unable=unable), FIGURES)
    assert not states(status)["Overdue"]
    status = open_status(status, standing(now=DAYS.due + 1, unable=unable), FIGURES)
    assert states(status)["Overdue"]
    assert status["summary"]["why"] == unable


def test_a_transition_keeps_its_time_while_nothing_changes():
    first = open_status({}, standing(now=DAYS.closing), FIGURES)
    again = open_status(first, standing(now=DAYS.closing + 500), FIGURES)
    assert again["conditions"] == first["conditions"]


# -- closed --------------------------------------------------------------------------------------------


def signed_off(at=DAYS.close + 10):
    return Mark("sign-off", "Lee, NHN Cloud", "", at)


def acknowledged(by="H. Kim", at=DAYS.close + 20):
    return Mark("acknowledge", by, "NIPA-2026-118", at)


def test_files_that_are_no_longer_those_that_were_closed_are_warned_of_once():
    good = closed_status({}, standing(), CLOSED, FIGURES, GOOD)
    assert [(reason, warning) for reason, _, warning in news({}, good)] == [("Closed", False)]
    lost = closed_status(good, standing(), None, None, Verdict(False, "FolderLost", "it is gone"))
    assert news(good, lost) == [("FilesNotValid", "it is gone", True)]
    assert news(lost, lost) == []
    assert news(lost, good) == []


def test_a_closed_month_names_its_files_and_waits_for_its_sign_off():
    status = closed_status({}, standing(), CLOSED, FIGURES, GOOD)
    assert manifest_in(status) == SHA
    assert status["closedAt"] == "2026-12-05T00:00:00+09:00"
    assert states(status) == {
        "Open": False,
        "Closing": False,
        "Closed": True,
        "Acknowledged": False,
        "Overdue": False,
        "FilesValid": True,
    }
    assert reason(status, "Acknowledged") == "NotSignedOff"
    assert "gpugrant report sign-off" in status["summary"]["why"]


def test_an_acknowledgement_counts_only_once_it_is_signed_off():
    early = acknowledgement(standing(marks=(acknowledged(at=DAYS.close + 1),)))
    assert (early.ok, early.reason) == (False, "NotSignedOff")
    by_object = acknowledgement(standing(acknowledged_by="H. Kim, NIPA"))
    assert not by_object.ok and "H. Kim, NIPA" in by_object.message and "sign-off" in by_object.message
    waits = acknowledgement(standing(marks=(signed_off(),)))
    assert (waits.ok, waits.reason) == (False, "SignedOff")
    done = acknowledgement(standing(marks=(signed_off(), acknowledged())))
    assert done.ok
    assert done.message == "signed off by Lee, NHN Cloud, acknowledged by H. Kim, reference NIPA-2026-118"


def test_what_was_closed_stays_word_for_word_while_people_act_on_it():
    first = closed_status({}, standing(), CLOSED, FIGURES, GOOD)
    later = standing(now=DAYS.due + 5, marks=(signed_off(), acknowledged()), generation=2)
    second = closed_status(first, later, None, None, GOOD)
    moving = {"Acknowledged", "Overdue", "FilesValid"}
    assert [one for one in second["conditions"] if one["type"] not in moving] == [
        one for one in first["conditions"] if one["type"] not in moving
    ]
    for key in first.keys() - {"conditions", "summary", "observedGeneration"}:
        assert second[key] == first[key]
    assert is_acknowledged(second) and second["summary"]["state"] == "Acknowledged"
    assert second["summary"]["heldHours"] == first["summary"]["heldHours"]


def test_an_object_that_was_lost_is_made_again_as_it_was():
    marks = (signed_off(), acknowledged())
    closed = closed_status({}, standing(), CLOSED, FIGURES, GOOD)
    grown = closed_status(closed, standing(now=DAYS.close + 30, marks=marks), None, None, GOOD)
    again = closed_status({}, standing(now=DAYS.due + 86_400, marks=marks), CLOSED, FIGURES, GOOD)
    for status in (grown, again):
        for one in status["conditions"]:
            if one["type"] in ("Overdue", "FilesValid"):  # since when they are so is not in the ledger
                one["lastTransitionTime"] = ""
    assert again == grown


def test_a_closed_month_that_nobody_acknowledges_becomes_overdue_until_somebody_does():
    status = closed_status({}, standing(), CLOSED, FIGURES, GOOD)
    late = closed_status(status, standing(now=DAYS.due + 1), None, None, GOOD)
    assert states(late)["Overdue"] and ("Overdue", "True") in says(late)
    marks = (signed_off(), acknowledged())
    done = closed_status(late, standing(now=DAYS.due + 2, marks=marks), None, None, GOOD)
    assert not states(done)["Overdue"]


def test_an_acknowledgement_is_never_taken_back_nor_told_otherwise():
    marks = (signed_off(), acknowledged())
    done = closed_status({}, standing(marks=marks), CLOSED, FIGURES, GOOD)
    other = (*marks, acknowledged("somebody else", DAYS.close + 99))
    assert closed_status(done, standing(marks=other), None, None, GOOD) == done


def test_a_folder_that_is_not_what_was_closed_is_a_condition():
    status = closed_status({}, standing(), CLOSED, FIGURES, GOOD)
    bad = Verdict(False, "FolderDiffers", "usage.csv was changed")
    told = closed_status(status, standing(), None, None, bad)
    assert not states(told)["FilesValid"]
    assert told["summary"]["why"] == "usage.csv was changed"
