"""GpuGrant: seats of one pool, in one share, for one tenant, over a term."""

from datetime import date, datetime, timedelta
from typing import Annotated, ClassVar, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import Field

from gpugrant.api.constraints import cel_string
from gpugrant.api.fields import (
    INSTANT_PATTERN,
    SHORTEST_INSTANT,
    Count,
    Date,
    DateOrInstant,
    GpuHours,
    Gpus,
    LabelValue,
    Name,
    Priority,
    Seconds,
    Share,
    ShortText,
    Text,
    is_date,
)
from gpugrant.api.objects import READY_REASON, ApiObject, Column, Conditions, Kind
from gpugrant.api.schema import ApiModel, Rule, Transition

_BOTH_DATES: Final = "self.start.size() == 10 && self.end.size() == 10"
_INSTANT: Final = cel_string(f"^{INSTANT_PATTERN}$")
_BOTH_INSTANTS: Final = f"self.start.matches({_INSTANT}) && self.end.matches({_INSTANT})"


class Term(ApiModel):
    """From start to end, which is not part of it: dates (midnight in the programme's zone) or instants."""

    start: DateOrInstant
    """The first day or instant."""
    end: DateOrInstant
    """The day or instant from which on the grant is over."""
    grace_seconds: Seconds = 3600
    """How long running pods may go on after the end before they are evicted."""

    rules = (
        Rule(
            cel=f"!(self.start.size() == 10 && self.end.size() >= {SHORTEST_INSTANT})"
            f" && !(self.start.size() >= {SHORTEST_INSTANT} && self.end.size() == 10)",
            holds=lambda term: is_date(term.start) == is_date(term.end),
            message="start and end must both be dates or both be instants ({start} and {end} are mixed)",
        ),
        Rule(
            # timestamp() of anything else is an error, which would be shown beside the field's own message.
            cel=f"{_BOTH_DATES} ? self.start < self.end : {_BOTH_INSTANTS} ?"
            " timestamp(self.start) < timestamp(self.end) : true",
            holds=lambda term: (
                is_date(term.start) != is_date(term.end)
                or datetime.fromisoformat(term.start) < datetime.fromisoformat(term.end)
            ),
            message="end must be after start ({end} is not after {start})",
        ),
    )

    def bounds(self, zone: ZoneInfo) -> tuple[int, int]:
        """Return start and end as epoch seconds; a date means the first moment of its day in the zone."""
        return instant_of(self.start, zone), instant_of(self.end, zone)

    def last_day(self, zone: ZoneInfo) -> date:
        """Return the last day on which the grant still runs, in the zone."""
        return datetime.fromtimestamp(self.bounds(zone)[1] - 1, zone).date()

    def grace_end(self, zone: ZoneInfo) -> int:
        """Return the epoch second from which on nothing of the grant may run."""
        return self.bounds(zone)[1] + self.grace_seconds


def instant_of(text: str, zone: ZoneInfo) -> int:
    """Return a date's first moment in the zone, or an instant, as epoch seconds."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        # fold=0: the moment of the skip where clocks skip midnight, the first midnight where they repeat it.
        moment = moment.replace(tzinfo=zone)
    return round((moment - _EPOCH) / timedelta(seconds=1))


_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class Budget(ApiModel):
    """How many GPU-hours may be used over the term."""

    gpu_hours: GpuHours
    """Used GPU-hours; idle, failed and grace time is not counted."""
    on_exhausted: Literal["Hold", "Drain"] = "Hold"
    """Hold: nothing new starts. Drain: what runs is evicted as well."""


class Idle(ApiModel):
    """What may happen to seats that the grant holds and does not use."""

    lend: bool = True
    """Whether idle seats may be lent to those who wait, where the programme lends at all."""


class Award(ApiModel):
    """The decision that the grant carries out."""

    id: ShortText
    """The award's number; keeps the place in line and the accounts when the grant is made anew."""
    round: ShortText | None = None
    """The call or round."""
    decided_on: Date | None = None
    """The day of the decision; earlier ones come first in line."""


