"""What a line of the table is: changes to a good object, and the verdict that they get."""

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from gpugrant.names import API_VERSION

Json = dict[str, Any]
ABSENT: Final = object()  # as a change: take the field away

_SPECS: Final[dict[str, Json]] = {
    "GpuPool": {
        "programme": "purchase-2025",
        "provider": "nhn-cloud",
        "gpuType": "NVIDIA-B200",
        "publicShare": {"gpus": 6120},
    },
    "TenantQuota": {
        "track": "start-up",
        "affiliatedProviders": ["skt"],
        "limits": [{"programme": "purchase-2025", "gpuType": "NVIDIA-B200", "gpus": 128}],
    },
    "GpuGrant": {
        "programme": "purchase-2025",
        "gpuType": "NVIDIA-B200",
        "gpus": 128,
        "term": {"start": "2026-11-01", "end": "2027-05-01"},
    },
    "UsageReport": {"programme": "purchase-2025", "provider": "kakao", "month": "2026-11"},
}
_NAMES: Final = {"UsageReport": "purchase-2025-kakao-2026-11"}


@dataclass(frozen=True)
class Case:
    """One object, as changes to a good one, and its verdict."""

    id: str
    kind: str
    changes: tuple[tuple[str, Any], ...]
    field: str = ""
    words: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.words

    @property
    def manifest(self) -> Json:
        return changed(good(self.kind), dict(self.changes))


@dataclass(frozen=True)
class Change:
    """An update of a good grant, and its verdict. ``allocated``: the operator has given it servers before."""

    id: str
    changes: tuple[tuple[str, Any], ...]
    before: tuple[tuple[str, Any], ...] = ()
    allocated: bool = True
    field: str = ""
    words: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.words


def good(kind: str) -> Json:
    """Return an object of a kind that has nothing wrong with it."""
    name = _NAMES.get(kind, "example")
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "spec": deepcopy(_SPECS[kind]),
    }


def changed(manifest: Json, changes: Json) -> Json:
    """Return the manifest with other values at dotted paths."""
    made = deepcopy(manifest)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = made
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
        if value is ABSENT:
            del place[last]
        else:
            place[last] = value
    return made


@dataclass(frozen=True)
class Table:
    """Builds the lines of one kind."""

    kind: str

    def takes(self, title: str, path: str = "", value: Any = None, also: Json | None = None) -> Case:
        """Return a line that both accept."""
        changes = ({path: value} if path else {}) | (also or {})
        return Case(title, self.kind, tuple(changes.items()))

    def refuses(
        self, title: str, path: str, value: Any, *words: str, at: str = "", also: Json | None = None
    ) -> Case:
        """Return a line that both refuse; ``at``: the field they name, where that is another one."""
        field = at or re.sub(r"\.(\d+)", r"[\1]", path)
        return Case(title, self.kind, tuple(({path: value} | (also or {})).items()), field, words)


# What the models say of values of the wrong form.
LABEL = "must be a label value"
LOWER = "must be a lower-case name"
DATE = "must be a date of the calendar, quoted"
LINE = "must be one line without control characters"
