"""Good and bad GpuGrants."""

from typing import Any, Final

from .lines import ABSENT, DATE, LINE, Json, Table

table = Table("GpuGrant")
_MOMENT = "must be a date, quoted, such as '2026-11-01', or an instant with whole seconds and a zone"


def _term(start: Any, end: Any) -> Json:
    return {"start": start, "end": end}


GRANTS: Final = (
    table.takes(
        "a grant with everything",
        also={
            "spec.provider": "nhn-cloud",
            "spec.share": "OwnUse",
            "spec.placement": "AnyFabric",
            "spec.priority": -5,
            "spec.budget": {"gpuHours": 500000, "onExhausted": "Drain"},
            "spec.suspend": "Hold",
            "spec.idle": {"lend": False},
            "spec.award": {"id": "P25-1-0042", "round": "1", "decidedOn": "2026-03-03"},
            "spec.track": "start-up",
            "spec.displayName": "한강언어모델",
            "spec.term.graceSeconds": 0,
        },
    ),
    table.takes("a single GPU", also={"spec.gpus": 1, "spec.placement": "SharedServers"}),
    table.takes("100 GPUs, which only the operator can tell are no whole servers", "spec.gpus", 100),
    table.takes("a million GPUs", "spec.gpus", 1000000),
    table.takes("a term of one day", "spec.term", _term("2026-11-01", "2026-11-02")),
    table.takes("a term on a leap day", "spec.term", _term("2028-02-29", "2028-03-01")),
    table.takes(
        "a term between instants", "spec.term", _term("2026-11-01T09:00:00+09:00", "2026-12-01T00:00:00Z")
    ),
    table.takes(
        "a term of one second, told in two zones",
        "spec.term",
        _term("2026-11-01T09:00:00+09:00", "2026-11-01T00:00:01Z"),
    ),
    table.takes("the lowest priority", "spec.priority", -(2**31)),
    table.takes("a name of 63 characters", "metadata.name", "g" * 63),
    table.takes("a budget that is null", "spec.budget", None),
    table.refuses("a name of 64 characters", "metadata.name", "g" * 64, "at most 63 characters"),
    table.refuses("no GPU type in a grant", "spec.gpuType", ABSENT, "Required value"),
    table.refuses("a GPU type of 64 characters", "spec.gpuType", "B" * 64, "63"),
    table.refuses("no number of GPUs", "spec.gpus", ABSENT, "Required value"),
    table.refuses("no GPUs", "spec.gpus", 0, "greater than or equal to 1"),
    table.refuses("a negative number of GPUs", "spec.gpus", -8, "greater than or equal to 1"),
    table.refuses("more than a million GPUs", "spec.gpus", 1000001, "less than or equal to 1000000"),
    table.refuses("more GPUs than 64 bits count", "spec.gpus", 2**63, "less than or equal to 1"),
    table.refuses("eight and a half GPUs", "spec.gpus", 8.5, "must be"),
    table.refuses("GPUs as a quantity", "spec.gpus", "1k", "must be"),
    table.refuses("GPUs as a truth", "spec.gpus", True, "must be"),
    table.refuses("no term", "spec.term", ABSENT, "Required value"),
    table.refuses(
        "a term without an end", "spec.term", {"start": "2026-11-01"}, "Required value", at="spec.term.end"
    ),
    table.refuses(
        "a term that ends before it starts",
        "spec.term",
        _term("2026-11-01", "2026-05-01"),
        "end must be after start (2026-05-01 is not after 2026-11-01)",
    ),
    table.refuses(
        "a term that ends the day it starts",
        "spec.term",
        _term("2026-11-01", "2026-11-01"),
        "end must be after start",
    ),
    table.refuses(
        "a term that ends the instant it starts, told in two zones",
        "spec.term",
        _term("2026-11-01T09:00:00+09:00", "2026-11-01T00:00:00Z"),
        "end must be after start",
    ),
    table.refuses(
        "a term from a date to an instant",
        "spec.term",
        _term("2026-11-01", "2027-05-01T00:00:00Z"),
        "must both be dates or both be instants (2026-11-01 and 2027-05-01T00:00:00Z are mixed)",
    ),
    table.refuses(
        "a term from an instant to a date",
        "spec.term",
        _term("2026-11-01T00:00:00+09:00", "2027-05-01"),
        "must both be dates or both be instants",
    ),
    table.refuses(
        "a start on a day that the calendar lacks",
        "spec.term",
        _term("2026-02-30", "2027-05-01"),
        _MOMENT,
        at="spec.term.start",
    ),
    table.refuses(
        "an end on a leap day of no leap year",
        "spec.term",
        _term("2026-11-01", "2027-02-29"),
        _MOMENT,
        at="spec.term.end",
    ),
    table.refuses(
        "an instant on a day that the calendar lacks",
        "spec.term",
        _term("2026-06-31T00:00:00Z", "2027-05-01T00:00:00Z"),
        _MOMENT,
        at="spec.term.start",
    ),
    table.refuses(
        "a thirteenth month", "spec.term", _term("2026-13-01", "2027-05-01"), _MOMENT, at="spec.term.start"
    ),
    table.refuses(
        "a date without its zeros",
        "spec.term",
        _term("2026-1-1", "2027-05-01"),
        _MOMENT,
        at="spec.term.start",
    ),
    table.refuses(
        "a date in words", "spec.term", _term("next year", "2027-05-01"), _MOMENT, at="spec.term.start"
    ),
    table.refuses("an empty date", "spec.term", _term("", "2027-05-01"), _MOMENT, at="spec.term.start"),
    table.refuses(
        "a year in the wrong millennium",
        "spec.term",
        _term("0026-11-01", "2027-05-01"),
        _MOMENT,
        at="spec.term.start",
    ),
    table.refuses(
        "half a second",
        "spec.term",
        _term("2026-11-01T00:00:00.5Z", "2027-05-01T00:00:00Z"),
        "whole seconds",
        at="spec.term.start",
    ),
    table.refuses(
        "an instant without a zone",
        "spec.term",
        _term("2026-11-01T00:00:00", "2027-05-01T00:00:00Z"),
        _MOMENT,
        at="spec.term.start",
    ),
    table.refuses(
        "an instant with a space",
        "spec.term",
        _term("2026-11-01 00:00:00Z", "2027-05-01T00:00:00Z"),
        _MOMENT,
        at="spec.term.start",
    ),
    table.refuses(
        "a twenty-fifth hour",
        "spec.term",
        _term("2026-11-01T24:00:00Z", "2027-05-01T00:00:00Z"),
        _MOMENT,
        at="spec.term.start",
    ),
    table.refuses(
        "a leap second",
        "spec.term",
        _term("2026-12-31T23:59:60Z", "2027-05-01T00:00:00Z"),
        _MOMENT,
        at="spec.term.start",
    ),
    table.refuses(
        "a date that is a number",
        "spec.term",
        _term(20261101, "2027-05-01"),
        "must be",
        "string",
        at="spec.term.start",
    ),
    table.refuses(
        "a date of a thousand characters",
        "spec.term",
        _term("2026-11-01" * 100, "2027-05-01"),
        "35",
        at="spec.term.start",
    ),
    table.refuses("less than no grace", "spec.term.graceSeconds", -1, "greater than or equal to 0"),
    table.refuses(
        "a grace of twenty years",
        "spec.term.graceSeconds",
        20 * 366 * 86400,
        "less than or equal to 316224000",
    ),
    table.refuses(
        "an unknown placement", "spec.placement", "Anywhere", "OneFabric", "AnyFabric", "SharedServers"
    ),
    table.refuses("a share in small letters", "spec.share", "public", "Public", "OwnUse"),
    table.refuses("a suspension as a switch", "spec.suspend", False, "Hold", "Drain"),
    table.refuses("a priority beyond 32 bits", "spec.priority", 2**31, "less than or equal to 2147483647"),
    table.refuses(
        "a budget of nothing",
        "spec.budget",
        {"gpuHours": 0},
        "greater than or equal to 1",
        at="spec.budget.gpuHours",
    ),
    table.refuses(
        "a budget without hours",
        "spec.budget",
        {"onExhausted": "Hold"},
        "Required value",
        at="spec.budget.gpuHours",
    ),
    table.refuses(
        "a budget that does something unknown at its end",
        "spec.budget",
        {"gpuHours": 1, "onExhausted": "Delete"},
        "Hold",
        "Drain",
        at="spec.budget.onExhausted",
    ),
    table.refuses(
        "an award without a number", "spec.award", {"round": "1"}, "Required value", at="spec.award.id"
    ),
    table.refuses(
        "an award whose round is a number",
        "spec.award",
        {"id": "P25-1-0042", "round": 1},
        "must be",
        "string",
        at="spec.award.round",
    ),
    table.refuses("an award of two lines", "spec.award", {"id": "P25\n0042"}, LINE, at="spec.award.id"),
    table.refuses(
        "an award decided at an instant",
        "spec.award",
        {"id": "P25-1-0042", "decidedOn": "2026-03-03T10:00:00Z"},
        "10",
        at="spec.award.decidedOn",
    ),
    table.refuses(
        "an award decided on the 29th of February 2026",
        "spec.award",
        {"id": "P25-1-0042", "decidedOn": "2026-02-29"},
        DATE,
        at="spec.award.decidedOn",
    ),
    table.refuses("lending as a word", "spec.idle", {"lend": "yes"}, "must be", at="spec.idle.lend"),
    table.refuses("a field as Python would write it", "spec.display_name", "HangangLM", "unknown field"),
    table.refuses("a tenant in a grant", "spec.tenant", "hangang", "unknown field"),
    table.refuses("a term with a length", "spec.term.months", 6, "unknown field"),
)
