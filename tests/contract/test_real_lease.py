"""The Lease on a real API server: one leader, taken over as it should be."""

import asyncio
import json

import pytest

from devcluster.client import KubeClient
from gpugrant import names
from gpugrant.observe.client import Client
from gpugrant.run.lease import Lease, LeaseLostError

PATH = f"/apis/coordination.k8s.io/v1/namespaces/{names.SYSTEM_NAMESPACE}/leases/{names.LEASE}"


@pytest.fixture(autouse=True)
async def _no_lease(admin: KubeClient, operator_client: Client) -> None:
    await admin.delete(PATH, missing_ok=True)


async def _soon(lease: Lease, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await lease.acquire()
            return True
    except TimeoutError:
        return False


async def test_of_two_candidates_one_leads(operator_client: Client) -> None:
    first, second = Lease(operator_client, "a", 3), Lease(operator_client, "b", 3)
    assert await _soon(first, 2)
    keeping = asyncio.create_task(first.keep(lambda: None, lambda: None))
    assert not await _soon(second, 5)
    assert second.other == "a"
    keeping.cancel()


async def test_a_killed_operator_takes_its_own_lease_again_at_once(operator_client: Client) -> None:
    assert await _soon(Lease(operator_client, "a", 60), 2)
    assert await _soon(Lease(operator_client, "a", 60), 0.5)


async def test_a_lease_that_is_not_renewed_runs_out(operator_client: Client) -> None:
    assert await _soon(Lease(operator_client, "a", 2), 2)
    assert await _soon(Lease(operator_client, "b", 2), 6)


async def test_a_lease_that_was_given_back_is_free_at_once(operator_client: Client) -> None:
    first = Lease(operator_client, "a", 60)
    assert await _soon(first, 2)
    await first.release()
    assert await _soon(Lease(operator_client, "b", 60), 0.5)


async def test_a_leader_that_sees_another_holder_has_lost(operator_client: Client, admin: KubeClient) -> None:
    lease = Lease(operator_client, "a", 3)
    assert await _soon(lease, 2)
    await admin.patch(PATH, {"spec": {"holderIdentity": "b"}})
    with pytest.raises(LeaseLostError, match="b has taken the lease"):
        async with asyncio.timeout(10):
            await lease.keep(lambda: None, lambda: None)


async def test_two_that_write_at_once_cannot_both_succeed(operator_client: Client) -> None:
    leases = [Lease(operator_client, name, 60) for name in "abcdefgh"]
    taken = await asyncio.gather(*(_soon(lease, 1.5) for lease in leases))
    assert sum(taken) == 1
    held = json.loads(await operator_client.get(PATH))["spec"]["holderIdentity"]
    assert held == leases[taken.index(True)].identity
