"""UsageReport: one programme's month at one provider, as it was counted, closed and acknowledged."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gpugrant.api.constraints import Unique
from gpugrant.api.fields import Count, Month, Name, Share, SignedCount, Text
from gpugrant.api.objects import ApiObject, Column, Conditions, Kind
from gpugrant.api.schema import ApiModel, Rule

SeatCondition = Literal["Failed", "Undelivered", "Maintenance", "Unobserved", "Lent", "Grace", "Used", "Idle"]


class UsageReportSpec(ApiModel):
    """Which month of whom; the operator makes the object."""

    programme: Name
    """The programme that the report is for."""
    provider: Name
    """The provider that reports."""
    month: Month
    """The calendar month in the programme's zone; with a period for tests, when that starts, in UTC."""
    acknowledged_by: Text | None = None
    """The programme's officer who received the closed month; set by a person."""


class Total(ApiModel):
    """GPU-seconds of one share, GPU type and condition."""

    share: Share
    gpu_type: str
    condition: SeatCondition
    gpu_seconds: Count


class FileDigest(ApiModel):
    """One file of the month's folder."""

    name: str
    sha256: Annotated[str, Field(min_length=64, max_length=64)]


class Reconciliation(ApiModel):
    """Whether the month's parts sum to max(contracted, installed) seats times seconds."""

    expected_gpu_seconds: Count
    counted_gpu_seconds: Count
    difference_gpu_seconds: SignedCount
    reconciles: bool
    message: str = ""


class ReportSummary(ApiModel):
    """Columns that one field cannot give."""

    state: str = ""
    """Open, Closing, Closed or Acknowledged."""
    held_hours: str = ""
    failed_hours: str = ""
    why: str = ""


class UsageReportStatus(ApiModel):
    """The month as it was counted. Once closed it does not change."""

    observed_generation: Count | None = None
    conditions: Conditions = ()
    counted_until: str | None = None
    """The ledger's watermark that the totals are up to."""
    closed_at: str | None = None
    due_at: str | None = None
    totals: Annotated[
        tuple[Total, ...],
        Field(strict=False),
        Unique(("share", "gpuType", "condition")),
    ] = ()
    digests: Annotated[tuple[FileDigest, ...], Field(strict=False), Unique(("name",))] = ()
    """SHA-256 of each file of the signed folder."""
    reconciliation: Reconciliation | None = None
    corrections: Count = 0
    """Lines of this month that correct earlier ones."""
    summary: ReportSummary | None = None


class UsageReport(ApiObject):
    """One programme's month at one provider."""

    kind: Literal["UsageReport"]
    spec: UsageReportSpec
    status: UsageReportStatus | None = None

    about: ClassVar[Kind] = Kind(
        kind="UsageReport",
        plural="usagereports",
        short_name="ur",
        namespaced=False,
        columns=(
            Column(name="Programme", path=".spec.programme"),
            Column(name="Provider", path=".spec.provider"),
            Column(name="Month", path=".spec.month"),
            Column(name="State", path=".status.summary.state"),
            Column(name="Held-Hours", path=".status.summary.heldHours"),
            Column(name="Failed-Hours", path=".status.summary.failedHours"),
            Column(name="Reconciles", path=".status.reconciliation.reconciles"),
            Column(name="Due", path=".status.dueAt"),
            Column(name="Why", path=".status.summary.why"),
        ),
    )
    rules = (
        Rule(
            cel="self.metadata.name =="
            " self.spec.programme + '-' + self.spec.provider + '-' + self.spec.month",
            holds=lambda given: (
                given.metadata.name == f"{given.spec.programme}-{given.spec.provider}-{given.spec.month}"
            ),
            message="metadata.name must be programme-provider-month "
            "(here {spec.programme}-{spec.provider}-{spec.month})",
        ),
    )
