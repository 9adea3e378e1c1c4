"""Good and bad objects of the four kinds: what to change in a good one, and what must be said of it.

``field`` and ``words`` must be in the refusal of pydantic and in the API server's.
"""

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
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": deepcopy(_SPECS[kind])}


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


def _fine(kind: str, id: str, changes: Json) -> Case:
    return Case(id, kind, tuple(changes.items()))


def _bad(kind: str, id: str, changes: Json, field: str, *words: str) -> Case:
    return Case(id, kind, tuple(changes.items()), field, words)


def _delivery(*parts: tuple[int, str]) -> list[Json]:
    return [{"gpus": gpus, "due": due} for gpus, due in parts]


def _term(start: Any, end: Any) -> Json:
    return {"spec.term": {"start": start, "end": end}}


_LABEL = "must be a label value"
_LOWER = "must be a lower-case name"
_DATE = "must be a date of the calendar, quoted"
_MOMENT = "must be a date, quoted, such as '2026-11-01', or an instant with whole seconds and a zone"
_LINE = "must be one line without control characters"
_HANGUL = "한"

POOLS: Final = (
    _fine("GpuPool", "a pool as small as it can be", {"spec.publicShare": ABSENT, "spec.programme": ABSENT}),
    _fine("GpuPool", "a pool of NPUs", {"spec.resourceName": "rebellions.ai/ATOM", "spec.gpuType": "ATOM-Max"}),
    _fine("GpuPool", "a pool with nothing promised", {"spec.publicShare.gpus": 0}),
    _fine("GpuPool", "a promise that is no whole number of servers", {"spec.publicShare.gpus": 6121}),
    _fine("GpuPool", "fabrics pinned to the public share", {"spec.publicShare.fabrics": ["nhn-f1", "nhn-f2"]}),
    _fine("GpuPool", "an optional field given as null is absent", {"spec.publicShare": None}),
    _fine("GpuPool", "a field with a default given as null", {"spec.gpusPerServer": None}),
    _fine("GpuPool", "a whole number written with a point", {"spec.gpusPerServer": 8.0}),
    _fine("GpuPool", "labels of its own, one without a value", {
        "spec.nodeSelector": {"matchLabels": {"gpugrant.io/provider": "nhn-cloud", "rack": ""}}}),
    _fine("GpuPool", "two instalments, one all own use", {
        "spec.delivery": [{"gpus": 64, "due": "2026-01-31"}, {"gpus": 8, "publicGpus": 0, "due": "2026-03-31"}]}),
    _fine("GpuPool", "a pool's name of 63 characters", {"metadata.name": "p" * 63}),
    _bad("GpuPool", "a pool's name of 64 characters", {"metadata.name": "p" * 64},
         "metadata.name", "at most 63 characters"),
    _bad("GpuPool", "a pool's name in capitals", {"metadata.name": "NHN_B200"},
         "metadata.name", "lowercase RFC 1123 subdomain"),
    _bad("GpuPool", "no provider", {"spec.provider": ABSENT}, "spec.provider", "Required value"),
    _bad("GpuPool", "a provider that is null", {"spec.provider": None}, "spec.provider", "Required value"),
    _bad("GpuPool", "a provider that is empty", {"spec.provider": ""}, "spec.provider", _LOWER),
    _bad("GpuPool", "a provider written as people write it", {"spec.provider": "NHN Cloud"}, "spec.provider", _LOWER),
    _bad("GpuPool", "a provider that ends in a dash", {"spec.provider": "nhn-"}, "spec.provider", _LOWER),
    _bad("GpuPool", "a provider with a newline behind it", {"spec.provider": "nhn\n"}, "spec.provider", _LOWER),
    _bad("GpuPool", "a provider of 64 characters", {"spec.provider": "n" * 64}, "spec.provider", "63"),
    _bad("GpuPool", "a provider that is a number", {"spec.provider": 5}, "spec.provider", "must be", "string"),
    _bad("GpuPool", "no GPU type", {"spec.gpuType": ABSENT}, "spec.gpuType", "Required value"),
    _bad("GpuPool", "a GPU type with a space", {"spec.gpuType": "NVIDIA B200"}, "spec.gpuType", _LABEL),
    _bad("GpuPool", "a GPU type that starts with an underscore", {"spec.gpuType": "_B200"}, "spec.gpuType", _LABEL),
    _bad("GpuPool", "a programme with a slash", {"spec.programme": "purchase/2025"}, "spec.programme", _LOWER),
    _bad("GpuPool", "a resource without a domain", {"spec.resourceName": "gpu"},
         "spec.resourceName", "must be an extended resource's name"),
    _bad("GpuPool", "a resource that the kubelet has itself", {"spec.resourceName": "cpu"},
         "spec.resourceName", "must be an extended resource's name"),
    _bad("GpuPool", "a resource with two slashes", {"spec.resourceName": "nvidia.com/gpu/shared"},
         "spec.resourceName", "must be an extended resource's name"),
    _bad("GpuPool", "a resource in Kubernetes' own domain", {"spec.resourceName": "kubernetes.io/gpu"},
         "resourceName", "Kubernetes' own names (kubernetes.io/gpu)"),
    _bad("GpuPool", "a device class as a resource", {"spec.resourceName": "deviceclass.resource.kubernetes.io/gpu"},
         "resourceName", "Kubernetes' own names"),
    _bad("GpuPool", "a fabric label with a space", {"spec.fabricLabel": "my fabric"},
         "spec.fabricLabel", "must be a label key"),
    _bad("GpuPool", "servers without GPUs", {"spec.gpusPerServer": 0},
         "spec.gpusPerServer", "greater than or equal to 1"),
    _bad("GpuPool", "servers with a thousand and more GPUs", {"spec.gpusPerServer": 1025},
         "spec.gpusPerServer", "less than or equal to 1024"),
    _bad("GpuPool", "half a GPU per server", {"spec.gpusPerServer": 0.5}, "spec.gpusPerServer", "must be"),
    _bad("GpuPool", "GPUs per server in quotes", {"spec.gpusPerServer": "8"}, "spec.gpusPerServer", "must be"),
    _bad("GpuPool", "a public share without a number", {"spec.publicShare": {}},
         "spec.publicShare.gpus", "Required value"),
    _bad("GpuPool", "a public share that is a number", {"spec.publicShare": 6120}, "spec.publicShare", "must be"),
    _bad("GpuPool", "a promise below nothing", {"spec.publicShare.gpus": -8},
         "spec.publicShare.gpus", "greater than or equal to 0"),
    _bad("GpuPool", "a promise of more GPUs than there are", {"spec.publicShare.gpus": 1_000_001},
         "spec.publicShare.gpus", "less than or equal to 1000000"),
    _bad("GpuPool", "a fabric pinned twice", {"spec.publicShare.fabrics": ["f1", "f2", "f1"]},
         "spec.publicShare.fabrics", "Duplicate value"),
    _bad("GpuPool", "a fabric that no label can name", {"spec.publicShare.fabrics": ["fabric 1"]},
         "spec.publicShare.fabrics[0]", _LABEL),
    _bad("GpuPool", "one fabric that is no list", {"spec.publicShare.fabrics": "f1"},
         "spec.publicShare.fabrics", "must be"),
    _bad("GpuPool", "a misspelt field", {"spec.gpuPerServer": 8}, "spec.gpuPerServer", "unknown field"),
    _bad("GpuPool", "a misspelt field further down", {"spec.publicShare.fabric": "f1"},
         "spec.publicShare.fabric", "unknown field"),
    _bad("GpuPool", "a field beside spec", {"data": {}}, "data", "unknown field"),
    _bad("GpuPool", "a node selector without labels", {"spec.nodeSelector": {"matchLabels": {}}},
         "spec.nodeSelector.matchLabels", "at least 1"),
    _bad("GpuPool", "a node selector with expressions", {"spec.nodeSelector": {"matchExpressions": []}},
         "spec.nodeSelector.matchExpressions", "unknown field"),
    _bad("GpuPool", "a node selector with a key that is none", {"spec.nodeSelector": {"matchLabels": {"a b": "c"}}},
         "matchLabels", "every key must be a label key"),
    _bad("GpuPool", "a node selector with a value that is none", {"spec.nodeSelector": {"matchLabels": {"a": "b c"}}},
         "spec.nodeSelector.matchLabels", _LABEL),
    _bad("GpuPool", "a node selector with a number", {"spec.nodeSelector": {"matchLabels": {"rack": 7}}},
         "spec.nodeSelector.matchLabels.rack", "must be", "string"),
    _bad("GpuPool", "a node selector of nine labels", {
        "spec.nodeSelector": {"matchLabels": {f"l{i}": "x" for i in range(9)}}},
         "spec.nodeSelector.matchLabels", "at most 8"),
    _bad("GpuPool", "two instalments on one day", {"spec.delivery": _delivery((8, "2026-01-31"), (8, "2026-01-31"))},
         "spec.delivery", "Duplicate value", "2026-01-31"),
    _bad("GpuPool", "instalments out of order", {"spec.delivery": _delivery((8, "2026-03-31"), (8, "2026-01-31"))},
         "delivery", "in order of due, earliest first"),
    _bad("GpuPool", "an instalment of nothing", {"spec.delivery": _delivery((0, "2026-01-31"))},
         "spec.delivery[0].gpus", "greater than or equal to 1"),
    _bad("GpuPool", "an instalment with more public GPUs than GPUs", {
        "spec.delivery": [{"gpus": 8, "publicGpus": 16, "due": "2026-01-31"}]},
         "spec.delivery[0]", "publicGpus must be at most gpus"),
    _bad("GpuPool", "an instalment without a day", {"spec.delivery": [{"gpus": 8}]},
         "spec.delivery[0].due", "Required value"),
    _bad("GpuPool", "an instalment on a day that the calendar lacks", {"spec.delivery": _delivery((8, "2026-04-31"))},
         "spec.delivery[0].due", _DATE),
    _bad("GpuPool", "own use in small letters", {"spec.ownUse": "open"}, "spec.ownUse", "Open", "Granted"),
    _bad("GpuPool", "backfill as a switch", {"spec.backfill": True}, "spec.backfill", "Never", "FreeOwnUse"),
    _bad("GpuPool", "an unknown tenancy", {"spec.sharedTenancy": "PerUser"}, "spec.sharedTenancy", "PerTenant", "Mixed"),
    _bad("GpuPool", "fewer shared servers than none", {"spec.maxSharedServers": -1},
         "spec.maxSharedServers", "greater than or equal to 0"),
    _bad("GpuPool", "a spec that is a list", {"spec": []}, "spec", "must be"),
    _bad("GpuPool", "no spec", {"spec": ABSENT}, "spec", "Required value"),
)

