"""Good and bad GpuPools."""

from typing import Final

from .lines import ABSENT, DATE, LABEL, LOWER, Json, Table

table = Table("GpuPool")


def _delivery(*parts: tuple[int, str]) -> list[Json]:
    return [{"gpus": gpus, "due": due} for gpus, due in parts]


POOLS: Final = (
    table.takes("a pool as small as it can be", also={"spec.publicShare": ABSENT, "spec.programme": ABSENT}),
    table.takes(
        "a pool of NPUs", also={"spec.resourceName": "rebellions.ai/ATOM", "spec.gpuType": "ATOM-Max"}
    ),
    table.takes("a pool with nothing promised", "spec.publicShare.gpus", 0),
    table.takes("a promise that is no whole number of servers", "spec.publicShare.gpus", 6121),
    table.takes("fabrics pinned to the public share", "spec.publicShare.fabrics", ["nhn-f1", "nhn-f2"]),
    table.takes("an optional field given as null is absent", "spec.publicShare", None),
    table.takes("a field with a default given as null", "spec.gpusPerServer", None),
    table.takes("a whole number written with a point", "spec.gpusPerServer", 8.0),
    table.takes(
        "labels of its own, one without a value",
        "spec.nodeSelector",
        {"matchLabels": {"gpugrant.io/provider": "nhn-cloud", "rack": ""}},
    ),
    table.takes(
        "two instalments, one all own use",
        "spec.delivery",
        [{"gpus": 64, "due": "2026-01-31"}, {"gpus": 8, "publicGpus": 0, "due": "2026-03-31"}],
    ),
    table.takes("a pool's name of 63 characters", "metadata.name", "p" * 63),
    table.refuses("a pool's name of 64 characters", "metadata.name", "p" * 64, "at most 63 characters"),
    table.refuses("a pool's name in capitals", "metadata.name", "NHN_B200", "lowercase RFC 1123 subdomain"),
    table.refuses("no provider", "spec.provider", ABSENT, "Required value"),
    table.refuses("a provider that is null", "spec.provider", None, "Required value"),
    table.refuses("a provider that is empty", "spec.provider", "", LOWER),
    table.refuses("a provider written as people write it", "spec.provider", "NHN Cloud", LOWER),
    table.refuses("a provider that ends in a dash", "spec.provider", "nhn-", LOWER),
    table.refuses("a provider with a newline behind it", "spec.provider", "nhn\n", LOWER),
    table.refuses("a provider of 64 characters", "spec.provider", "n" * 64, "63"),
    table.refuses("a provider that is a number", "spec.provider", 5, "must be", "string"),
    table.refuses("no GPU type", "spec.gpuType", ABSENT, "Required value"),
    table.refuses("a GPU type with a space", "spec.gpuType", "NVIDIA B200", LABEL),
    table.refuses("a GPU type that starts with an underscore", "spec.gpuType", "_B200", LABEL),
    table.refuses("a programme with a slash", "spec.programme", "purchase/2025", LOWER),
    table.refuses(
        "a resource without a domain", "spec.resourceName", "gpu", "must be an extended resource's name"
    ),
    table.refuses(
        "a resource that the kubelet has itself",
        "spec.resourceName",
        "cpu",
        "must be an extended resource's name",
    ),
    table.refuses(
        "a resource with two slashes",
        "spec.resourceName",
        "nvidia.com/gpu/shared",
        "must be an extended resource's name",
    ),
    table.refuses(
        "a resource in Kubernetes' own domain",
        "spec.resourceName",
        "kubernetes.io/gpu",
        "Kubernetes' own names (kubernetes.io/gpu)",
        at="resourceName",
    ),
    table.refuses(
        "a device class as a resource",
        "spec.resourceName",
        "deviceclass.resource.kubernetes.io/gpu",
        "Kubernetes' own names",
        at="resourceName",
    ),
    table.refuses("a fabric label with a space", "spec.fabricLabel", "my fabric", "must be a label key"),
    table.refuses("servers without GPUs", "spec.gpusPerServer", 0, "greater than or equal to 1"),
    table.refuses(
        "servers with a thousand and more GPUs", "spec.gpusPerServer", 1025, "less than or equal to 1024"
    ),
    table.refuses("half a GPU per server", "spec.gpusPerServer", 0.5, "must be"),
    table.refuses("GPUs per server in quotes", "spec.gpusPerServer", "8", "must be"),
    table.refuses(
        "a public share without a number",
        "spec.publicShare",
        {},
        "Required value",
        at="spec.publicShare.gpus",
    ),
    table.refuses("a public share that is a number", "spec.publicShare", 6120, "must be"),
    table.refuses("a promise below nothing", "spec.publicShare.gpus", -8, "greater than or equal to 0"),
    table.refuses(
        "a promise of more GPUs than there are",
        "spec.publicShare.gpus",
        1000001,
        "less than or equal to 1000000",
    ),
    table.refuses("a fabric pinned twice", "spec.publicShare.fabrics", ["f1", "f2", "f1"], "Duplicate value"),
    table.refuses(
        "a fabric that no label can name",
        "spec.publicShare.fabrics",
        ["fabric 1"],
        LABEL,
        at="spec.publicShare.fabrics[0]",
    ),
    table.refuses("one fabric that is no list", "spec.publicShare.fabrics", "f1", "must be"),
    table.refuses("a misspelt field", "spec.gpuPerServer", 8, "unknown field"),
    table.refuses("a misspelt field further down", "spec.publicShare.fabric", "f1", "unknown field"),
    table.refuses("a field beside spec", "data", {}, "unknown field"),
    table.refuses(
        "a node selector without labels",
        "spec.nodeSelector",
        {"matchLabels": {}},
        "at least 1",
        at="spec.nodeSelector.matchLabels",
    ),
    table.refuses(
        "a node selector with expressions",
        "spec.nodeSelector",
        {"matchExpressions": []},
        "unknown field",
        at="spec.nodeSelector.matchExpressions",
    ),
    table.refuses(
        "a node selector with a key that is none",
        "spec.nodeSelector",
        {"matchLabels": {"a b": "c"}},
        "every key must be a label key",
        at="matchLabels",
    ),
    table.refuses(
        "a node selector with a value that is none",
        "spec.nodeSelector",
        {"matchLabels": {"a": "b c"}},
        LABEL,
        at="spec.nodeSelector.matchLabels",
    ),
    table.refuses(
        "a node selector with a number",
        "spec.nodeSelector",
        {"matchLabels": {"rack": 7}},
        "must be",
        "string",
        at="spec.nodeSelector.matchLabels.rack",
    ),
    table.refuses(
        "a node selector of nine labels",
        "spec.nodeSelector",
        {"matchLabels": {f"l{i}": "x" for i in range(9)}},
        "at most 8",
        at="spec.nodeSelector.matchLabels",
    ),
    table.refuses(
        "two instalments on one day",
        "spec.delivery",
        _delivery((8, "2026-01-31"), (8, "2026-01-31")),
        "Duplicate value",
        "2026-01-31",
    ),
    table.refuses(
        "instalments out of order",
        "spec.delivery",
        _delivery((8, "2026-03-31"), (8, "2026-01-31")),
        "in order of due, earliest first",
        at="delivery",
    ),
    table.refuses(
        "an instalment of nothing",
        "spec.delivery",
        _delivery((0, "2026-01-31")),
        "greater than or equal to 1",
        at="spec.delivery[0].gpus",
    ),
    table.refuses(
        "an instalment with more public GPUs than GPUs",
        "spec.delivery",
        [{"gpus": 8, "publicGpus": 16, "due": "2026-01-31"}],
        "publicGpus must be at most gpus",
        at="spec.delivery[0]",
    ),
    table.refuses(
        "an instalment without a day",
        "spec.delivery",
        [{"gpus": 8}],
        "Required value",
        at="spec.delivery[0].due",
    ),
    table.refuses(
        "an instalment on a day that the calendar lacks",
        "spec.delivery",
        _delivery((8, "2026-04-31")),
        DATE,
        at="spec.delivery[0].due",
    ),
    table.refuses("own use in small letters", "spec.ownUse", "open", "Open", "Granted"),
    table.refuses("backfill as a switch", "spec.backfill", True, "Never", "FreeOwnUse"),
    table.refuses("an unknown tenancy", "spec.sharedTenancy", "PerUser", "PerTenant", "Mixed"),
    table.refuses(
        "fewer shared servers than none", "spec.maxSharedServers", -1, "greater than or equal to 0"
    ),
    table.refuses("a spec that is a list", "spec", [], "must be"),
    table.refuses("no spec", "spec", ABSENT, "Required value"),
)
