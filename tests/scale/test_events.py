"""What an event asks of observe and plan does not depend on how large the fleet is, and loses nothing.

Work is counted in calls of Python functions, which is the same on any machine; time is for `make bench`.
"""

import sys
from collections.abc import Callable
from types import FrameType

import pytest
from msgspec.structs import replace

from bench.event import Feed, churn, heartbeats, pod_lives
from bench.inprocess import InProcess, held_operator
from gpugrant.decide.actions import SetPolicies, SetStatus

SMALL, LARGE, PROMISED = 32, 1_000, 6_250
FREE, ALL_FREE = 8, 32  # seats of each grant that nobody holds


@pytest.fixture(scope="module")
def operators() -> dict[int, InProcess]:
    return {servers: held_operator(servers, free=FREE) for servers in (SMALL, LARGE)}


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(pod_lives, id="pods come, run, end and go on a grant with room"),
        pytest.param(churn, id="pods end on full grants and others take their places"),
        pytest.param(heartbeats, id="kubelets tell that they live"),
    ],
)
def test_an_event_asks_for_no_more_work_where_the_fleet_is_larger(
    load: Callable[[Feed, int], None], operators: dict[int, InProcess]
) -> None:
    calls = {servers: _calls(load, operator) for servers, operator in operators.items()}

    assert calls[LARGE] < 1.05 * calls[SMALL]


def test_a_world_of_6250_servers_fed_by_events_plans_as_one_that_looks_afresh() -> None:
    fed = held_operator(PROMISED, free=ALL_FREE)
    feed = _feed(fed)
    pod_lives(feed, 20)
    for grant in feed.grants:
        for _ in range(ALL_FREE + 10):  # 32 are released and not bound, ten wait
            feed.create(grant)

    afresh = InProcess(fed.cluster, fed.now)
    afresh.look()
    fed.now = afresh.now = fed.now + 60
    planned = {operator: _plan(operator) for operator in (afresh, fed)}

    assert planned[afresh] == planned[fed]
    assert planned[fed], "figures and what did not bind in time were due"
    assert _taken(afresh) == _taken(fed)


def _feed(operator: InProcess) -> Feed:
    grants = sorted(operator.cluster.objects["GpuGrant"].items())
    return Feed(operator, [grant for key, grant in grants if key[0].startswith("nhn-b200-t")][:2])


def _plan(operator: InProcess) -> set[str]:
    """Plan. Left out: the policies' lists, which every process asks for once, and how soon a status is wanted."""
    return {
        repr(replace(action, urgent=True) if isinstance(action, SetStatus) else action)
        for action in operator.plan()
        if not isinstance(action, SetPolicies)
    }


def _taken(operator: InProcess) -> dict[str, tuple[int, int]]:
    return {uid: (usage.held, usage.reserved) for uid, usage in operator.world.usage.items() if usage.taken}


def _calls(load: Callable[[Feed, int], None], operator: InProcess) -> int:
    count = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if event == "call" and "/gpugrant/" in frame.f_code.co_filename:
            count += 1

    feed = _feed(operator)
    sys.setprofile(note)
    try:
        load(feed, 50)
    finally:
        sys.setprofile(None)
    return count
