"""Good and bad UsageReports."""

from typing import Final

from .lines import ABSENT, Table

table = Table("UsageReport")

REPORTS: Final = (
    table.takes("a month", also={}),
    table.takes(
        "a month of a short period",
        "spec.month",
        "2026-11-22t211930z",
        also={"metadata.name": "purchase-2025-kakao-2026-11-22t211930z"},
    ),
    table.takes("an acknowledged month", "spec.acknowledgedBy", "H. Kim, NIPA"),
    table.refuses(
        "a month under another month's name",
        "spec.month",
        "2026-12",
        "must be programme-provider-month (here purchase-2025-kakao-2026-12)",
        at="metadata.name",
    ),
    table.refuses(
        "a thirteenth month of a report",
        "spec.month",
        "2026-13",
        "must be a month such as '2026-11'",
        also={"metadata.name": "purchase-2025-kakao-2026-13"},
    ),
    table.refuses(
        "a month that is a day",
        "spec.month",
        "2026-11-01",
        "must be a month such as '2026-11'",
        also={"metadata.name": "purchase-2025-kakao-2026-11-01"},
    ),
    table.refuses(
        "a short period of an hour that no day has",
        "spec.month",
        "2026-11-22t241930z",
        "must be a month such as '2026-11'",
        also={"metadata.name": "purchase-2025-kakao-2026-11-22t241930z"},
    ),
    table.refuses("a report of nobody", "spec.provider", ABSENT, "Required value"),
    table.refuses("a report with figures in its spec", "spec.gpuSeconds", 1, "unknown field"),
)
