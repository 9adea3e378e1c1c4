"""All of gpugrant's metrics, straight from the ledger's sums and the planner's figures.

Nothing is counted here: a scrape reads two values and renders them, so a restarted operator shows the same
sums at once. GPU-seconds are integers far below 2^53, so that a scraper's floats carry them exactly.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpugrant.expose.admission import AdmissionWaits
from gpugrant.expose.figures import Figures, GrantFigures, ReportFigures, ShareFigures
from gpugrant.expose.text import CONTENT_TYPE, write_page
from gpugrant.meter.facts import Account, Condition, Owner
from gpugrant.meter.meter import LedgerHealth
from gpugrant.meter.tally import Reading, Tally

MONTHS = 3  # the running one and the last two

_POOL = ("programme", "provider", "pool", "gpu_type", "share")
_SERIES = (*_POOL, "owner", "tenant", "tenant_namespace", "grant", "condition")
_GRANT = (*_POOL, "tenant", "tenant_namespace", "grant")
_STATES = ("free", "granted", "held", "reserved", "failed", "maintenance")
_FROM_ZERO = (Condition.USED, Condition.IDLE, Condition.FAILED)
_GRANT_STATES = ("granted", "held", "reserved", "failed")

Labels = tuple[str, ...]


class Metrics(Collector):
    """Reads what there is at every scrape; a source that returns None has nothing to show."""

    def __init__(
        self,
        figures: Callable[[], Figures | None],
        tally: Callable[[], Tally | None],
        health: Callable[[], LedgerHealth | None],
        waits: AdmissionWaits,
    ) -> None:
        self._figures = figures
        self._tally = tally
        self._health = health
        self._waits = waits

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are checked by promtool, not by a first collect at start-up."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        figures, tally, health = self._figures(), self._tally(), self._health()
        if tally is not None:
            yield from ledger_families(tally.read(), figures or Figures())
        if figures is not None:
            yield from share_families(figures)
            yield from grant_families(figures)
            yield from line_families(figures)
        yield from self._waits.collect()
        if health is not None:
            yield from health_families(health)


class ReportMetrics(Collector):
    """Reads at every scrape how the months' reports stand."""

    def __init__(self, reports: Callable[[], Iterable[ReportFigures]]) -> None:
        self._reports = reports

    def describe(self) -> Iterable[Metric]:
        """Return nothing, as Metrics does."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from report_families(self._reports())


def render(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Return the page and its content type: the text format, whatever else the scraper would take."""
    del accept
    return write_page(registry.collect()), CONTENT_TYPE


# -- from the ledger -------------------------------------------------------------------------------


def ledger_families(reading: Reading, figures: Figures) -> Iterator[Metric]:
    """Yield what the ledger sums: all time, months, failures, use of budgets."""
    total = CounterMetricFamily(
        "gpugrant_gpu_seconds",
        "GPU-seconds by owner and condition, to the ledger's watermark.",
        labels=_SERIES,
    )
    for labels, amount in _merged(_counters(reading, figures)):
        total.add_metric(labels, amount)
    yield total
    month = GaugeMetricFamily(
        "gpugrant_month_gpu_seconds",
        "GPU-seconds by owner and condition in a month of the programme; the running one and the last two.",
        labels=("month", *_SERIES),
    )
    for labels, amount in _merged(_months(reading)):
        month.add_metric(labels, amount)
    yield month
    failed = CounterMetricFamily(
        "gpugrant_failures", "Failures of servers or their GPUs, each counted once.", labels=(*_POOL, "cause")
    )
    for key, count in reading.failures.items():
        failed.add_metric(key, count)
    yield failed
    short = CounterMetricFamily(
        "gpugrant_share_shortfall_gpu_seconds",
        "GPU-seconds by which the installed public share was short of the promise.",
        labels=_POOL,
    )
    for pool, amount in reading.shortfall.items():
        short.add_metric(pool, amount)
    yield short
    digest = GaugeMetricFamily(
        "gpugrant_ledger_day_digest_info",
        "The SHA-256 of a closed day's account, for the last 35 days; always 1.",
        labels=("programme", "provider", "day", "sha256"),
    )
    for closed_day in reading.digests:
        digest.add_metric(closed_day, 1)
    yield digest
    yield _budget_used(reading, figures)


