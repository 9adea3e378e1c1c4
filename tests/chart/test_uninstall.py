"""`gpugrant uninstall` where not all is in order: pods that can never bind, taints that move, nothing installed."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from cluster_kit.pods import a_pod, pod_path
from cluster_kit.world import World
from devcluster.client import JSON_PATCH, JsonObject, KubeClient, Refused, load_manifests
from devcluster.controlplane import ControlPlane
from devcluster.install import MANIFESTS, ROOT
from gpugrant import names
from gpugrant.observe.client import Client
from gpugrant.observe.credentials import load_credentials
from gpugrant.run.uninstall import Uninstall, UninstallError


@pytest.fixture
async def bare(plane: ControlPlane) -> AsyncIterator[KubeClient]:
    """Speak to a cluster that has our namespace and nothing else of ours, as the platform engineer."""
    async with KubeClient(plane.server, plane.ca_file, plane.admin_token) as client:
        await client.apply(load_manifests(MANIFESTS / "00-namespace.yaml")[0])
        yield client


FENCE = {names.OWN_USE_LABEL: "gone"}


async def uninstall(plane: ControlPlane, *, release: bool = False) -> list[str]:
    """Run it here, on a cluster where nothing of ours is installed any more, as the platform engineer."""
    told: list[str] = []
    async with Client(load_credentials(str(plane.kubeconfig)), "gpugrant-uninstall") as client:
        await Uninstall(client, told.append, release=release, patience=20).run()
    return told


async def test_pods_that_no_server_will_take_any_more_are_named_or_made_again(
    plane: ControlPlane, bare: KubeClient
) -> None:
    world = World(bare)
    place = await world.plain_namespace()
    alone = a_pod("alone", place, nodeSelector=FENCE)
    await bare.create(alone)
    await bare.create(_deployment("stubborn", place, FENCE))
    stubborn = await _pod_of(bare, place, "stubborn")
    kept = (f"  {place}/alone", f"  {place}/{stubborn['metadata']['name']}")
    told = await uninstall(plane)
    assert [line for line in told if line.startswith("  ")] == sorted(kept)

    told = await uninstall(plane, release=True)
    again = await _pod_of(bare, place, "stubborn", unlike=stubborn)
    # Its template selects such servers itself: it is made again once, and named then.
    assert [line for line in told if line.startswith("  ")] == sorted(
        [f"  {place}/alone", f"  {place}/{again['metadata']['name']}"])
    assert any("1 that waited for a server's label evicted" in line for line in told)
    assert (await bare.get(pod_path(alone)))["spec"]["nodeSelector"] == FENCE
    await world.clean_up()


async def test_taints_that_move_meanwhile_are_everybody_elses_to_keep(plane: ControlPlane, bare: KubeClient) -> None:
    world = World(bare)
    server = await world.server(**{names.POOL_LABEL: "p", names.SHARE_LABEL: "Public"})
    path = f"/api/v1/nodes/{server}"
    ours = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    await bare.patch(path, {"spec": {"taints": [ours]}})
    moving = asyncio.create_task(_keep_changing(bare, path, ours))
    try:
        await uninstall(plane)
    finally:
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
    assert moving.cancelled()  # it did not end before
    keys = [taint["key"] for taint in (await bare.get(path))["spec"].get("taints", ())]
    assert keys and "nvidia.com/gpu" not in keys
    labels = (await bare.get(path))["metadata"]["labels"]
    assert not set(labels) & set(names.NODE_LABELS)
    await world.clean_up()


async def test_a_second_run_beside_the_first_waits_for_it(plane: ControlPlane, bare: KubeClient) -> None:
    """Two of them would be two leaders."""
    first, second = await asyncio.gather(uninstall(plane), uninstall(plane))
    assert first[-1].startswith("kept:") and second[-1].startswith("kept:")


async def test_a_lease_that_somebody_keeps_is_told_and_nothing_is_touched(
    plane: ControlPlane, bare: KubeClient
) -> None:
    world = World(bare)
    server = await world.server(**{names.POOL_LABEL: "p"})
    path = f"/apis/coordination.k8s.io/v1/namespaces/{names.SYSTEM_NAMESPACE}/leases"
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
             "metadata": {"name": names.LEASE, "namespace": names.SYSTEM_NAMESPACE},
             "spec": {"holderIdentity": "elsewhere", "leaseDurationSeconds": 600}}
    await bare.create(lease)
    try:
        async with Client(load_credentials(str(plane.kubeconfig))) as client:
            with pytest.raises(UninstallError, match="elsewhere still leads after 2 s"):
                await Uninstall(client, lambda _: None, release=False, patience=2).run()
        assert names.POOL_LABEL in (await bare.get(f"/api/v1/nodes/{server}"))["metadata"]["labels"]
    finally:
        await bare.delete(f"{path}/{names.LEASE}")
        await world.clean_up()


def test_without_a_cluster_it_says_so_and_fails(plane: ControlPlane) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpugrant", "uninstall", "--kubeconfig", "/nonexistent"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "operator")}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot read kubeconfig /nonexistent" in done.stderr


async def _keep_changing(admin: KubeClient, path: str, ours: JsonObject) -> None:
    """Change a node's taints all the time, as another controller may,: ours, while it is there, behind its own."""
    number = 0
    while True:
        number += 1
        node = await admin.get(path)
        theirs = [{"key": f"node.example.org/n{n}", "effect": "PreferNoSchedule"} for n in range(number % 3 + 1)]
        there = [taint for taint in node["spec"].get("taints", ()) if taint["key"] == ours["key"]]
        try:
            await admin.patch(path, [
                {"op": "test", "path": "/metadata/resourceVersion", "value": node["metadata"]["resourceVersion"]},
                {"op": "add", "path": "/spec/taints", "value": [*theirs, *there]}], JSON_PATCH)
        except Refused as refused:
            if refused.status not in (409, 422):
                raise


def _deployment(name: str, namespace: str, selector: dict[str, str]) -> JsonObject:
    pod = a_pod(name, namespace, nodeSelector=selector)
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": {"labels": {"app": name}}, "spec": pod["spec"]}}}


async def _pod_of(admin: KubeClient, namespace: str, app: str, unlike: JsonObject | None = None) -> JsonObject:
    """Wait for a pod of a Deployment that is not the one known."""
    known = unlike["metadata"]["uid"] if unlike else ""
    async with asyncio.timeout(30):
        async for kind, pod in admin.watch(f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"app={app}"):
            if kind != "DELETED" and pod["metadata"]["uid"] != known and "deletionTimestamp" not in pod["metadata"]:
                return pod
    raise AssertionError("the watch ended")
