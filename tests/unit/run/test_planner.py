"""When the planner plans: by its own clock, the API server's, whatever the host's says."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from gpugrant.decide.actions import Plan
from gpugrant.run.planner import Planner

WEEKS = 3_000_000


@pytest.mark.parametrize("host_is_off", [-WEEKS, WEEKS])
async def test_a_plan_that_asks_to_be_woken_is_woken_by_the_given_clock(host_is_off: int) -> None:
    begun = asyncio.get_running_loop().time()
    planned: list[int] = []
    twice = asyncio.Event()

    def clock() -> int:
        return 1_800_000_000 + host_is_off + int(asyncio.get_running_loop().time() - begun)

    def make_plan(_: None, now: int) -> Plan:
        planned.append(now)
        if len(planned) == 2:
            twice.set()
        return Plan((), now + 1)

    planner = Planner(None, make_plan, lambda _: None, asyncio.Event(), clock, CollectorRegistry())
    task = asyncio.create_task(planner.run())
    async with asyncio.timeout(30):
        await twice.wait()
    task.cancel()
    assert planned[1] > planned[0], "not before it was due"