def _series(account: Account, condition: Condition) -> Labels:
    return (
        account.programme,
        account.provider,
        account.pool,
        account.gpu_type,
        account.share,
        str(account.owner),
        account.tenant,
        account.tenant_namespace,
        account.grant,
        str(condition),
    )


def _counters(reading: Reading, figures: Figures) -> Iterator[tuple[Labels, int]]:
    for account, counters in reading.counters.items():
        for condition, amount in counters.items():
            if account.pool:
                yield _series(account, condition), amount
    for grant in figures.grants:  # from zero, so that a rate sees the first second too
        for condition in _FROM_ZERO if grant.pool else ():
            yield (*_pool(grant), str(Owner.GRANT), *_tenant(grant), str(condition)), 0


def _months(reading: Reading) -> Iterator[tuple[Labels, int]]:
    for account, sums in reading.sums.items():
        shown = {
            month.name for month in reading.calendars.of(account.programme).recent(reading.watermark, MONTHS)
        }
        for (month, condition), amount in sums.items():
            if account.pool and month in shown:
                yield (month, *_series(account, condition)), amount


def _merged(series: Iterable[tuple[Labels, int]]) -> Iterable[tuple[Labels, int]]:
    """Add up what has the same labels: a grant made anew under its old name goes on in its series."""
    sums: dict[Labels, int] = {}
    for labels, amount in series:
        sums[labels] = sums.get(labels, 0) + amount
    return sums.items()


def _budget_used(reading: Reading, figures: Figures) -> Metric:
    """Return what grants with a budget have used of it; the award's id holds over re-creation."""
    family = GaugeMetricFamily(
        "gpugrant_grant_budget_used_gpu_seconds", "GPU-seconds used of a grant's budget.", labels=_GRANT
    )
    by_uid: dict[str, int] = {}
    by_award: dict[tuple[str, str, str], int] = {}
    for account, sums in reading.sums.items():
        used = sum(amount for (_, condition), amount in sums.items() if condition is Condition.USED)
        by_uid[account.grant_uid] = by_uid.get(account.grant_uid, 0) + used
        award = (account.programme, account.tenant, account.award)
        by_award[award] = by_award.get(award, 0) + used
    for grant in figures.grants:
        if grant.budget_gpu_seconds is not None:
            award = (grant.programme, grant.tenant, grant.award)
            used = by_award.get(award, 0) if grant.award else by_uid.get(grant.uid, 0)
            family.add_metric((*_pool(grant), *_tenant(grant)), used)
    return family


# -- from the planner ------------------------------------------------------------------------------


def share_families(figures: Figures) -> Iterator[Metric]:
    """Yield the GPUs of pools by share."""
    gpus = GaugeMetricFamily(
        "gpugrant_gpus",
        "GPUs of a pool's share by state; the states are disjoint and add up to what is installed.",
        labels=(*_POOL, "state"),
    )
    promised = GaugeMetricFamily("gpugrant_promised_gpus", "GPUs promised to the public share.", labels=_POOL)
    for share in figures.shares:
        for state in _STATES:
            gpus.add_metric((*_pool(share), state), getattr(share, state))
        if share.promised is not None:
            promised.add_metric(_pool(share), share.promised)
    yield gpus
    yield promised


def grant_families(figures: Figures) -> Iterator[Metric]:
    """Yield what grants are and have."""
    gpus = GaugeMetricFamily(
        "gpugrant_grant_gpus",
        "GPUs of a grant by state; the states are disjoint and add up to what is allocated.",
        labels=(*_GRANT, "state"),
    )
    info = GaugeMetricFamily(
        "gpugrant_grant_info", "What a grant is; always 1.", labels=(*_GRANT, "award", "track")
    )
    end = GaugeMetricFamily(
        "gpugrant_grant_end_timestamp_seconds",
        "When a grant's term ends, in seconds since 1970.",
        labels=_GRANT,
    )
    budget = GaugeMetricFamily(
        "gpugrant_grant_budget_gpu_seconds", "GPU-seconds a grant may use in all.", labels=_GRANT
    )
    for grant in figures.grants:
        labels = (*_pool(grant), *_tenant(grant))
        info.add_metric((*labels, grant.award, grant.track), 1)
        if grant.end:
            end.add_metric(labels, grant.end)
        if grant.budget_gpu_seconds is not None:
            budget.add_metric(labels, grant.budget_gpu_seconds)
        for state in _GRANT_STATES if grant.pool else ():
            gpus.add_metric((*labels, state), getattr(grant, state))
    yield from (gpus, info, end, budget)