QUOTAS: Final = (
    _fine("TenantQuota", "a tenant with nothing but a name", {"spec": ABSENT}),
    _fine("TenantQuota", "a tenant whose spec is null", {"spec": None}),
    _fine("TenantQuota", "a limit of no GPUs", {"spec.limits.0.gpus": 0}),
    _fine("TenantQuota", "a limit in the default programme", {"spec.limits.0.programme": ABSENT}),
    _fine("TenantQuota", "one GPU type in both shares", {"spec.limits": [
        {"gpuType": "NVIDIA-B200", "gpus": 8}, {"gpuType": "NVIDIA-B200", "share": "OwnUse", "gpus": 8}]}),
    _fine("TenantQuota", "a display name of 253 Hangul letters", {"spec.displayName": _HANGUL * 253}),
    _bad("TenantQuota", "a display name of 254 Hangul letters", {"spec.displayName": _HANGUL * 254},
         "spec.displayName", "253"),
    _bad("TenantQuota", "a display name of two lines", {"spec.displayName": "Hangang\nLM"}, "spec.displayName", _LINE),
    _bad("TenantQuota", "a track with a tab", {"spec.track": "start\tup"}, "spec.track", _LINE),
    _bad("TenantQuota", "a tenant's name that no label can carry", {"metadata.name": "t" * 64},
         "metadata.name", "at most 63 characters"),
    _bad("TenantQuota", "a limit without GPUs", {"spec.limits.0.gpus": ABSENT}, "spec.limits[0].gpus", "Required value"),
    _bad("TenantQuota", "a limit without a GPU type", {"spec.limits.0.gpuType": ABSENT},
         "spec.limits[0].gpuType", "Required value"),
    _bad("TenantQuota", "a limit below nothing", {"spec.limits.0.gpus": -1},
         "spec.limits[0].gpus", "greater than or equal to 0"),
    _bad("TenantQuota", "a limit of an unknown share", {"spec.limits.0.share": "Private"},
         "spec.limits[0].share", "Public", "OwnUse"),
    _bad("TenantQuota", "a limit of no hours", {"spec.limits.0.gpuHoursPerMonth": 0},
         "spec.limits[0].gpuHoursPerMonth", "greater than or equal to 1"),
    _bad("TenantQuota", "two limits for the same, the share left out once", {"spec.limits": [
        {"gpuType": "NVIDIA-B200", "gpus": 8}, {"gpuType": "NVIDIA-B200", "share": "Public", "gpus": 16}]},
         "spec.limits", "Duplicate value", "NVIDIA-B200"),
    _bad("TenantQuota", "limits in one word", {"spec.limits": "NVIDIA-B200=128"}, "spec.limits", "must be"),
    _bad("TenantQuota", "affiliated twice with one provider", {"spec.affiliatedProviders": ["skt", "skt"]},
         "spec.affiliatedProviders", "Duplicate value"),
    _bad("TenantQuota", "affiliated with a name that no provider can have", {"spec.affiliatedProviders": ["SK Telecom"]},
         "spec.affiliatedProviders[0]", _LOWER),
    _bad("TenantQuota", "affiliated with 65 providers", {"spec.affiliatedProviders": [f"p{i}" for i in range(65)]},
         "spec.affiliatedProviders", "64 items"),
    _bad("TenantQuota", "a tenant field that belongs to the name", {"spec.tenant": "hangang"},
         "spec.tenant", "unknown field"),
)

