"""What a UsageReport says of its month: its state, its figures, its conditions. Pure.

Open until the closing day, Closing until everything holds and the closing day has come, Closed, Acknowledged. Of a
closed month only what people do with it still moves: Acknowledged, Overdue, FilesValid and the summary's words.
"""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from gpugrant.decide.reasons import Verdict, counted
from gpugrant.decide.statuses import Doc, condition
from gpugrant.expose.report.amounts import hours
from gpugrant.expose.report.rows import MANIFEST
from gpugrant.meter.facts import Condition
from gpugrant.run.report_rules import ACKNOWLEDGE, SIGN_OFF, Figures, Standing, hindrances

OPEN: Final = "Open"
CLOSING: Final = "Closing"
CLOSED: Final = "Closed"
ACKNOWLEDGED: Final = "Acknowledged"
OVERDUE: Final = "Overdue"
FILES_VALID: Final = "FilesValid"
FILES_NOT_VALID: Final = "FilesNotValid"  # the Event's reason
# What the policy on closed reports lets the operator change; it names them too.
STILL_MOVING: Final = (ACKNOWLEDGED, OVERDUE, FILES_VALID)

_LONGEST_MESSAGE: Final = 1024


class Closing(Struct, frozen=True):
    """How a month was closed: its manifest's digest, when, and the digests of all its files, where they are known."""

    manifest_sha256: str
    closed_at: int
    digests: tuple[tuple[str, str], ...] = ()


def open_status(old: Doc, standing: Standing, figures: Figures) -> Doc:
    """Return the status of a month that is not closed."""
    found = hindrances(standing, figures)
    first = found[0] if found else Verdict(False, "Closing", "it is being closed")
    state = CLOSING if standing.is_closing else OPEN
    words = "; ".join(verdict.message for verdict in found) or first.message
    overdue = standing.now > standing.days.due

    def say(kind: str, ok: bool, reason: str, message: str = "") -> Doc:
        return condition(old, kind, ok, reason, message, standing.generation, standing.now)

    not_yet = "the month is not closed yet"
    return _figures(standing, figures) | {
        "observedGeneration": standing.generation,
        "conditions": [
            say(OPEN, state == OPEN, "Counting" if state == OPEN else CLOSING),
            say(CLOSING, state == CLOSING, state),
            say(CLOSED, False, first.reason, words),
            say(ACKNOWLEDGED, False, "NotClosed", not_yet),
            say(OVERDUE, overdue, *_overdue(standing, overdue, not_yet)),
        ],
        "summary": _summary(figures, state, first.message if state == CLOSING or overdue else ""),
    }


def closed_status(
    old: Doc, standing: Standing, closing: Closing | None, figures: Figures | None, fault: Verdict
) -> Doc:
    """Return the status of a closed month.

    What ``old`` says as closed stays as it is; else it is made from ``closing`` and ``figures``, which must be given
    then. ``fault`` is the condition FilesValid.
    """
    if not is_closed(old):
        assert closing is not None and figures is not None
        old = _as_closed(old, standing, closing, figures)
    at = standing.now
    verdict = acknowledgement(standing)
    overdue = not verdict.ok and at > standing.days.due
    mark = standing.last(ACKNOWLEDGE)
    moving = {
        ACKNOWLEDGED: condition(
            old, ACKNOWLEDGED, verdict.ok, verdict.reason, verdict.message, standing.generation,
            mark.at if verdict.ok and mark else at,
        ),
        OVERDUE: condition(
            old, OVERDUE, overdue, *_overdue(standing, overdue, verdict.message), standing.generation, at
        ),
        FILES_VALID: condition(old, FILES_VALID, fault.ok, fault.reason, fault.message, standing.generation, at),
    }  # fmt: skip
    if is_acknowledged(old):  # that is not taken back, nor told in other words
        moving[ACKNOWLEDGED] = _condition(old, ACKNOWLEDGED)
    why = fault.message if not fault.ok else "" if verdict.ok else verdict.message
    kept = [one for one in old["conditions"] if one["type"] not in moving]
    return old | {
        "observedGeneration": standing.generation,
        "conditions": [*kept, *moving.values()],
        "summary": (old.get("summary") or {}) | {
            "state": ACKNOWLEDGED if verdict.ok else CLOSED,
            "why": why[:_LONGEST_MESSAGE],
        },
    }  # fmt: skip


