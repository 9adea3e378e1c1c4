"""Settings: the programmes' rules and the operator's own, as settings.yaml says them.

Pure but for the zone database: text in, frozen settings or a SettingsError out. Whoever loads the text keeps
the last good settings and records digest and time.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from gpugrant import names
from gpugrant.api.constraints import Unique, Whole
from gpugrant.api.fields import (
    TEN_YEARS,
    GpusOrNone,
    ObjectName,
    Seconds,
    ShortText,
    Text,
    is_label_value,
    is_name,
)
from gpugrant.api.frozenmap import FrozenMap
from gpugrant.api.problems import describe
from gpugrant.api.schema import ApiModel, Rule

_PERIOD_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class SettingsError(ValueError):
    """Settings that cannot be used. Each problem names the field, the rule and what to do."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("settings.yaml: " + "; ".join(problems))
        self.problems = problems


def _known_zone(name: str) -> str:
    """Return the name of a time zone that exists; propose the one that was probably meant."""
    zones = available_timezones()
    if name in zones:
        return name
    by_city = {zone.rsplit("/", 1)[-1].casefold(): zone for zone in sorted(zones)}
    meant = {zone.casefold(): zone for zone in zones}.get(name.casefold()) or by_city.get(name.casefold())
    close = [meant] if meant else difflib.get_close_matches(name, sorted(zones), n=1, cutoff=0.75)
    hint = f"did you mean {close[0]}?" if close else "write an IANA name such as Asia/Seoul"
    raise PydanticCustomError("zone", "unknown time zone; {hint}", {"hint": hint})


def _known_period(text: str) -> str:
    """Return a report period in its only forms."""
    if not re.fullmatch(r"month|[1-9][0-9]{0,6}[smhd]", text):
        raise PydanticCustomError(
            "period", "must be month, or a length for tests such as 600s, 10m, 2h or 1d"
        )
    return text


TimeZone = Annotated[str, Field(max_length=64), AfterValidator(_known_zone)]
Days = Annotated[int, Whole(1, 365)]
DayOfMonth = Annotated[int, Whole(1, 28)]


class ReportSettings(ApiModel):
    """When a programme's months close and are due, and what their reports show."""

    closing_day: DayOfMonth = 3
    """Day of the next month on which the month becomes Closing."""
    close_day: DayOfMonth = 5
    """Day of the next month on which it closes."""
    due_day: DayOfMonth = 10
    """Day of the next month by which the report is due."""
    unobserved_limit_gpu_seconds: Annotated[int, Whole(0, 2**53, bits=64)] = 0
    """A month with more Unobserved GPU-seconds does not close by itself."""
    own_use_detail: Literal["Total", "Tenant"] = "Total"
    """Whether own use is reported as one sum or by namespace."""

    rules = (
        Rule(
            holds=lambda given: given.closing_day <= given.close_day <= given.due_day,
            message="closingDay, closeDay and dueDay must follow each other "
            "({closingDay}, {closeDay}, {dueDay} do not)",
        ),
    )


class Programme(ApiModel):
    """One programme's rules. Everything has a default."""

    time_zone: TimeZone = "Asia/Seoul"
    """The zone of its months and of dates in terms."""
    owner: Text | None = None
    """Who runs the programme, for reports."""
    caps: FrozenMap[GpusOrNone] = Field(default_factory=lambda: FrozenMap({}))
    """The most GPUs of a type in one grant. A type that is absent has no cap."""
    longest_term_months: Annotated[int, Whole(1, 120)] | None = None
    """The longest term of a grant. Absent: any."""
    notice_days: Annotated[tuple[Days, ...], Field(strict=False, max_length=16), Unique()] = (30, 14, 7, 1)
    """Days before a grant's end on which notice is given."""
    eviction_notice_seconds: Seconds = 86_400
    """How long before an eviction its victims are named."""
    maintenance_notice_seconds: Seconds = 259_200
    """How long before it starts a maintenance window must be announced."""
    conflict_of_interest: bool = True
    """Whether tenants affiliated with one of its suppliers get no public GPUs."""
    conflict_rounds: Annotated[tuple[ShortText, ...], Field(strict=False, max_length=64), Unique()] | None = (
        None
    )
    """The rounds that this holds for. Absent: all."""
    idle_window_seconds: Annotated[int, Whole(1, TEN_YEARS)] | None = None
    """How long seats are idle before they may be lent. Absent: no lending."""
    recall_notice_seconds: Seconds | None = None
    """How long a borrower has when lent seats are called back. Absent: no lending."""
    report: ReportSettings = ReportSettings()
    """The monthly report."""

    rules = (
        Rule(
            holds=lambda given: all(is_label_value(key) for key in given.caps),
            message="caps: every key must be a GPU type as pools name it, such as NVIDIA-B200",
        ),
        Rule(
            holds=lambda given: (given.idle_window_seconds is None) == (given.recall_notice_seconds is None),
            message="idleWindowSeconds and recallNoticeSeconds belong together: give both to lend idle GPUs, "
            "or none",
        ),
    )

    @cached_property
    def zone(self) -> ZoneInfo:
        """Return the zone of its months and dates."""
        return ZoneInfo(self.time_zone)


