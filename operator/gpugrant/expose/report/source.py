"""Where ``gpugrant report`` takes months from, and leaves what people said of them."""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from gpugrant.expose.report.amounts import local_time
from gpugrant.meter.month import MonthAccount

MarkKind = Literal["build", "close", "sign-off", "acknowledge"]


class ReportRow(Struct, frozen=True, kw_only=True):
    """One month of one provider, in a list. Times are epoch seconds; 0: not yet, not known."""

    name: str
    state: str  # Open, Closing, Closed, Acknowledged
    zone: str = "UTC"  # the programme's
    ends_at: int = 0  # the month's end
    until: int = 0  # the watermark it is counted to
    closed_at: int = 0
    due_at: int = 0
    signed_off_by: str = ""
    acknowledged: str = ""  # the programme's reference
    manifest_sha256: str = ""  # of the month as it closed


class MarkRefused(ValueError):
    """A month that cannot be marked so; the words say why, and what to do."""


class Reports(Protocol):
    """The months that a ledger knows.

    Every method raises StoreAwayError where it cannot be read or written, LookupError for what it does not know.
    """

    def names(self) -> Sequence[ReportRow]:
        """Return every month of every programme and provider, whatever its state."""
        ...

    def account(self, name: str) -> MonthAccount:
        """Return a month's account: as it closed, or as it is now."""
        ...

    def mark(self, name: str, kind: MarkKind, by: str, reference: str) -> None:
        """Note that somebody asks to build or close a month, signed it off or acknowledged it.

        Raises MarkRefused where ``refusal`` has a reason at the moment of writing.
        """
        ...


def refusal(row: ReportRow, kind: MarkKind) -> str:
    """Return why a month cannot be marked so, and what to do; empty: it can."""
    closed = row.state in ("Closed", "Acknowledged")
    if kind == "close" and row.state == "Open":
        until = local_time(row.until, row.zone) or "its beginning"
        over = f" until {local_time(row.ends_at, row.zone)}" if row.ends_at else ""
        return (
            f"{row.name} still runs{over} and is counted to {until}: it may be closed once it is over and counted to "
            "its end; on its closing day it closes by itself"
        )
    if kind in ("build", "close"):
        return (
            f"{row.name} is {row.state}: a closed month never changes; what is found later becomes corrections "
            "in the next open month"
            if closed
            else ""
        )
    if kind == "sign-off":
        if not closed:
            how = f"`gpugrant report close {row.name}` asks for that"
            return f"{row.name} is {row.state}: only a closed month can be signed off; {how}"
        return f"{row.name} was signed off by {row.signed_off_by} already" if row.signed_off_by else ""
    if not row.signed_off_by:
        how = f"`gpugrant report sign-off {row.name} --by WHO`"
        return f"{row.name} is not signed off: {how} comes before"
    if row.state != "Acknowledged":
        return ""
    how = f", under {row.acknowledged}" if row.acknowledged else " on its UsageReport, without a reference"
    return f"{row.name} is acknowledged already{how}"
