"""The kinds of values that fields of the API hold, with their limits: names, labels, dates, amounts."""

import re
from typing import Annotated, Final, Literal

from gpugrant.api.constraints import Format, Whole

LABEL_VALUE_PATTERN: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DNS_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_SUBDOMAIN: Final = rf"{_DNS_LABEL}([.]{_DNS_LABEL})*"
QUALIFIED_NAME_PATTERN: Final = rf"({_DNS_SUBDOMAIN}/)?{LABEL_VALUE_PATTERN}"

# Every day of the calendar from 2000 to 2199 and nothing else. An OpenAPI format could say so too, but would
# keep the API server from running the rule that carries our words.
_LEAP_YEAR: Final = r"20([02468][048]|[13579][26])|21(0[48]|[2468][048]|[13579][26])"
_DAY: Final = (
    r"(2[01][0-9]{2}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    rf"|02-(0[1-9]|1[0-9]|2[0-8]))|({_LEAP_YEAR})-02-29)"
)
_TIME: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])"


INSTANT_PATTERN: Final = f"{_DAY}T{_TIME}"
SHORTEST_INSTANT: Final = len("2026-11-01T09:00:00Z")


def is_date(text: str) -> bool:
    """Tell a date from an instant, given that the text is one of the two."""
    return len(text) == len("2026-11-01")


_LABEL_WORDS: Final = (
    "must be a label value: at most 63 letters, digits, '-', '_' and '.', first and last a letter or digit"
)
LabelValue = Annotated[str, Format(LABEL_VALUE_PATTERN, _LABEL_WORDS, longest=63)]
LabelValueOrEmpty = Annotated[str, Format(f"({LABEL_VALUE_PATTERN})?", _LABEL_WORDS, longest=63)]
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
        "must be a label key: letters, digits, '-', '_' and '.', optionally after a domain and '/', "
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
ShortText = Annotated[
    str, Format(r"[^\x00-\x1f\x7f]+", "must be one line without control characters", longest=63)
]
Text = Annotated[
    str, Format(r"[^\x00-\x1f\x7f]+", "must be one line without control characters", longest=253)
]
Date = Annotated[
    str,
    Format(
        _DAY,
        "must be a date of the calendar, quoted, such as '2026-11-01'",
        longest=10,
    ),
]
DateOrInstant = Annotated[
    str,
    Format(
        rf"{_DAY}(T{_TIME})?",
        "must be a date, quoted, such as '2026-11-01', or an instant with whole seconds and a zone, "
        "such as '2026-11-01T09:00:00+09:00'",
        longest=35,
    ),
]
Month = Annotated[
    str,
    Format(
        rf"2[01][0-9]{{2}}-(0[1-9]|1[0-2])|{_DAY}t([01][0-9]|2[0-3])([0-5][0-9]){{2}}z",
        "must be a month such as '2026-11' (or, with a period for tests, when that starts: '2026-11-22t211930z')",
        longest=18,
    ),
]

MOST_GPUS: Final = 1_000_000
TEN_YEARS: Final = 10 * 366 * 86_400
Gpus = Annotated[int, Whole(1, MOST_GPUS)]
GpusOrNone = Annotated[int, Whole(0, MOST_GPUS)]
Seconds = Annotated[int, Whole(0, TEN_YEARS)]
GpuHours = Annotated[int, Whole(1, MOST_GPUS * 24 * 366 * 10, bits=64)]
Priority = Annotated[int, Whole(-(2**31), 2**31 - 1)]
Count = Annotated[int, Whole(0, bits=64)]
SignedCount = Annotated[int, Whole(bits=64)]

Share = Literal["Public", "OwnUse"]
is_label_key = re.compile(QUALIFIED_NAME_PATTERN).fullmatch
is_label_value = re.compile(LABEL_VALUE_PATTERN).fullmatch


def is_name(text: str) -> bool:
    """Tell whether a text is a Name."""
    return len(text) <= 63 and re.fullmatch(_DNS_SUBDOMAIN, text) is not None
