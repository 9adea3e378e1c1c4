"""Grants from award to end, and the pools behind them, on a cluster where the operator runs."""

import asyncio
from typing import Any

import pytest

from cluster_kit.operator import OperatorProcess
from cluster_kit.pods import a_pod, condition
from cluster_kit.site import (
    Grant,
    Pool,
    Site,
    Tenant,
    at,
    gates,
    is_bound,
    is_running,
    reason,
    seconds_of,
    waiting,
)
from devcluster.client import JsonObject, Refused
from devcluster.controlplane import ControlPlane
from devcluster.faults import bring_server_back, lose_server, set_unhealthy
from gpugrant import names

ATOM = "rebellions.ai/ATOM"


def _allocation(seen: JsonObject | None) -> JsonObject:
    found: JsonObject = (seen or {}).get("status", {}).get("allocation") or {}
    return found


async def _allocated(site: Site, grant: Grant, gpus: int) -> JsonObject:
    seen = await site.admin.wait_for(grant.path, lambda found: _allocation(found).get("gpus") == gpus)
    return _allocation(seen)


async def _scheduled_at(site: Site, path: str) -> int:
    return seconds_of(condition(await site.admin.get(path), "PodScheduled")["lastTransitionTime"])


# -- may it be had at all ----------------------------------------------------------------------------


async def test_each_refusal_names_its_reason_and_the_way_out_and_stops_nobody_else(site: Site) -> None:
    pool = await site.pool([1, 1])
    capped = await site.pool([3], programme="capped")
    tenant = await site.tenant(pool)
    kin = await site.tenant(pool, affiliatedProviders=[pool.provider])
    rich, small = await site.tenant(pool), await site.tenant(pool, gpus=8)
    without_quota = Tenant(await site.tenant_namespace())
    nobody = Tenant(await site.plain_namespace())
    in_years = {"start": at(-60), "end": at(400 * 86_400)}
    cases: dict[str, tuple[Tenant, Pool, int, dict[str, Any], str]] = {
        "NamespaceHasNoTenant": (nobody, pool, 8, {}, "has no label gpugrant.io/tenant: label it with the tenant"),
        "NoSuchProgramme": (rich, pool, 8, {"programme": "nowhere-2030"}, "nowhere-2030 is not known: there are"),
        "NoTenantQuota": (without_quota, pool, 8, {}, f"create TenantQuota {without_quota.name}"),
        "InvalidTerm": (rich, capped, 8, {"term": in_years}, "capped grants at most 6 months: end must be 20"),
        "NoSuchPool": (rich, pool, 8, {"gpuType": "NVIDIA-H999"}, f"it has NVIDIA-B200 of {pool.provider}"),
        "ConflictOfInterest": (kin, pool, 8, {}, f"{pool.provider} supplies {pool.programme}, and tenant {kin.name}"),
        "ExceedsProgrammeCap": (rich, capped, 24, {}, "capped grants at most 16 NVIDIA-B200; 24 were asked"),
        "ExceedsTenantQuota": (small, pool, 16, {}, "so spec.gpus can be 8 at most"),
        "NotWholeServers": (rich, pool, 12, {}, "12 GPUs are not whole servers: use 8, 16 or placement SharedServers"),
        "NeverFits": (rich, pool, 24, {}, "24 GPUs never fit: the Public share of NVIDIA-B200"),
    }
    made = {
        wanted: await site.grant(who, where, gpus, wait=None, **spec)
        for wanted, (who, where, gpus, spec, _) in cases.items()
    }
    two_fabrics = await site.grant(rich, pool, 16, wait=None)
    good = await site.grant(tenant, pool, 8)
    await site.running(await site.pod(tenant, 8, grant=good))
    said = {wanted: await site.told(grant, "Accepted", wanted) for wanted, grant in made.items()}
    wrong = {wanted: told["message"] for wanted, told in said.items() if cases[wanted][4] not in told["message"]}
    assert wrong == {}
    assert "use fewer, or placement AnyFabric" in (await site.told(two_fabrics, "Accepted", "NeverFits"))["message"]
    for wanted, grant in made.items():
        seen = await site.ready(grant, "Rejected")
        assert seen["status"]["summary"]["why"] == f"{wanted}: {said[wanted]['message']}"


async def test_what_is_accepted_and_not_enforced_yet_says_so(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8, budget={"gpuHours": 100, "onExhausted": "Drain"})
    assert (await site.told(grant, "BudgetNotEnforced", "NotEnforced"))["status"] == "True"


# -- the line ----------------------------------------------------------------------------------------


