"""A host whose clock is weeks off, and a real API server."""

import time

import pytest

from gpugrant.observe.client import ApiError, Client
from gpugrant.observe.server_clock import ServerClock

WEEKS = 40 * 86_400.0


async def test_every_answer_tells_the_time_also_a_refusal(operator_client: Client) -> None:
    for wrong in (WEEKS, -WEEKS):
        clock = ServerClock(wall=lambda wrong=wrong: time.time() + wrong)
        async with Client(operator_client.credentials, clock=clock) as client:
            assert abs(clock.now() - time.time() - wrong) < 1, "nothing was heard yet"
            before = time.time()
            with pytest.raises(ApiError, match="nothing-here"):
                await client.get("/api/v1/nodes/nothing-here")
            after = time.time()
            assert before - 1 <= clock.now() <= after + 1.1
