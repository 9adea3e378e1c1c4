"""The attack tables again, in a cluster that runs: real kubelets, the Node authorizer, and an operator at work."""

import ssl
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import httpx
import pytest

from gpugrant import names
from kind_kit.platform import Platform
from kind_kit.servers import PROVIDER, Servers
from policy.api import Api, eventually
from policy.attempts import KUBELET, Attempt, Refused, judge, rows
from policy.install import wait_until_policies_act
from policy.places import PLACES, furnish
from policy.test_attacks_amounts import DEVICES, HIDING_PLACES, QUANTITIES
from policy.test_attacks_beyond_pods import (  # noqa: F401 (collected here: the same tests, in this cluster)
    test_a_tenant_user_cannot_speak_as_the_operator,
    test_the_operator_may,
    test_the_operator_may_not,
    test_what_only_platform_engineers_write_is_out_of_reach,
)
from policy.test_attacks_gate import BINDING, GATE
from policy.test_attacks_marks import MARKS_AT_CREATION, MARKS_LATER
from policy.test_attacks_placement import PLACEMENT_AT_CREATION, PLACEMENT_LATER, PRIORITY
from policy.test_attacks_places import NOBODY_IS_DISTURBED, OTHER_PLACES, OWN_USE, PEOPLE

from .ledger import Ledger

ATTEMPTS = rows(
    QUANTITIES, HIDING_PLACES, DEVICES, GATE, BINDING, MARKS_AT_CREATION, MARKS_LATER, PLACEMENT_AT_CREATION,
    PLACEMENT_LATER, PRIORITY, PEOPLE, OTHER_PLACES, OWN_USE, NOBODY_IS_DISTURBED)

POOLS = f"/apis/{names.API_VERSION}/gpupools"


def tainted(api: Api, server: str) -> bool:
    """Say whether a server is closed to pods that ask for no GPU."""
    taints = api.get(f"/api/v1/nodes/{server}")["spec"].get("taints", [])
    return any(taint["key"] == names.DEFAULT_RESOURCE for taint in taints)


def with_node_restriction(attempt: Attempt) -> Attempt:
    """Return a kubelet's attempt as it ends where the Node authorizer and NodeRestriction run: they come first."""
    without_the_right = isinstance(attempt.outcome, Refused) and attempt.outcome.says.startswith("cannot ")
    if attempt.who != KUBELET or without_the_right:
        return attempt
    return replace(attempt, outcome=Refused("core", 'node "gpu-0" can only'))


@pytest.fixture(scope="module")
def api(platform: Platform, servers: Servers) -> Iterator[Api]:
    """Furnish the cluster with the tables' places, people and the server that they name; remove them afterwards.

    Meanwhile the workers are a pool, and no other node takes pods: one that is bound got round something.
    """
    cluster = platform.cluster
    api = Api(httpx.Client(
        base_url=cluster.server, headers={"Authorization": f"Bearer {cluster.admin_token}"}, timeout=30,
        verify=ssl.create_default_context(cafile=str(cluster.ca_file))))
    api.must("POST", "/api/v1/nodes", {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "gpu-0"}, "spec": {"unschedulable": True}})
    cluster.kubectl("cordon", platform.postgres.node)
    api.must("POST", POOLS, {
        "apiVersion": names.API_VERSION, "kind": "GpuPool", "metadata": {"name": "attacked"},
        "spec": {"programme": "purchase", "provider": PROVIDER, "gpuType": "NVIDIA-B200"}})
    for server in servers.all:
        eventually(partial(tainted, api, server), f"{server} takes only pods with GPUs")
    furnish(api)
    wait_until_policies_act(api)
    yield api
    for name in PLACES:
        api.must("DELETE", f"/api/v1/namespaces/{name}")
    api.must("DELETE", f"{POOLS}/attacked")
    api.must("DELETE", "/api/v1/nodes/gpu-0")
    cluster.kubectl("uncordon", platform.postgres.node)
    api.client.close()


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_attempt_ends_as_the_table_says(api: Api, attempt: Attempt) -> None:
    judge(api, with_node_restriction(attempt))


def test_none_of_it_held_anything(api: Api, ledger: Ledger) -> None:
    found = {row[0] for row in ledger.execute("select distinct namespace from holdings where seats > 0").fetchall()}
    assert not found & set(PLACES)