GRANTS: Final = (
    _fine("GpuGrant", "a grant with everything", {
        "spec.provider": "nhn-cloud", "spec.share": "OwnUse", "spec.placement": "AnyFabric", "spec.priority": -5,
        "spec.budget": {"gpuHours": 500_000, "onExhausted": "Drain"}, "spec.suspend": "Hold",
        "spec.idle": {"lend": False}, "spec.award": {"id": "P25-1-0042", "round": "1", "decidedOn": "2026-03-03"},
        "spec.track": "start-up", "spec.displayName": "한강언어모델", "spec.term.graceSeconds": 0}),
    _fine("GpuGrant", "a single GPU", {"spec.gpus": 1, "spec.placement": "SharedServers"}),
    _fine("GpuGrant", "100 GPUs, which only the operator can tell are no whole servers", {"spec.gpus": 100}),
    _fine("GpuGrant", "a million GPUs", {"spec.gpus": 1_000_000}),
    _fine("GpuGrant", "a term of one day", _term("2026-11-01", "2026-11-02")),
    _fine("GpuGrant", "a term on a leap day", _term("2028-02-29", "2028-03-01")),
    _fine("GpuGrant", "a term between instants", _term("2026-11-01T09:00:00+09:00", "2026-12-01T00:00:00Z")),
    _fine("GpuGrant", "a term of one second, told in two zones",
          _term("2026-11-01T09:00:00+09:00", "2026-11-01T00:00:01Z")),
    _fine("GpuGrant", "the lowest priority", {"spec.priority": -(2**31)}),
    _fine("GpuGrant", "a name of 63 characters", {"metadata.name": "g" * 63}),
    _fine("GpuGrant", "a budget that is null", {"spec.budget": None}),
    _bad("GpuGrant", "a name of 64 characters", {"metadata.name": "g" * 64}, "metadata.name", "at most 63 characters"),
    _bad("GpuGrant", "no GPU type in a grant", {"spec.gpuType": ABSENT}, "spec.gpuType", "Required value"),
    _bad("GpuGrant", "a GPU type of 64 characters", {"spec.gpuType": "B" * 64}, "spec.gpuType", "63"),
    _bad("GpuGrant", "no number of GPUs", {"spec.gpus": ABSENT}, "spec.gpus", "Required value"),
    _bad("GpuGrant", "no GPUs", {"spec.gpus": 0}, "spec.gpus", "greater than or equal to 1"),
    _bad("GpuGrant", "a negative number of GPUs", {"spec.gpus": -8}, "spec.gpus", "greater than or equal to 1"),
    _bad("GpuGrant", "more than a million GPUs", {"spec.gpus": 1_000_001}, "spec.gpus", "less than or equal to 1000000"),
    _bad("GpuGrant", "more GPUs than 64 bits count", {"spec.gpus": 2**63}, "spec.gpus", "less than or equal to 1"),
    _bad("GpuGrant", "eight and a half GPUs", {"spec.gpus": 8.5}, "spec.gpus", "must be"),
    _bad("GpuGrant", "GPUs as a quantity", {"spec.gpus": "1k"}, "spec.gpus", "must be"),
    _bad("GpuGrant", "GPUs as a truth", {"spec.gpus": True}, "spec.gpus", "must be"),
    _bad("GpuGrant", "no term", {"spec.term": ABSENT}, "spec.term", "Required value"),
    _bad("GpuGrant", "a term without an end", {"spec.term": {"start": "2026-11-01"}}, "spec.term.end", "Required value"),
    _bad("GpuGrant", "a term that ends before it starts", _term("2026-11-01", "2026-05-01"),
         "spec.term", "end must be after start (2026-05-01 is not after 2026-11-01)"),
    _bad("GpuGrant", "a term that ends the day it starts", _term("2026-11-01", "2026-11-01"),
         "spec.term", "end must be after start"),
    _bad("GpuGrant", "a term that ends the instant it starts, told in two zones",
         _term("2026-11-01T09:00:00+09:00", "2026-11-01T00:00:00Z"), "spec.term", "end must be after start"),
    _bad("GpuGrant", "a term from a date to an instant", _term("2026-11-01", "2027-05-01T00:00:00Z"),
         "spec.term", "must both be dates or both be instants (2026-11-01 and 2027-05-01T00:00:00Z are mixed)"),
    _bad("GpuGrant", "a term from an instant to a date", _term("2026-11-01T00:00:00+09:00", "2027-05-01"),
         "spec.term", "must both be dates or both be instants"),
    _bad("GpuGrant", "a start on a day that the calendar lacks", _term("2026-02-30", "2027-05-01"),
         "spec.term.start", _MOMENT),
    _bad("GpuGrant", "an end on a leap day of no leap year", _term("2026-11-01", "2027-02-29"),
         "spec.term.end", _MOMENT),
    _bad("GpuGrant", "an instant on a day that the calendar lacks",
         _term("2026-06-31T00:00:00Z", "2027-05-01T00:00:00Z"), "spec.term.start", _MOMENT),
    _bad("GpuGrant", "a thirteenth month", _term("2026-13-01", "2027-05-01"), "spec.term.start", _MOMENT),
    _bad("GpuGrant", "a date without its zeros", _term("2026-1-1", "2027-05-01"), "spec.term.start", _MOMENT),
    _bad("GpuGrant", "a date in words", _term("next year", "2027-05-01"), "spec.term.start", _MOMENT),
    _bad("GpuGrant", "an empty date", _term("", "2027-05-01"), "spec.term.start", _MOMENT),
    _bad("GpuGrant", "a year in the wrong millennium", _term("0026-11-01", "2027-05-01"), "spec.term.start", _MOMENT),
    _bad("GpuGrant", "half a second", _term("2026-11-01T00:00:00.5Z", "2027-05-01T00:00:00Z"),
         "spec.term.start", "whole seconds"),
    _bad("GpuGrant", "an instant without a zone", _term("2026-11-01T00:00:00", "2027-05-01T00:00:00Z"),
         "spec.term.start", _MOMENT),
    _bad("GpuGrant", "an instant with a space", _term("2026-11-01 00:00:00Z", "2027-05-01T00:00:00Z"),
         "spec.term.start", _MOMENT),
    _bad("GpuGrant", "a twenty-fifth hour", _term("2026-11-01T24:00:00Z", "2027-05-01T00:00:00Z"),
         "spec.term.start", _MOMENT),
    _bad("GpuGrant", "a leap second", _term("2026-12-31T23:59:60Z", "2027-05-01T00:00:00Z"),
         "spec.term.start", _MOMENT),
    _bad("GpuGrant", "a date that is a number", _term(20261101, "2027-05-01"), "spec.term.start", "must be", "string"),
    _bad("GpuGrant", "a date of a thousand characters", _term("2026-11-01" * 100, "2027-05-01"), "spec.term.start", "35"),
    _bad("GpuGrant", "less than no grace", {"spec.term.graceSeconds": -1},
         "spec.term.graceSeconds", "greater than or equal to 0"),
    _bad("GpuGrant", "a grace of twenty years", {"spec.term.graceSeconds": 20 * 366 * 86_400},
         "spec.term.graceSeconds", "less than or equal to 316224000"),
    _bad("GpuGrant", "an unknown placement", {"spec.placement": "Anywhere"},
         "spec.placement", "OneFabric", "AnyFabric", "SharedServers"),
    _bad("GpuGrant", "a share in small letters", {"spec.share": "public"}, "spec.share", "Public", "OwnUse"),
    _bad("GpuGrant", "a suspension as a switch", {"spec.suspend": False}, "spec.suspend", "Hold", "Drain"),
    _bad("GpuGrant", "a priority beyond 32 bits", {"spec.priority": 2**31},
         "spec.priority", "less than or equal to 2147483647"),
    _bad("GpuGrant", "a budget of nothing", {"spec.budget": {"gpuHours": 0}},
         "spec.budget.gpuHours", "greater than or equal to 1"),
    _bad("GpuGrant", "a budget without hours", {"spec.budget": {"onExhausted": "Hold"}},
         "spec.budget.gpuHours", "Required value"),
    _bad("GpuGrant", "a budget that does something unknown at its end", {
        "spec.budget": {"gpuHours": 1, "onExhausted": "Delete"}}, "spec.budget.onExhausted", "Hold", "Drain"),
    _bad("GpuGrant", "an award without a number", {"spec.award": {"round": "1"}}, "spec.award.id", "Required value"),
    _bad("GpuGrant", "an award whose round is a number", {"spec.award": {"id": "P25-1-0042", "round": 1}},
         "spec.award.round", "must be", "string"),
    _bad("GpuGrant", "an award of two lines", {"spec.award": {"id": "P25\n0042"}}, "spec.award.id", _LINE),
    _bad("GpuGrant", "an award decided at an instant", {
        "spec.award": {"id": "P25-1-0042", "decidedOn": "2026-03-03T10:00:00Z"}}, "spec.award.decidedOn", "10"),
    _bad("GpuGrant", "an award decided on the 29th of February 2026", {
        "spec.award": {"id": "P25-1-0042", "decidedOn": "2026-02-29"}}, "spec.award.decidedOn", _DATE),
    _bad("GpuGrant", "lending as a word", {"spec.idle": {"lend": "yes"}}, "spec.idle.lend", "must be"),
    _bad("GpuGrant", "a tenant in a grant", {"spec.tenant": "hangang"}, "spec.tenant", "unknown field"),
    _bad("GpuGrant", "a term with a length", {"spec.term.months": 6}, "spec.term.months", "unknown field"),
)

