"""Settings: documented defaults, and a refusal that names field, rule and what to do."""

from dataclasses import dataclass

import pytest

from gpugrant.config import Programme, Settings, SettingsError, load_settings


@dataclass(frozen=True)
class Bad:
    id: str
    text: str
    words: tuple[str, ...]


def bad(id: str, text: str, *words: str) -> Bad:  # noqa: A002
    return Bad(id, text, words)


def of_programme(line: str) -> str:
    return f"programmes:\n  purchase-2025:\n    {line}\n"


BAD = (
    bad("a misspelt key", "enforcment: Enforce", 'unknown field "enforcment"', "did you mean enforcement?"),
    bad(
        "a misspelt key of a programme",
        of_programme("timezone: Asia/Seoul"),
        'unknown field "programmes.purchase-2025.timezone"',
        "did you mean timeZone?",
    ),
    bad("a key as Python writes it", of_programme("time_zone: Asia/Seoul"), "did you mean timeZone?"),
    bad(
        "a misspelt key of a report",
        of_programme("report: {closingday: 3}"),
        'unknown field "programmes.purchase-2025.report.closingday"',
        "did you mean closingDay?",
    ),
    bad(
        "a zone that does not exist",
        of_programme("timeZone: Asia/Soul"),
        "programmes.purchase-2025.timeZone",
        "did you mean Asia/Seoul?",
    ),
    bad("a zone by its city", of_programme("timeZone: seoul"), "timeZone", "did you mean Asia/Seoul?"),
    bad("a zone by its abbreviation", of_programme("timeZone: KST"), "timeZone", "such as Asia/Seoul"),
    bad("a zone that is a path", of_programme("timeZone: ../../etc/passwd"), "timeZone", "unknown time zone"),
    bad("a key given twice", "period: month\nperiod: 1h", "the key period is given twice", "line 2"),
    bad("a programme given twice", "programmes:\n  a: {}\n  a: {}", "the key a is given twice", "line 3"),
    bad(
        "a key that is a number", "programmes: {2025: {}}", "the key 2025 must be a string; put it in quotes"
    ),
    bad("an alias", "exemptNamespaces: &a [x]\nperiod: *a", "aliases (*name) are not allowed"),
    bad("no YAML", "programmes: {", "not readable as YAML"),
    bad("two documents", "period: month\n---\nperiod: month", "single document"),
    bad("a date that the calendar lacks", "period: 2026-13-45", "not readable as YAML"),
    bad("a Python object", "period: !!python/object:os.system {}", "not readable as YAML"),
    bad("brackets without an end", "[" * 5000, "not readable as YAML"),
    bad("a list", "[1]", "must be a mapping"),
    bad("a word", "Enforce", "must be a mapping"),
    bad("programmes as a list", "programmes: [purchase-2025]", "programmes", "must be a mapping"),
    bad("no programme at all", "programmes: {}", "programmes must name at least one"),
    bad("a programme's name in capitals", "programmes: {Purchase_2025: {}}", "programmes", "lower-case name"),
    bad("a programme that is a number", "programmes: {a: 3}", "programmes.a", "must be a mapping"),
    bad("enforcement off", "enforcement: Off", "enforcement", "'Enforce' or 'Observe'"),
    bad(
        "a time-out in quotes",
        "bindTimeoutSeconds: '60'",
        "bindTimeoutSeconds",
        "whole number, without quotes",
    ),
    bad("a time-out of nothing", "bindTimeoutSeconds: 0", "bindTimeoutSeconds", "greater than or equal to 1"),
    bad("a ceiling below nothing", "gracePeriodCeilingSeconds: -1", "gracePeriodCeilingSeconds"),
    bad(
        "one exempt namespace that is no list", "exemptNamespaces: kube-system", "exemptNamespaces", "a list"
    ),
    bad("an exempt namespace twice", "exemptNamespaces: [a, b, a]", "exemptNamespaces[2]: Duplicate value"),
    bad("an exempt namespace with a wildcard", "exemptNamespaces: ['kube-*']", "exemptNamespaces[0]"),
    bad("a period of a week", "period: week", "period: must be month, or a length"),
    bad("a period of no time", "period: 0s", "period: must be month, or a length"),
    bad("a cap below nothing", of_programme("caps: {NVIDIA-B200: -1}"), "caps.NVIDIA-B200"),
    bad("a cap of no GPU type", of_programme("caps: {NVIDIA B200: 8}"), "caps: every key must be a GPU type"),
    bad("a longest term of no time", of_programme("longestTermMonths: 0"), "longestTermMonths"),
    bad("a notice on the last day's evening", of_programme("noticeDays: [7, 0]"), "noticeDays[1]"),
    bad("a notice twice", of_programme("noticeDays: [7, 7]"), "noticeDays[1]: Duplicate value"),
    bad(
        "a notice of an eviction in words", of_programme("evictionNoticeSeconds: 1d"), "evictionNoticeSeconds"
    ),
    bad("conflicts of interest as a word", of_programme("conflictOfInterest: perhaps"), "true or false"),
    bad(
        "a round that is a number",
        of_programme("conflictRounds: [1]"),
        "conflictRounds[0]",
        "put it in quotes",
    ),
    bad("a window without a recall notice", of_programme("idleWindowSeconds: 600"), "belong together"),
    bad("a recall notice without a window", of_programme("recallNoticeSeconds: 600"), "belong together"),
    bad(
        "a report that is due before it closes", of_programme("report: {dueDay: 4}"), "must follow each other"
    ),
    bad("a report on the 31st", of_programme("report: {dueDay: 31}"), "report.dueDay", "28"),
    bad(
        "an unknown detail",
        of_programme("report: {ownUseDetail: All}"),
        "ownUseDetail",
        "'Total' or 'Tenant'",
    ),
)


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_refusal_names_field_rule_and_fix(case: Bad) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(case.text)
    for words in case.words:
        assert words in str(caught.value)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("period: week\nenforcement: Never\nbindTimeoutSeconds: x")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}", "programmes:\n", "enforcement:\n"])
