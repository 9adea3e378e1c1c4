"""TenantQuota: what a tenant may be granted, and which suppliers it is affiliated with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gpugrant.api.constraints import Unique
from gpugrant.api.fields import Count, GpuHours, GpusOrNone, LabelValue, Name, Share, ShortText, Text
from gpugrant.api.objects import READY_REASON, ApiObject, Column, Conditions, Kind
from gpugrant.api.schema import ApiModel, Rule

_LIMIT_KEYS = ("programme", "gpuType", "share")


class Limit(ApiModel):
    """The most a tenant may have of one programme, GPU type and share."""

    programme: Name = "default"
    """The programme."""
    gpu_type: LabelValue
    """The GPU type, as pools name it."""
    share: Share = "Public"
    """Which share the limit is for."""
    gpus: GpusOrNone
    """The sum over the tenant's grants."""
    gpu_hours_per_month: GpuHours | None = None
    """Used GPU-hours per calendar month of the programme's zone. Absent: no limit."""


class TenantQuotaSpec(ApiModel):
    """What a platform engineer declares about a tenant; the object's name is the tenant."""

    display_name: Text | None = None
    """The tenant's name for people, in reports and tables."""
    track: ShortText | None = None
    """The track of the programme that the tenant applied in, such as academia or start-up."""
    affiliated_providers: Annotated[tuple[Name, ...], Field(strict=False, max_length=64), Unique()] = ()
    """Suppliers that the tenant is, or is partnered with; decides conflicts of interest."""
    limits: Annotated[tuple[Limit, ...], Field(strict=False, max_length=256), Unique(_LIMIT_KEYS)] = ()
    """Limits by programme, GPU type and share. Absent: the programme's caps."""


class LimitStatus(ApiModel):
    """How much of a limit is taken."""

    programme: str
    gpu_type: str
    share: Share
    limit: Count | None = None
    """The limit that applies, from the quota or the programme's caps."""
    granted: Count = 0
    held: Count = 0
    gpu_hours_this_month: Count = 0


class QuotaSummary(ApiModel):
    """Columns that one field cannot give."""

    gpus: str = ""
    """Held, granted and limit, summed over all types."""
    hours: str = ""
    """Used GPU-hours of this month."""
    why: str = ""


class TenantQuotaStatus(ApiModel):
    """What the operator sees of a tenant."""

    observed_generation: Count | None = None
    conditions: Conditions = ()
    namespaces: Annotated[tuple[str, ...], Field(strict=False), Unique()] = ()
    """The namespaces that carry the tenant's label."""
    limits: Annotated[tuple[LimitStatus, ...], Field(strict=False), Unique(_LIMIT_KEYS)] = ()
    summary: QuotaSummary | None = None


class TenantQuota(ApiObject):
    """What one tenant may be granted."""

    kind: Literal["TenantQuota"]
    spec: Annotated[TenantQuotaSpec, Field(json_schema_extra={"default": {}})] = TenantQuotaSpec()
    status: TenantQuotaStatus | None = None

    about: ClassVar[Kind] = Kind(
        kind="TenantQuota",
        plural="tenantquotas",
        short_name="tq",
        namespaced=False,
        columns=(
            Column(name="Display-Name", path=".spec.displayName"),
            Column(name="Track", path=".spec.track"),
            Column(name="GPUs (held/granted/limit)", path=".status.summary.gpus"),
            Column(name="Hours-This-Month", path=".status.summary.hours"),
            Column(name="Affiliated", path=".spec.affiliatedProviders", priority=1),
            Column(name="Namespaces", path=".status.namespaces", priority=1),
            Column(name="Status", path=READY_REASON),
            Column(name="Why", path=".status.summary.why"),
        ),
    )
    rules = (
        Rule(
            cel="self.metadata.name.size() <= 63",
            holds=lambda given: len(given.metadata.name) <= 63,
            message="metadata.name must be at most 63 characters: it is the tenant, a label's value",
        ),
    )