def acknowledgement(standing: Standing) -> Verdict:
    """Say whether a closed month is acknowledged, and what it waits for if not."""
    signed, mark = standing.last(SIGN_OFF), standing.last(ACKNOWLEDGE)
    if signed is None:
        what = "`gpugrant report sign-off` by the supplier's officer"
        if standing.acknowledged_by or mark is not None:
            who = standing.acknowledged_by or (mark.by if mark else "") or "an officer"
            message = f"acknowledged by {who}, which counts once it is signed off: {what} comes first"
        else:
            message = f"waits for {what}"
        return Verdict(False, "NotSignedOff", message)
    if mark is None:
        message = (
            f"signed off by {signed.by} at {standing.time(signed.at)}; waits for the programme's officer: "
            "`gpugrant report ack`, or spec.acknowledgedBy"
        )
        return Verdict(False, "SignedOff", message)
    parts = [f"signed off by {signed.by}", f"acknowledged by {mark.by}" if mark.by else "acknowledged"]
    if mark.reference:
        parts.append(f"reference {mark.reference}")
    return Verdict(True, ACKNOWLEDGED, ", ".join(parts))


def is_closed(status: Doc) -> bool:
    """Say whether a status says that the month is closed."""
    return _condition(status, CLOSED).get("status") == "True"


def is_acknowledged(status: Doc) -> bool:
    """Say whether a status says that the month is acknowledged."""
    return _condition(status, ACKNOWLEDGED).get("status") == "True"


def says(status: Doc) -> set[tuple[str, str]]:
    """Return what a status says without figures: the status and reason of each condition, and the state."""
    conditions = status.get("conditions") or ()
    return {
        *((one["type"], one["status"]) for one in conditions),
        *((one["type"], one["reason"]) for one in conditions),
        ("state", (status.get("summary") or {}).get("state", "")),
    }


def news(old: Doc, wanted: Doc) -> list[tuple[str, str, bool]]:
    """Return what a status tells that the old one did not: an Event's reason and words, and whether it is a warning."""
    before, after = says(old), says(wanted)
    told = [(CLOSED, "True", CLOSED, False), (ACKNOWLEDGED, "True", ACKNOWLEDGED, False)]
    told += [(OVERDUE, "True", OVERDUE, True), (FILES_VALID, "False", FILES_NOT_VALID, True)]
    return [
        (reason, message_of(wanted, kind), warning)
        for kind, state, reason, warning in told
        if (kind, state) in after and (kind, state) not in before
    ]


def message_of(status: Doc, kind: str) -> str:
    """Return the message of a condition."""
    return str(_condition(status, kind).get("message", ""))


def manifest_in(status: Doc) -> str:
    """Return the digest of the manifest that a status names; '' where it names none."""
    return next((one["sha256"] for one in status.get("digests") or () if one["name"] == MANIFEST), "")


def _condition(status: Doc, kind: str) -> Doc:
    return next((one for one in status.get("conditions") or () if one.get("type") == kind), {})


def _as_closed(old: Doc, standing: Standing, closing: Closing, figures: Figures) -> Doc:
    def say(kind: str, ok: bool, reason: str, message: str = "") -> Doc:
        return condition(old, kind, ok, reason, message, standing.generation, closing.closed_at)

    named = f"manifest.json has sha256 {closing.manifest_sha256}"
    return _figures(standing, figures) | {
        "closedAt": standing.time(closing.closed_at),
        "digests": [{"name": name, "sha256": digest} for name, digest in sorted(closing.digests)],
        "conditions": [
            say(OPEN, False, CLOSED),
            say(CLOSING, False, CLOSED),
            say(CLOSED, True, CLOSED, f"reconciles; {named}"),
            *(one for one in old.get("conditions") or () if one["type"] in STILL_MOVING),
        ],
        "summary": _summary(figures, CLOSED, ""),
    }


def _figures(standing: Standing, figures: Figures) -> Doc:
    reconciles = not figures.failing
    message = "" if reconciles else counted(len(figures.failing), "sum") + " not equal: see condition Closed"
    return {
        "countedUntil": standing.time(figures.until),
        "dueAt": standing.time(standing.days.due),
        "totals": [
            {"share": share, "gpuType": gpu_type, "condition": name, "gpuSeconds": amount}
            for share, gpu_type, name, amount in figures.totals
        ],
        "reconciliation": {
            "expectedGpuSeconds": figures.expected,
            "countedGpuSeconds": figures.counted,
            "differenceGpuSeconds": figures.counted - figures.expected,
            "reconciles": reconciles,
            "message": message,
        },
        "corrections": figures.corrections,
    }


def _summary(figures: Figures, state: str, why: str) -> dict[str, Any]:
    return {
        "state": state,
        "heldHours": _hours(figures.totals, Condition.USED),
        "failedHours": _hours(figures.totals, Condition.FAILED),
        "why": why[:_LONGEST_MESSAGE],
    }


def _hours(totals: Sequence[tuple[str, str, str, int]], name: str) -> str:
    """Return the GPU-hours of one condition with two places, cut off."""
    return hours(sum(amount for _, _, one, amount in totals if one == name))[:-4]


def _overdue(standing: Standing, overdue: bool, waits_for: str) -> tuple[str, str]:
    due = standing.time(standing.days.due)
    if not overdue:
        return "NotOverdue", f"due by {due}"
    return OVERDUE, f"it was due by {due} and is not acknowledged: {waits_for}"