def line_families(figures: Figures) -> Iterator[Metric]:
    """Yield tenants' limits, and what waits."""
    quota = GaugeMetricFamily(
        "gpugrant_quota_gpus",
        "A tenant's limit, and what of it is granted and held.",
        labels=("programme", "gpu_type", "share", "tenant", "kind"),
    )
    for one in figures.quotas:
        labels = (one.programme, one.gpu_type, one.share, one.tenant)
        if one.limit is not None:
            quota.add_metric((*labels, "limit"), one.limit)
        quota.add_metric((*labels, "granted"), one.granted)
        quota.add_metric((*labels, "held"), one.held)
    waiting = GaugeMetricFamily(
        "gpugrant_waiting_gpus",
        "GPUs that pods wait for, by the reason they wait.",
        labels=("programme", "gpu_type", "tenant", "reason"),
    )
    for wait in figures.waiting:
        waiting.add_metric((wait.programme, wait.gpu_type, wait.tenant, wait.reason), wait.gpus)
    yield from (quota, waiting)


def _pool(one: ShareFigures | GrantFigures) -> Labels:
    return (one.programme, one.provider, one.pool, one.gpu_type, one.share)


def _tenant(grant: GrantFigures) -> Labels:
    return (grant.tenant, grant.tenant_namespace, grant.grant)


# -- reports ---------------------------------------------------------------------------------------


def report_families(reports: Iterable[ReportFigures]) -> Iterator[Metric]:
    """Yield which months are closed, and until when those that are not acknowledged are due."""
    labels = ("programme", "provider", "month")
    closed = GaugeMetricFamily(
        "gpugrant_report_closed", "Whether a month's report is closed: 1, or 0.", labels=labels
    )
    due = GaugeMetricFamily(
        "gpugrant_report_due_timestamp_seconds",
        "By when a report is due, in seconds since 1970; gone once it is acknowledged.",
        labels=labels,
    )
    for one in reports:
        of = (one.programme, one.provider, one.month)
        closed.add_metric(of, int(one.closed))
        if one.due_at:
            due.add_metric(of, one.due_at)
    yield from (closed, due)


# -- the ledger's own health -----------------------------------------------------------------------


def health_families(health: LedgerHealth) -> Iterator[Metric]:
    """Yield how the ledger does."""
    gauges: tuple[tuple[str, str, Any], ...] = (
        (
            "gpugrant_ledger_ready",
            "Whether the ledger takes writes: 1, or 0 while its store is away.",
            int(health.ready),
        ),
        (
            "gpugrant_ledger_watermark_timestamp_seconds",
            "Until when the ledger is complete, in seconds since 1970.",
            health.watermark,
        ),
        ("gpugrant_ledger_queued_facts", "Facts that wait to be written.", health.queued),
        (
            "gpugrant_ledger_queue_age_seconds",
            "How long the oldest queued fact has waited.",
            health.queue_age,
        ),
        (
            "gpugrant_ledger_drift_seconds",
            "GPU-seconds by which stored days differ from their raw facts; anything but 0 is a fault.",
            health.drift,
        ),
        ("gpugrant_ledger_held_pods", "Pods that hold GPUs by the ledger.", health.held_pods),
        ("gpugrant_ledger_commit_seconds", "How long the last commit took.", health.last_commit_seconds),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(name, text, value=value)
    counters = (
        ("gpugrant_ledger_commits", "Commits since the operator's start.", health.commits),
        ("gpugrant_ledger_failed_commits", "Commits that the store did not take.", health.failed_commits),
        ("gpugrant_ledger_refused_facts", "Facts that no store would take.", health.refused_facts),
        (
            "gpugrant_ledger_skewed_ends",
            "Ends that a node's clock put where they cannot have been; they were clipped.",
            health.skewed_ends,
        ),
        (
            "gpugrant_ledger_skew_seconds",
            "By how many seconds those clocks were off, in all.",
            health.skew_seconds,
        ),
    )
    for name, text, value in counters:
        yield CounterMetricFamily(name, text, value=value)
