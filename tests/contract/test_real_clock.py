"""A host whose clock is weeks off, and a real API server."""

import re
import time

import pytest

from devcluster.controlplane import ControlPlane
from gpugrant.observe.client import ApiError, Client
from gpugrant.observe.server_clock import ServerClock
from gpugrant.run.asking import Asked, ask_cluster
from gpugrant.run.lease import Lease

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


async def test_what_is_asked_on_a_machine_whose_clock_is_off_is_answered_by_the_servers_time(
    installed: ControlPlane, operator_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(operator_client, "a", 60)
    await lease.acquire()
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + WEEKS)
    said = "\n".join(await ask_cluster(str(installed.kubeconfig), Asked("status")))
    seen = re.search(r"leader a, seen (\d+) s ago", said)
    assert seen and int(seen[1]) < 60, said
    await lease.release()