def test_what_is_absent_has_the_documented_default(text: str) -> None:
    settings = load_settings(text)
    assert settings == Settings()
    assert dict(settings.programmes) == {"default": Programme()}
    assert (settings.enforcement, settings.bind_timeout_seconds, settings.grace_period_ceiling_seconds) == (
        "Enforce",
        60,
        3600,
    )
    assert settings.exempt_namespaces == ("kube-system", "gpu-operator", "gpugrant-system")
    assert settings.period_seconds is None


def test_programme_has_the_documented_defaults() -> None:
    programme = load_settings("programmes: {lease-2025: }").programmes["lease-2025"]
    assert (programme.time_zone, programme.notice_days) == ("Asia/Seoul", (30, 14, 7, 1))
    assert (programme.eviction_notice_seconds, programme.maintenance_notice_seconds) == (86_400, 259_200)
    assert programme.conflict_of_interest
    assert programme.conflict_rounds is None
    assert (programme.idle_window_seconds, programme.recall_notice_seconds) == (None, None)
    report = programme.report
    assert (report.closing_day, report.close_day, report.due_day) == (3, 5, 10)
    assert (report.unobserved_limit_gpu_seconds, report.own_use_detail) == (0, "Total")


def test_period_of_a_test_has_a_length() -> None:
    assert load_settings("period: 10m").period_seconds == 600


def test_digest_is_of_what_the_settings_mean_not_of_how_they_are_written() -> None:
    short = load_settings("programmes: {a: {}, b: {timeZone: Europe/Berlin}}")
    long = load_settings(
        "# a comment\nprogrammes:\n  b: {timeZone: Europe/Berlin}\n  a: {timeZone: Asia/Seoul}"
    )
    other = load_settings("programmes: {a: {}, b: {timeZone: Europe/Paris}}")
    assert short.digest == long.digest != other.digest
    assert (hash(short), short) == (hash(long), long)
    assert len(short.digest) == 64