class GpuGrantSpec(ApiModel):
    """What was awarded."""

    programme: Name | None = None
    """The programme. Absent: the only one there is."""
    gpu_type: LabelValue
    """The GPU type, as pools name it."""
    provider: Name | None = None
    """The provider. Absent: any."""
    share: Share = "Public"
    """Out of which share."""
    gpus: Gpus
    """How many GPUs; may grow and shrink."""
    placement: Literal["OneFabric", "AnyFabric", "SharedServers"] = "OneFabric"
    """Servers of its own in one fabric, servers of its own anywhere, or seats on shared servers."""
    term: Term
    """From when to when."""
    budget: Budget | None = None
    """GPU-hours. Absent: no limit but the term."""
    priority: Priority = 0
    """Place in line: higher first."""
    suspend: Literal["None", "Hold", "Drain"] = "None"
    """Hold: nothing new starts. Drain: what runs is evicted as well."""
    idle: Idle | None = None
    """Lending. Absent: as the programme says."""
    award: Award | None = None
    """The decision that this carries out."""
    track: ShortText | None = None
    """The track of the programme, for reports."""
    display_name: Text | None = None
    """The project's name for people, in reports and tables."""


class GrantAllocation(ApiModel):
    """Where the grant's seats are."""

    pool: str
    fabric: str = ""
    servers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Servers of its own; none where the grant is on shared servers."""
    gpus: Count = 0


class GrantUsage(ApiModel):
    """What of the grant is used, now and over its term."""

    held: Count = 0
    reserved: Count = 0
    waiting: Count = 0
    gpu_seconds: Count = 0
    gpu_seconds_left: Count | None = None


class GrantSummary(ApiModel):
    """Columns that one field cannot give."""

    why: str = ""
    """Why the grant is not simply running, in words."""
    left_hours: str = ""
    """GPU-hours that are left of the budget, or of the term."""
    last_day: str = ""
    """The last day on which the grant runs, in the programme's zone."""
    next: str = ""
    """What happens next, and when."""


class GpuGrantStatus(ApiModel):
    """What became of the grant."""

    observed_generation: Count | None = None
    conditions: Conditions = ()
    allocation: GrantAllocation | None = None
    usage: GrantUsage | None = None
    position_in_line: Count | None = None
    """Place among the grants that wait, from 1. Absent: it does not wait."""
    summary: GrantSummary | None = None


def _set_once(field: str, attribute: str) -> Transition:
    """Return the rule that a field does not change while the grant is allocated."""
    now, before = f"self.spec.{field}", f"oldSelf.spec.{field}"
    return Transition(
        cel="!has(oldSelf.status) || !has(oldSelf.status.allocation)"
        f" || has({now}) == has({before}) && (!has({now}) || {now} == {before})",
        holds=lambda old, new: (
            not (old.status and old.status.allocation)
            or getattr(old.spec, attribute) == getattr(new.spec, attribute)
        ),
        message=f"{field} must not change while the grant is allocated; delete the grant and make a new one "
        "with the same award.id",
        field=f"spec.{field}",
    )


class GpuGrant(ApiObject):
    """Seats of one pool for one tenant over a term; serves all namespaces of its tenant."""

    kind: Literal["GpuGrant"]
    spec: GpuGrantSpec
    status: GpuGrantStatus | None = None

    about: ClassVar[Kind] = Kind(
        kind="GpuGrant",
        plural="gpugrants",
        short_name="gg",
        namespaced=True,
        columns=(
            Column(name="GPU", path=".spec.gpuType"),
            Column(name="GPUs", path=".spec.gpus", type="integer"),
            Column(name="Share", path=".spec.share"),
            Column(name="Pool", path=".status.allocation.pool"),
            Column(name="Status", path=READY_REASON),
            Column(name="Held", path=".status.usage.held", type="integer"),
            Column(name="Left-Hours", path=".status.summary.leftHours"),
            Column(name="Last-Day", path=".status.summary.lastDay"),
            Column(name="Why", path=".status.summary.why"),
            Column(name="Award", path=".spec.award.id", priority=1),
            Column(name="Next", path=".status.summary.next", priority=1),
        ),
    )
    rules = (
        Rule(
            cel="self.metadata.name.size() <= 63",
            holds=lambda given: len(given.metadata.name) <= 63,
            message="metadata.name must be at most 63 characters: it becomes a label's value on pods",
        ),
    )
    transitions = tuple(
        _set_once(field, attribute)
        for field, attribute in (
            ("gpuType", "gpu_type"),
            ("programme", "programme"),
            ("share", "share"),
            ("provider", "provider"),
            ("placement", "placement"),
        )
    )