REPORTS: Final = (
    _fine("UsageReport", "a month", {}),
    _fine("UsageReport", "an acknowledged month", {"spec.acknowledgedBy": "H. Kim, NIPA"}),
    _bad("UsageReport", "a month under another month's name", {"spec.month": "2026-12"},
         "metadata.name", "must be programme-provider-month (here purchase-2025-kakao-2026-12)"),
    _bad("UsageReport", "a thirteenth month of a report", {
        "spec.month": "2026-13", "metadata.name": "purchase-2025-kakao-2026-13"},
         "spec.month", "must be a month such as '2026-11'"),
    _bad("UsageReport", "a month that is a day", {"spec.month": "2026-11-01"}, "spec.month", "7"),
    _bad("UsageReport", "a report of nobody", {"spec.provider": ABSENT}, "spec.provider", "Required value"),
    _bad("UsageReport", "a report with figures in its spec", {"spec.gpuSeconds": 1}, "spec.gpuSeconds", "unknown field"),
)

CASES: Final = (*POOLS, *QUOTAS, *GRANTS, *REPORTS)

_FIXED = "must not change while the grant is allocated"
CHANGES: Final = (
    Change("grow", (("spec.gpus", 256),)),
    Change("shrink", (("spec.gpus", 64),)),
    Change("shrink to nothing", (("spec.gpus", 0),), field="spec.gpus", words=("greater than or equal to 1",)),
    Change("extend the term", (("spec.term.end", "2027-08-01"),)),
    Change("cut the term short", (("spec.term.end", "2026-11-15"),)),
    Change("end the term before its start", (("spec.term.end", "2026-10-01"),),
           field="spec.term", words=("end must be after start",)),
    Change("suspend", (("spec.suspend", "Drain"),)),
    Change("raise the priority", (("spec.priority", 10),)),
    Change("add a budget", (("spec.budget", {"gpuHours": 10}),)),
    Change("write out a default", (("spec.share", "Public"), ("spec.placement", "OneFabric"))),
    Change("another GPU type", (("spec.gpuType", "NVIDIA-H200"),), field="spec.gpuType", words=("gpuType", _FIXED)),
    Change("another programme", (("spec.programme", "lease-2025"),), field="spec.programme", words=(_FIXED,)),
    Change("no programme any more", (("spec.programme", ABSENT),), field="spec.programme", words=(_FIXED,)),
    Change("another share", (("spec.share", "OwnUse"),), field="spec.share", words=(_FIXED,)),
    Change("a provider where there was none", (("spec.provider", "kakao"),), field="spec.provider", words=(_FIXED,)),
    Change("another provider", (("spec.provider", "kakao"),), before=(("spec.provider", "nhn-cloud"),),
           field="spec.provider", words=(_FIXED, "same award.id")),
    Change("no provider any more", (("spec.provider", ABSENT),), before=(("spec.provider", "nhn-cloud"),),
           field="spec.provider", words=(_FIXED,)),
    Change("another placement", (("spec.placement", "AnyFabric"),), field="spec.placement", words=(_FIXED,)),
    Change("two fixed fields at once", (("spec.gpuType", "NVIDIA-H200"), ("spec.provider", "kakao")),
           field="spec.provider", words=("gpuType " + _FIXED, "provider " + _FIXED)),
    Change("another GPU type before it is allocated", (("spec.gpuType", "NVIDIA-H200"),), allocated=False),
    Change("another programme before it is allocated", (("spec.programme", "lease-2025"),), allocated=False),
    Change("another provider before it is allocated", (("spec.provider", "kakao"),), allocated=False),
)