class Settings(ApiModel):
    """Everything that settings.yaml may say."""

    programmes: FrozenMap[Programme] = Field(default_factory=lambda: FrozenMap({"default": Programme()}))
    """The programmes by name. Absent: one, called default."""
    enforcement: Literal["Enforce", "Observe"] = "Enforce"
    """Observe: nothing is gated, fenced, tainted or evicted; all is metered."""
    exempt_namespaces: Annotated[tuple[ObjectName, ...], Field(strict=False, max_length=256), Unique()] = (
        "kube-system",
        "gpu-operator",
        names.SYSTEM_NAMESPACE,
    )
    """Namespaces whose GPU pods are labelled and counted, not gated."""
    bind_timeout_seconds: Annotated[int, Whole(1, 86_400)] = 60
    """How long a released pod may stay unbound before it is taken back."""
    grace_period_ceiling_seconds: Annotated[int, Whole(0, 30 * 86_400)] = 3600
    """The longest termination grace period that an eviction grants."""
    period: Annotated[str, AfterValidator(_known_period)] = "month"
    """The report period: month, or a length for tests."""

    rules = (
        Rule(
            holds=lambda given: len(given.programmes) > 0,
            message="programmes must name at least one; leave the key out to have one called default",
        ),
        Rule(
            holds=lambda given: all(is_name(key) for key in given.programmes),
            message="programmes: every name must be a lower-case name of at most 63 letters a-z, digits, "
            "'-' and '.', such as purchase-2025",
        ),
    )

    @field_validator("programmes", mode="before")
    @classmethod
    def _take_empty_programmes(cls, given: Any) -> Any:
        """Take ``lease-2025:`` with nothing behind it as a programme with all defaults."""
        if isinstance(given, Mapping):
            return {name: {} if programme is None else programme for name, programme in given.items()}
        return given

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of the settings in canonical JSON, defaults included."""
        canonical = json.dumps(self.to_wire(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def period_seconds(self) -> int | None:
        """Return the report period's length; None for calendar months."""
        if self.period == "month":
            return None
        return int(self.period[:-1]) * _PERIOD_UNITS[self.period[-1]]


def load_settings(text: str) -> Settings:
    """Return the settings in a settings.yaml; an empty text is all defaults.

    Raises SettingsError with every problem found.
    """
    try:
        given = yaml.load(text, Loader=_CarefulLoader)  # noqa: S506 (derived from SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date such as 2026-13-45
        raise SettingsError((f"not readable as YAML: {' '.join(str(error).split())}",)) from None
    if given is None:
        return Settings()
    if not isinstance(given, dict):
        raise SettingsError((f"must be a mapping such as 'programmes: …', not a {type(given).__name__}",))
    try:
        return Settings.from_wire(given)
    except ValidationError as error:
        raise SettingsError(describe(error, Settings)) from None


class _CarefulLoader(yaml.SafeLoader):
    """YAML without the two things that hide mistakes: a key given twice, and aliases."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; refuse a key given twice and one that is no string."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} must be a string; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given twice; keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node; refuse aliases, which can make a small text enormous."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not allowed; write it out", mark
            )
        return super().compose_node(parent, index)
