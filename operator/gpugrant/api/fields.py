"""The kinds of values that fields of the API hold, with their limits: names, labels, dates, amounts."""

import re
from datetime import date, datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from gpugrant.api.schema import Format

LABEL_VALUE_PATTERN: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DNS_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_SUBDOMAIN: Final = rf"{_DNS_LABEL}([.]{_DNS_LABEL})*"
QUALIFIED_NAME_PATTERN: Final = rf"({_DNS_SUBDOMAIN}/)?{LABEL_VALUE_PATTERN}"

_DAY: Final = r"2[01][0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])"


def _is_date(text: str) -> bool:
    """Tell whether the calendar has the day."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_date_or_instant(text: str) -> bool:
    """Tell whether the calendar has the day or the instant."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_date(text: str) -> bool:
    """Tell a date from an instant, given that the text is one of the two."""
    return len(text) == len("2026-11-01")


LabelValue = Annotated[
    str,
    Format(
        LABEL_VALUE_PATTERN,
        "must be a label value: at most 63 letters, digits, '-', '_' and '.', first and last a letter or digit",
        longest=63,
    ),
]
LabelValueOrEmpty = Annotated[
    str,
    Format(
        f"({LABEL_VALUE_PATTERN})?",
        "must be a label value: at most 63 letters, digits, '-', '_' and '.', first and last a letter or digit",
        longest=63,
        shortest=0,
    ),
]
Name = Annotated[
    str,
    Format(
        _DNS_SUBDOMAIN,
        "must be a lower-case name: letters a-z, digits, '-' and '.', first and last a letter or digit, "
        "such as nhn-cloud",
        longest=63,
    ),
]
ObjectName = Annotated[
    str,
    Format(
        _DNS_SUBDOMAIN,
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'",
        longest=253,
    ),
]
LabelKey = Annotated[
    str,
    Format(
        QUALIFIED_NAME_PATTERN,
        "must be a label key: a name of letters, digits, '-', '_' and '.', optionally after a domain and '/', "
        "such as gpugrant.io/fabric",
        longest=317,
    ),
]
ResourceName = Annotated[
    str,
    Format(
        rf"{_DNS_SUBDOMAIN}/{LABEL_VALUE_PATTERN}",
        "must be an extended resource's name: a domain, '/', and a name, such as nvidia.com/gpu",
        longest=317,
    ),
]
# Control characters would break printed tables, metrics and reports.
ShortText = Annotated[str, Format(r"[^\x00-\x1f\x7f]+", "must be one line without control characters", longest=63)]
Text = Annotated[str, Format(r"[^\x00-\x1f\x7f]+", "must be one line without control characters", longest=253)]
Date = Annotated[
    str,
    Format(
        _DAY,
        "must be a date of the calendar, quoted, such as '2026-11-01'",
        longest=10,
        shortest=10,
        formats=("date",),
        check=_is_date,
    ),
]
DateOrInstant = Annotated[
    str,
    Format(
        rf"{_DAY}(T{_TIME})?",
        "must be a date, quoted, such as '2026-11-01', or an instant with whole seconds and a zone, "
        "such as '2026-11-01T09:00:00+09:00'",
        longest=35,
        shortest=10,
        formats=("date", "date-time"),
        check=_is_date_or_instant,
    ),
]
Month = Annotated[
    str,
    Format(r"2[01][0-9]{2}-(0[1-9]|1[0-2])", "must be a month such as '2026-11'", longest=7, shortest=7),
]

_INT32: Final = {"format": "int32"}
_INT64: Final = {"format": "int64"}
MOST_GPUS: Final = 1_000_000
TEN_YEARS: Final = 10 * 366 * 86_400
Gpus = Annotated[int, Field(ge=1, le=MOST_GPUS, json_schema_extra=_INT32)]
GpusOrNone = Annotated[int, Field(ge=0, le=MOST_GPUS, json_schema_extra=_INT32)]
Seconds = Annotated[int, Field(ge=0, le=TEN_YEARS, json_schema_extra=_INT32)]
GpuHours = Annotated[int, Field(ge=1, le=MOST_GPUS * 24 * 366 * 10, json_schema_extra=_INT64)]
Priority = Annotated[int, Field(ge=-(2**31), le=2**31 - 1, json_schema_extra=_INT32)]
Count = Annotated[int, Field(ge=0, json_schema_extra=_INT64)]
SignedCount = Annotated[int, Field(json_schema_extra=_INT64)]

Share = Literal["Public", "OwnUse"]
is_label_key = re.compile(QUALIFIED_NAME_PATTERN).fullmatch
is_label_value = re.compile(LABEL_VALUE_PATTERN).fullmatch


def is_name(text: str) -> bool:
    """Tell whether a text is a Name."""
    return len(text) <= 63 and re.fullmatch(_DNS_SUBDOMAIN, text) is not None