async def test_the_line_is_priority_then_award_then_age_and_moves_up(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    first = await site.grant(tenant, pool, 16)
    young = await site.grant(tenant, pool, 16, wait="Waitlisted")
    awarded = await site.grant(tenant, pool, 16, wait="Waitlisted",
                               award={"id": "A-2", "round": "1", "decidedOn": "2026-03-03"})
    earlier = await site.grant(tenant, pool, 16, wait="Waitlisted",
                               award={"id": "A-1", "round": "1", "decidedOn": "2026-02-02"})
    urgent = await site.grant(tenant, pool, 16, wait="Waitlisted", priority=5)
    for place, grant in enumerate((urgent, earlier, awarded, young), 1):
        await site.admin.wait_for(grant.path, lambda seen, place=place: seen["status"].get("positionInLine") == place)
    told = await site.told(urgent, "Allocated", "NoFabricLargeEnough")
    assert told["message"] == "1st in line; largest free fabric has 0 of 2 servers"
    await site.admin.delete(first.path)
    seen = await site.ready(urgent, "Active")
    assert "positionInLine" not in seen["status"]
    await site.admin.wait_for(earlier.path, lambda found: found["status"].get("positionInLine") == 1)


async def test_a_grant_grows_where_there_is_room_and_waits_with_words_where_not(site: Site) -> None:
    pool = await site.pool([2, 1])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8, placement="AnyFabric")
    await site.running(await site.pod(tenant, 8))
    second = await site.pod(tenant, 8)
    await site.told_to_wait(second)
    await site.change(grant, gpus=16)
    await _allocated(site, grant, 16)
    await site.running(second)
    other = await site.tenant(pool)
    await site.grant(other, pool, 8)
    await site.change(grant, gpus=24)
    told = await site.told(grant, "Allocated", "GrowthWaitlisted")
    assert told["message"].startswith("has 16 of 24 GPUs; 1 more server")
    assert reason(await site.admin.get(grant.path), "Ready") == "Active"


async def test_a_grant_that_shrinks_below_what_runs_starts_nothing_and_says_so(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 16)
    pods = [await site.pod(tenant, 8) for _ in range(2)]
    await site.running(*pods)
    await site.change(grant, gpus=8)
    await site.told(grant, "EvictionNotEnforced", "NotEnforced")
    late = await site.pod(tenant, 8)
    await site.told_to_wait(late)
    await site.admin.delete(pods[0])
    await _allocated(site, grant, 8)
    await site.told_to_wait(late)
    await site.admin.delete(pods[1])
    await site.running(late)


async def test_shared_servers_hold_one_tenant_each(site: Site) -> None:
    pool = await site.pool([3])
    tenants = [await site.tenant(pool) for _ in range(2)]
    for tenant in tenants:
        await site.grant(tenant, pool, 6, placement="SharedServers")
    ran = await site.running(*[await site.pod(tenant, 2) for tenant in tenants for _ in range(3)])
    where = [pod["spec"]["nodeName"] for pod in ran]
    assert len(set(where[:3])) == 1
    assert len(set(where[3:])) == 1
    assert where[0] != where[3]
    for tenant, server in zip(tenants, (where[0], where[3]), strict=True):
        await site.node(server, lambda node, who=tenant.name: node["metadata"]["labels"][names.SHARED_FOR_LABEL] == who)


# -- suspension, start, end --------------------------------------------------------------------------


