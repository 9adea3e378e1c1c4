"""The gauges' maintenance and failures follow the ledger's rule: announced with the programme's notice, or Failed."""

from datetime import UTC, datetime

import pytest

from cluster_model.cluster import Cluster
from gpugrant.config import load_settings
from gpugrant.expose.views import announced_at, failures, figures
from gpugrant.meter.facts import Announced
from gpugrant.meter.months import Calendars
from gpugrant.meter.tally import Tally

NOTICE = 3600


@pytest.fixture
def cluster() -> Cluster:
    it = Cluster(load_settings("programmes:\n  purchase: {}\n"))
    it.add_pool("pool", programme="purchase")
    for number in range(2):
        it.add_node(f"n{number}")
    it.settle()
    return it


def a_tally(*facts: Announced) -> Tally:
    tally = Tally(Calendars())
    for fact in facts:
        tally.histories.add(fact)
    return tally


def cordoned(cluster: Cluster, tally: Tally | None, now: int, **node: object) -> tuple[int, int, int]:
    """Return GPUs in maintenance, failed ones, and servers that failures name, with n0 cordoned."""
    cluster.change_node("n0", unschedulable=True, **node)
    found = figures(cluster.world, now, tally)
    shares = found.shares
    assert sum(s.free + s.granted + s.held + s.reserved + s.failed + s.maintenance for s in shares) == 16
    assert found.failures == failures(cluster.world, announced_at(now, tally))
    return sum(s.maintenance for s in shares), sum(s.failed for s in shares), len(found.failures)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(NOTICE, (8, 0, 0), id="in time"),
        pytest.param(NOTICE - 1, (0, 8, 1), id="a second late"),
    ],
)
def test_a_cordon_is_maintenance_if_its_window_was_announced_in_time(cluster, told, expected) -> None:
    now = cluster.now
    window = Announced("n0", now - told, now - 10, now + 10, NOTICE)
    assert cordoned(cluster, a_tally(window), now) == expected


@pytest.mark.parametrize(
    ("own", "quotas", "shown"),
    [
        pytest.param("startups", "research", "startups", id="the grant's own"),
        pytest.param(None, "research", "research", id="the tenant's where the grant has none"),
        pytest.param(None, None, "", id="neither"),
    ],
)
def test_the_track_of_a_grant_is_its_own_or_its_tenants(cluster, own, quotas, shown) -> None:
    cluster.add_namespace("hangang-lm", tenant="hangang")
    cluster.add_quota("hangang", **({"track": quotas} if quotas else {}))
    cluster.add_grant("hangang-lm", "pretrain", programme="purchase", **({"track": own} if own else {}))
    cluster.settle()
    assert [grant.track for grant in figures(cluster.world, cluster.now, None).grants] == [shown]


def test_a_cordon_that_nobody_announced_is_failed_and_so_is_a_server_that_is_not_ready(cluster) -> None:
    now = cluster.now
    assert cordoned(cluster, a_tally(), now) == (0, 8, 1)
    window = Announced("n0", now - NOTICE, now - 10, now + 10, NOTICE)
    assert cordoned(cluster, a_tally(window), now, ready=False) == (0, 8, 1)


def test_a_window_that_was_changed_keeps_the_notice_it_was_first_given_with(cluster) -> None:
    now = cluster.now
    first = Announced("n0", now - NOTICE, now - 10, now + 10, NOTICE)
    longer = Announced("n0", now - 5, now - 10, now + 1000, NOTICE)
    assert cordoned(cluster, a_tally(first, longer), now) == (8, 0, 0)


def test_without_a_ledger_the_annotation_is_all_there_is(cluster) -> None:
    now = cluster.now

    def window(start: int, end: int) -> str:
        return "/".join(datetime.fromtimestamp(now + at, UTC).isoformat() for at in (start, end))

    assert cordoned(cluster, None, now, maintenance=window(-10, 10)) == (8, 0, 0)
    for other in (window(5, 10), "tomorrow", "2027-02-01/2027-02-02"):
        assert cordoned(cluster, None, now, maintenance=other) == (0, 8, 1)
