"""Good and bad TenantQuotas."""

from typing import Final

from .lines import ABSENT, LINE, LOWER, Table

table = Table("TenantQuota")
_HANGUL = "한"

QUOTAS: Final = (
    table.takes("a tenant with nothing but a name", "spec", ABSENT),
    table.takes("a tenant whose spec is null", "spec", None),
    table.takes("a limit of no GPUs", "spec.limits.0.gpus", 0),
    table.takes("a limit in the default programme", "spec.limits.0.programme", ABSENT),
    table.takes(
        "one GPU type in both shares",
        "spec.limits",
        [{"gpuType": "NVIDIA-B200", "gpus": 8}, {"gpuType": "NVIDIA-B200", "share": "OwnUse", "gpus": 8}],
    ),
    table.takes("a display name of 253 Hangul letters", "spec.displayName", _HANGUL * 253),
    table.refuses("a display name of 254 Hangul letters", "spec.displayName", _HANGUL * 254, "253"),
    table.refuses("a display name of two lines", "spec.displayName", "Hangang\nLM", LINE),
    table.refuses("a track with a tab", "spec.track", "start\tup", LINE),
    table.refuses(
        "a tenant's name that no label can carry", "metadata.name", "t" * 64, "at most 63 characters"
    ),
    table.refuses("a limit without GPUs", "spec.limits.0.gpus", ABSENT, "Required value"),
    table.refuses("a limit without a GPU type", "spec.limits.0.gpuType", ABSENT, "Required value"),
    table.refuses("a limit below nothing", "spec.limits.0.gpus", -1, "greater than or equal to 0"),
    table.refuses("a limit of an unknown share", "spec.limits.0.share", "Private", "Public", "OwnUse"),
    table.refuses("a limit of no hours", "spec.limits.0.gpuHoursPerMonth", 0, "greater than or equal to 1"),
    table.refuses(
        "two limits for the same, the share left out once",
        "spec.limits",
        [{"gpuType": "NVIDIA-B200", "gpus": 8}, {"gpuType": "NVIDIA-B200", "share": "Public", "gpus": 16}],
        "Duplicate value",
        "NVIDIA-B200",
    ),
    table.refuses("limits in one word", "spec.limits", "NVIDIA-B200=128", "must be"),
    table.refuses(
        "affiliated twice with one provider", "spec.affiliatedProviders", ["skt", "skt"], "Duplicate value"
    ),
    table.refuses(
        "affiliated with a name that no provider can have",
        "spec.affiliatedProviders",
        ["SK Telecom"],
        LOWER,
        at="spec.affiliatedProviders[0]",
    ),
    table.refuses(
        "affiliated with 65 providers", "spec.affiliatedProviders", [f"p{i}" for i in range(65)], "64 items"
    ),
    table.refuses("an unknown field that is null", "spec.tenants", None, "unknown field"),
    table.refuses("a tenant field that belongs to the name", "spec.tenant", "hangang", "unknown field"),
)