async def test_a_grant_on_hold_starts_nothing_and_a_drained_one_runs_nothing(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    runs = await site.pod(tenant, 2)
    await site.running(runs)
    await site.change(grant, suspend="Hold")
    await site.ready(grant, "Suspended")
    late = await site.pod(tenant, 2)
    await site.told_to_wait(late, f"grant {grant.name} is suspended")
    assert is_running(await site.admin.get(runs))
    await site.change(grant, suspend="None")
    await site.running(late)
    await site.change(grant, suspend="Drain")
    assert (await site.event(late, "Evicting"))["message"].startswith(f"grant {grant.name} is suspended with Drain")
    await site.admin.wait_gone(runs)
    await site.admin.wait_gone(late)


async def test_a_grant_starts_to_the_second(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    start = at(5)
    grant = await site.grant(tenant, pool, 8, start=start, wait="Scheduled")
    path = await site.pod(tenant, 8)
    await site.told_to_wait(path, f"grant {grant.name} starts on {start}")
    await site.running(path)
    assert 0 <= await _scheduled_at(site, path) - seconds_of(start) <= 1
    await site.ready(grant, "Active")


async def test_a_successor_waits_for_the_grace_of_who_was_there_before(site: Site) -> None:
    pool = await site.pool([1])
    before, after = await site.tenant(pool), await site.tenant(pool)
    end, grace = at(8), 5
    ending = await site.grant(before, pool, 8, end=end, grace=grace)
    old = await site.pod(before, 8)
    await site.running(old)
    coming = await site.grant(after, pool, 8, start=end, wait="Scheduled")
    new = await site.pod(after, 8)
    await site.ready(ending, "Grace")
    seen = await site.ready(coming, "PredecessorInGrace")
    assert f"1 of 1 server still used by {before.namespace}/{ending.name}" in condition(seen, "Ready")["message"]
    late = await site.pod(before, 1)
    await site.told_to_wait(late, f"grant {ending.name} ended on {end}")
    assert is_running(await site.admin.get(old))
    assert gates(await site.admin.get(new)) == [names.GATE]
    await site.admin.wait_gone(old)
    await site.running(new)
    assert grace <= await _scheduled_at(site, new) - seconds_of(end) <= grace + 3
    await site.ready(ending, "Ended")


async def test_an_end_that_came_while_the_operator_was_away_is_enforced_on_its_return(
    site: Site, operator: OperatorProcess
) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    end = at(6)
    grant = await site.grant(tenant, pool, 8, end=end, grace=0)
    path = await site.pod(tenant, 8)
    await site.running(path)
    operator.stop()
    try:
        # An event of any kind cannot be waited for: that nothing happens is the point.
        await asyncio.sleep(max(0.0, seconds_of(end) + 1 - seconds_of(at(0))))
        assert is_running(await site.admin.get(path))
    finally:
        await operator.start(site.admin)
    await site.admin.wait_gone(path)
    await site.ready(grant, "Ended")


# -- rules that come later than the grant ------------------------------------------------------------


async def test_a_conflict_of_interest_found_later_lets_run_what_runs_and_starts_nothing(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    runs = await site.pod(tenant, 4)
    await site.running(runs)
    await site.admin.patch(tenant.quota_path, {"spec": {"affiliatedProviders": [pool.provider]}})
    await site.told(grant, "Accepted", "ConflictOfInterest")
    late = await site.pod(tenant, 1)
    await site.told_to_wait(late, f"grant {grant.name} is rejected: {pool.provider} supplies {pool.programme}")
    assert is_running(await site.admin.get(runs))
    await site.admin.patch(tenant.quota_path, {"spec": {"affiliatedProviders": []}})
    await site.running(late)


async def test_a_lowered_quota_starts_nothing_above_it(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool, gpus=16)
    grant = await site.grant(tenant, pool, 16)
    runs = [await site.pod(tenant, 8) for _ in range(2)]
    await site.running(*runs)
    limit = {"programme": pool.programme, "gpuType": pool.gpu_type, "share": "Public", "gpus": 8}
    await site.admin.patch(tenant.quota_path, {"spec": {"limits": [limit]}})
    await site.told(grant, "Accepted", "ExceedsTenantQuota")
    late = await site.pod(tenant, 8)
    await site.admin.delete(runs[0])
    await site.admin.wait_gone(runs[0])
    await site.told_to_wait(late)
    assert is_running(await site.admin.get(runs[1]))
    await site.admin.patch(tenant.quota_path, {"spec": {"limits": [{**limit, "gpus": 16}]}})
    await site.running(late)


# -- pools -------------------------------------------------------------------------------------------


async def test_an_npu_pool_works_by_applying_it(site: Site) -> None:
    provider = site.name("cloud")
    servers = [await site.server(provider, "ATOM-MAX", f"{provider}-f1", resource=ATOM) for _ in range(2)]
    name = site.name("pool")
    pool = Pool(name, provider, provider, "ATOM-MAX", tuple(servers))
    await site.make({
        "apiVersion": names.API_VERSION, "kind": "GpuPool", "metadata": {"name": name},
        "spec": {"programme": provider, "provider": provider, "gpuType": "ATOM-MAX", "resourceName": ATOM,
                 "nodeSelector": {"matchLabels": {names.PROVIDER_LABEL: provider, "gpugrant.io/product": "ATOM-MAX"}}}})
    for server in servers:
        await site.node(server, lambda node: any(
            taint["key"] == ATOM and taint["effect"] == "NoSchedule" for taint in node["spec"].get("taints", ())))
    for policy in (names.POLICY_GATE, names.POLICY_FENCE, names.POLICY_EXEMPT):
        await _policy_names(site, "mutatingadmissionpolicies", policy, True)
    for policy in (names.POLICY_GUARD, names.POLICY_TENANT_PODS):
        await _policy_names(site, "validatingadmissionpolicies", policy, True)
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    await _until_gated(site, tenant)
    ran, behind = [await site.pod(tenant, 8, resource=ATOM) for _ in range(2)]
    [pod] = await site.running(ran)
    assert {"key": ATOM, "operator": "Exists", "effect": "NoSchedule"} in pod["spec"]["tolerations"]
    await site.told_to_wait(behind, f"grant {grant.name} (8 GPUs, ATOM-MAX) has 0 free")
    await site.told_to_wait(await site.pod(tenant, 1), "nvidia.com/gpu")
    for path in (ran, behind):
        await site.admin.delete(path)
        await site.admin.wait_gone(path)
    await site.admin.delete(grant.path)
    await site.admin.delete(pool.path)
    for server in servers:
        await site.node(server, lambda node: not node["spec"].get("taints")
                        and not any(key in node["metadata"]["labels"] for key in names.NODE_LABELS))
        await site.admin.delete(f"/api/v1/nodes/{server}")
    await _policy_names(site, "mutatingadmissionpolicies", names.POLICY_GATE, False)
    await _policy_names(site, "validatingadmissionpolicies", names.POLICY_GUARD, False)


async def _until_gated(site: Site, tenant: Tenant) -> None:
    """Wait until a changed policy acts: that is told by a pod alone."""
    probe, pods = a_pod("probe", tenant.namespace, 1, resource=ATOM), f"/api/v1/namespaces/{tenant.namespace}/pods"

    async def is_gated() -> bool:
        try:
            return names.GATE in gates(await site.admin.send("POST", pods, probe, params={"dryRun": "All"}))
        except Refused:  # between the old policies and the new ones nothing gets in
            return False

    async with asyncio.timeout(10):
        while not await is_gated():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def _policy_names(site: Site, kind: str, policy: str, wanted: bool) -> None:
    path = f"/apis/admissionregistration.k8s.io/v1/{kind}/{policy}"
    await site.admin.wait_for(path, lambda seen: (f"'{ATOM}'" in str(seen["spec"])) is wanted)


async def test_a_pool_under_delivery_is_all_public_says_what_is_missing_and_fills_up(site: Site) -> None:
    pool = await site.pool([2], publicShare={"gpus": 24})
    short = await site.admin.wait_for(pool.path, lambda seen: reason(seen, "ShareMet") == "ShareShort")
    assert condition(short, "ShareMet")["message"] == "public share 8 GPUs short of the promise of 24"
    tenant = await site.tenant(pool)
    await site.grant(tenant, pool, 16)
    waits = await site.grant(tenant, pool, 8, wait="Waitlisted")
    await site.running(await site.pod(tenant, 8))
    for _ in range(2):
        await site.server(pool.provider, pool.gpu_type, f"{pool.provider}-f2")
    await site.admin.wait_for(pool.path, lambda seen: reason(seen, "ShareMet") == "ShareMet"
                              and seen["status"]["public"]["installed"] == 24
                              and seen["status"]["ownUse"]["installed"] == 8)
    await site.ready(waits, "Active")


async def test_the_public_share_takes_whole_fabrics_first_and_stays_where_it_is(
    site: Site, operator: OperatorProcess
) -> None:
    pool = await site.pool([1, 3, 2], publicShare={"gpus": 32})

    async def shares() -> dict[str, str]:
        seen = {}
        for server in pool.servers:
            node = await site.node(server, lambda node: names.SHARE_LABEL in node["metadata"]["labels"])
            seen[server] = node["metadata"]["labels"][names.SHARE_LABEL]
        return seen

    before = await shares()
    assert list(before.values()) == ["Public"] * 4 + ["OwnUse"] * 2
    await operator.restart()
    await site.server(pool.provider, pool.gpu_type, f"{pool.provider}-f3")
    await site.admin.wait_for(pool.path, lambda seen: seen["status"]["servers"] == 7)
    assert await shares() == before


async def test_nodes_that_two_pools_claim_are_nobodys_and_both_say_so(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    rival = site.name("pool")
    await site.make({"apiVersion": names.API_VERSION, "kind": "GpuPool", "metadata": {"name": rival}, "spec": {
        "programme": pool.programme, "provider": pool.provider, "gpuType": pool.gpu_type,
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": pool.servers[1]}}}})
    path = pool.path.rpartition("/")[0]
    for mine, other in ((pool.name, rival), (rival, pool.name)):
        seen = await site.admin.wait_for(f"{path}/{mine}", lambda found: reason(found, "NodesValid") == "ClaimedTwice")
        assert condition(seen, "NodesValid")["message"].startswith(f"1 node also match {other} ({pool.servers[1]})")
    assert (await site.admin.get(pool.path))["status"]["servers"] == 1
    await site.grant(tenant, pool, 8)
    [pod] = await site.running(await site.pod(tenant, 8))
    assert pod["spec"]["nodeName"] == pool.servers[0]
    await site.admin.delete(f"{path}/{rival}")
    await site.admin.wait_for(pool.path, lambda found: found["status"]["servers"] == 2)


async def test_a_lost_server_degrades_its_grant_and_nothing_new_goes_there(site: Site) -> None:
    pool = await site.pool([2])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 16)
    lost, healthy = pool.servers
    await lose_server(site.admin, lost)
    told = await site.told(grant, "Degraded", "SeatsFailed")
    assert told["message"].startswith(f"node {lost} NotReady since ")
    assert told["message"].endswith("; 8 of 16 GPUs failed")
    [pod] = await site.running(await site.pod(tenant, 8))
    assert pod["spec"]["nodeName"] == healthy
    late = await site.pod(tenant, 8)
    await site.told_to_wait(late, "not where this fits")
    await bring_server_back(site.admin, lost)
    await site.told(grant, "Degraded", "AllHealthy")
    await site.running(late)


async def test_seats_the_device_plugin_calls_unhealthy_are_not_given_out(site: Site) -> None:
    pool = await site.pool([1])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 8)
    await set_unhealthy(site.admin, pool.servers[0], 3)
    assert "has 3 unhealthy GPUs; 3 of 8" in (await site.told(grant, "Degraded", "SeatsFailed"))["message"]
    await site.running(await site.pod(tenant, 5))
    late = await site.pod(tenant, 1)
    await site.told_to_wait(late, "has 3 free, but not where this fits")
    await set_unhealthy(site.admin, pool.servers[0], 0)
    await site.running(late)


# -- the API server goes away ------------------------------------------------------------------------


def _is_between(pod: JsonObject) -> bool:
    """Say whether a pod was released and does not run yet, or is going."""
    return "deletionTimestamp" in pod["metadata"] or not (gates(pod) or is_running(pod))


async def _any_bound(site: Site, tenant: Tenant) -> None:
    async with asyncio.timeout(30):
        async for _, pod in site.admin.watch(f"/api/v1/namespaces/{tenant.namespace}/pods"):
            if is_bound(pod):
                return


@pytest.mark.parametrize("kill", [pytest.param(False, id="stopped"), pytest.param(True, id="killed")])
async def test_a_burst_survives_the_api_servers_restart(
    site: Site, operator: OperatorProcess, installed: ControlPlane, kill: bool
) -> None:
    pool = await site.pool([4])
    tenant = await site.tenant(pool)
    grant = await site.grant(tenant, pool, 32)
    pid = operator.pid
    # What was released and not bound while the API server was away may be taken back: its controller replaces it.
    await site.admin.create({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "burst", "namespace": tenant.namespace},
        "spec": {"replicas": 40, "selector": {"matchLabels": {"app": "burst"}}, "template": {
            "metadata": {"labels": {"app": "burst"}}, "spec": a_pod("burst", tenant.namespace, 1)["spec"]}}})
    await _any_bound(site, tenant)
    await asyncio.to_thread(installed.restart_apiserver, kill=kill)

    async def settled() -> list[JsonObject]:
        collection = f"/api/v1/namespaces/{tenant.namespace}/pods"
        async with asyncio.timeout(60):
            while True:
                answer = await site.admin.get(collection)
                pods: list[JsonObject] = answer["items"]
                if sum(map(is_running, pods)) == 32 and len(pods) == 40 and not any(map(_is_between, pods)):
                    return pods
                async for _ in site.admin.watch(collection, resourceVersion=answer["metadata"]["resourceVersion"]):
                    break

    pods = await settled()
    assert len(pods) == 40
    assert sum(map(is_running, pods)) == 32
    waits = [pod for pod in pods if not is_running(pod)]
    assert all(gates(pod) == [names.GATE] for pod in waits)
    for pod in waits:
        await site.told_to_wait(f"/api/v1/namespaces/{tenant.namespace}/pods/{pod['metadata']['name']}", grant.name)
    assert all(waiting(pod) == "" for pod in pods if is_running(pod))
    assert operator.pid == pid, "it need not end for that"
    await site.admin.wait_for(grant.path, lambda seen: seen["status"]["usage"]["held"] == 32)
