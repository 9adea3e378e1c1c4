"""How long pods waited from creation to release, as a histogram per pool."""

from bisect import bisect_left
from collections.abc import Iterator
from threading import Lock

from prometheus_client.core import HistogramMetricFamily

from gpugrant.meter.facts import Account

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
# From "at once" to days: a gang may rightly wait for a term to end.
BUCKETS = (
    *(1, 5, 15, 30),
    *(minutes * _MINUTE for minutes in (1, 5, 15, 30)),
    *(hours * _HOUR for hours in (1, 3, 6, 12)),
    *(days * _DAY for days in (1, 2, 4, 7, 14)),
)
_LABELS = ("programme", "provider", "pool")


class AdmissionWaits:
    """Counts waits as they end. Counts of this process: they start at zero with it."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], list[int]] = {}
        self._sums: dict[tuple[str, str, str], int] = {}
        self._lock = Lock()

    def observe(self, account: Account, seconds: int) -> None:
        """Count one pod's wait."""
        pool = (account.programme, account.provider, account.pool)
        with self._lock:
            counts = self._counts.setdefault(pool, [0] * (len(BUCKETS) + 1))
            counts[bisect_left(BUCKETS, seconds)] += 1
            self._sums[pool] = self._sums.get(pool, 0) + seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram."""
        family = HistogramMetricFamily(
            "gpugrant_admission_wait_seconds",
            "How long pods waited from their creation to their release.",
            labels=_LABELS,
        )
        with self._lock:
            for pool, counts in self._counts.items():
                total, buckets = 0, []
                for bound, count in zip((*(f"{bound}.0" for bound in BUCKETS), "+Inf"), counts, strict=True):
                    total += count
                    buckets.append((bound, total))
                family.add_metric(pool, buckets, self._sums[pool])
        yield family
