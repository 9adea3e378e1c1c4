"""A real Prometheus scrapes the operator over a kill and a new pod: no reset, no renamed label, the ledger's numbers.

Target labels are those of Kubernetes' service discovery: pod and instance are other ones after every restart.
"""

from collections import defaultdict
from itertools import pairwise

import pytest
from sqlalchemy import select

from cluster_kit.operator import OperatorProcess
from cluster_kit.site import Pool, Site, Tenant, condition, seconds_of
from devcluster.client import JsonObject
from gpugrant.meter.database import reading_engine
from gpugrant.meter.facts import Account
from gpugrant.meter.months import Calendar
from gpugrant.meter.reading import build_from_rows
from gpugrant.meter.rows import Accounts
from gpugrant.meter.tables import ledger
from prometheus import server
from prometheus.server import OF_TARGET, Labels, Prometheus, Series

TOTAL, MONTH = "gpugrant_gpu_seconds_total", "gpugrant_month_gpu_seconds"
WATERMARK = "gpugrant_ledger_watermark_timestamp_seconds"
# GPU-seconds: a server's seats over what a busy machine takes to tell of an end.
LATE = 8 * 15
COUNTERS = '{__name__=~"gpugrant_gpu_seconds_total|gpugrant_failures_total|gpugrant_share_shortfall.*_total"}'
# As docs/metrics.md has it: one series whichever pod was scraped.
ONE_SERIES = f"max without (instance, pod) ({TOTAL})"


async def test_over_restarts_prometheus_sees_no_reset_and_has_the_ledgers_own_numbers(
    site: Site, operator: OperatorProcess, prometheus: Prometheus
) -> None:
    pool = await site.pool([3], publicShare={"gpus": 16})
    tenants = [await site.tenant(pool), await site.tenant(pool)]
    for tenant in tenants:
        await site.grant(tenant, pool, 4, placement="SharedServers")
    own = await site.provider_namespace(pool.provider)
    first = prometheus.scrape(operator.address)
    done = [await site.pod(tenant, 2, run_seconds=2, restartPolicy="Never") for tenant in tenants]
    stays = await site.pod(tenants[0], 1)
    await site.running(stays, await site.pod(own, 8))
    await _is_scraped(prometheus, first, "Used")

    killed = operator.kill()  # without warning; pods come and end while nobody looks
    done += [await site.pod(tenants[1], 2, run_seconds=1, restartPolicy="Never")]
    second = prometheus.scrape(operator.address)
    await operator.back(killed)
    await operator.ready()
    await _is_scraped(prometheus, second, "Used")

    prometheus.scrape_nothing()
    operator.stop()  # in good order, as for a new version
    await site.admin.delete(stays, 0)
    await operator.start(site.admin)
    third = prometheus.scrape(operator.address)
    done += [await site.pod(tenants[0], 2, run_seconds=1, restartPolicy="Never")]
    pods = [await _ended(site, path) for path in done]
    until = max(_held(pod)[1] for pod in pods)
    await _is_scraped(prometheus, third, "Used", past=until)

    _no_label_is_renamed(prometheus, {first, second, third})
    _no_counter_falls(prometheus)
    at = _last_scrape(prometheus, third)
    _it_has_the_ledgers_numbers(prometheus, operator, pool, at)
    # All of the second one's pods are over, and the API says when they were.
    _a_tenant_is_what_the_api_says(prometheus, tenants[1], pods, at)


# -- waiting -----------------------------------------------------------------------------------------


async def _is_scraped(prometheus: Prometheus, pod: str, seen: str, past: int = 0) -> None:
    """Wait until a target's series are there, complete past a moment."""

    def holds() -> bool:
        marks = prometheus.query(f'{WATERMARK}{{pod="{pod}"}} > {past}')
        used = prometheus.query(f'{TOTAL}{{pod="{pod}", owner="grant", condition="{seen}"}} > 0')
        return bool(marks and used)

    await prometheus.until(f"{pod} is scraped past {past}", holds)


async def _ended(site: Site, path: str) -> JsonObject:
    pod: JsonObject = await site.admin.wait_for(
        path,
        lambda seen: seen["status"]["phase"] == "Succeeded" and not seen["metadata"].get("finalizers"),
        60,
    )
    return pod


def _held(pod: JsonObject) -> tuple[int, int]:
    """Return from when until when a pod held its GPUs, by the API server."""
    ends = [each["state"]["terminated"]["finishedAt"] for each in pod["status"]["containerStatuses"]]
    return seconds_of(condition(pod, "PodScheduled")["lastTransitionTime"]), max(map(seconds_of, ends))


def _last_scrape(prometheus: Prometheus, pod: str) -> float:
    (series,) = prometheus.series(f'{WATERMARK}{{pod="{pod}"}}')
    return series.samples[-1][0]


# -- what must be so ---------------------------------------------------------------------------------


def _no_label_is_renamed(prometheus: Prometheus, pods: set[str]) -> None:
    assert {name for name in prometheus.label_names() if name.startswith("exported_")} == set()
    found = {series.labels["pod"] for series in prometheus.series(TOTAL)}
    assert found == pods


def _no_counter_falls(prometheus: Prometheus) -> None:
    by_key: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for series in prometheus.series(COUNTERS):
        by_key[series.key()] += series.samples
    falls = [
        (sorted(key), one, other)
        for key, samples in by_key.items()
        for one, other in pairwise(sorted(samples))
        if other[1] < one[1]
    ]
    assert falls == []
    assert len(by_key) >= 4
    resets = prometheus.query(f"resets(({ONE_SERIES})[30m:1s])")
    assert resets and {value for _, value in resets} == {0.0}


def _it_has_the_ledgers_numbers(
    prometheus: Prometheus, operator: OperatorProcess, pool: Pool, at: float
) -> None:
    """Compare what it has at one scrape with what the stored facts say up to that scrape's watermark."""
    ((_, mark),) = prometheus.query(f"max({WATERMARK})", at)
    totals, months = _from_facts(operator, pool.programme, int(mark))
    mine = f'{{programme="{pool.programme}"}}'
    asked = {
        _plain(labels): int(value)
        for labels, value in prometheus.query(f"max without (instance, pod) ({MONTH}{mine})", at)
    }
    assert {key: value for key, value in asked.items() if value} == months
    counted = {
        _plain(labels): int(value) for labels, value in prometheus.query(f"{ONE_SERIES[:-1]}{mine})", at)
    }
    for key in counted.keys() | totals.keys():
        _is_or_stands_still(counted.get(key, 0), totals.get(key, 0), key)
    _growth_is_exact(prometheus, operator, pool, mark)


def _growth_is_exact(prometheus: Prometheus, operator: OperatorProcess, pool: Pool, mark: float) -> None:
    """Compare by how much series grew since the first scrape that had them, whichever pods were scraped."""
    mine = f'{{programme="{pool.programme}"}}'
    begun = min(series.samples[0][0] for series in prometheus.series(f"{TOTAL}{mine}"))
    ((_, first),) = prometheus.query(f"max({WATERMARK})", begun)
    before, _ = _from_facts(operator, pool.programme, int(first))
    after, _ = _from_facts(operator, pool.programme, int(mark))
    samples: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for series in prometheus.series(f"{TOTAL}{mine}"):
        samples[_plain(series.labels)] += series.samples
    for key, found in samples.items():
        last = max(found)[1]
        started = dict(found).get(begun, 0.0)
        # Either end of it may have been shown before an end was learnt.
        assert abs(last - started - (after.get(key, 0) - before.get(key, 0))) <= LATE, sorted(key)


def _is_or_stands_still(shown: int, true: int, key: Labels) -> None:
    """Check a counter: it may not fall, so what was shown before an end was learnt stays until the sum catches up.

    Months are exact.
    """
    assert true <= shown <= true + LATE, (sorted(key), shown, true)


def _plain(labels: dict[str, str]) -> Labels:
    plain = {name: value for name, value in labels.items() if value and name != "__name__"}
    return Series(plain).key()


def _from_facts(
    operator: OperatorProcess, programme: str, until: int
) -> tuple[dict[Labels, int], dict[Labels, int]]:
    """Return totals and months by series, built anew from the ledger's rows and nothing else."""
    engine = reading_engine(f"sqlite:///{operator.ledger}")
    totals: dict[Labels, int] = defaultdict(int)
    months: dict[Labels, int] = defaultdict(int)
    with engine.connect() as connection:
        accounts = Accounts()
        accounts.load(connection)
        start = connection.execute(select(ledger.c.opened_at)).scalar_one() - 60
        while start < until:
            month = Calendar().month_of(start)
            built = build_from_rows(connection, accounts, programme, start, min(month.end, until))
            for cell, amount in built.cells.items():
                key = _labels_of(cell.account) | {("condition", str(cell.condition))}
                totals[_plain(dict(key))] += amount
                months[_plain(dict(key | {("month", month.name)}))] += amount
            start = month.end
    engine.dispose()
    return dict(totals), dict(months)


def _labels_of(account: Account) -> Labels:
    names = (
        "programme",
        "provider",
        "pool",
        "gpu_type",
        "share",
        "owner",
        "tenant",
        "tenant_namespace",
        "grant",
    )
    assert OF_TARGET.isdisjoint(names)
    return frozenset((name, str(getattr(account, name))) for name in names)


def _a_tenant_is_what_the_api_says(
    prometheus: Prometheus, tenant: Tenant, pods: list[JsonObject], at: float
) -> None:
    asked = prometheus.query(
        f'sum(max without (instance, pod) ({MONTH}{{tenant="{tenant.name}", condition="Used"}}))', at
    )
    mine = [pod for pod in pods if pod["metadata"]["namespace"] == tenant.namespace]
    assert len(mine) == 2
    spans = [
        (_held(pod), int(pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]))
        for pod in mine
    ]
    assert [value for _, value in asked] == [sum(gpus * (end - start) for (start, end), gpus in spans)]


def test_without_a_prometheus_the_tests_say_what_is_missing(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="install the Debian package `prometheus`"):
        server.needed()
