"""RBAC as narrow as it can be: what the API server's audit log says the operator asked for is what it may, no more."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from chart.helm import CHART
from chart.rights import Right, asked, granted
from cluster_kit.operator import OperatorProcess
from cluster_kit.site import Site, at, gates
from contract.recorder import Recorder
from devcluster.client import KubeClient, load_manifests, path_of
from devcluster.controlplane import ControlPlane
from devcluster.credentials import write_kubeconfig
from devcluster.install import MANIFESTS, ROOT, apply_settings, install
from gpugrant import names
from gpugrant.act.writer import Writer
from gpugrant.decide.actions import WriteServer
from gpugrant.observe.client import Client
from gpugrant.observe.credentials import Credentials
from gpugrant.observe.observer import Observer

USER = f"system:serviceaccount:{names.SYSTEM_NAMESPACE}:{names.SERVICE_ACCOUNT}"
SETTINGS = "period: 3600s\nbindTimeoutSeconds: 3\ngracePeriodCeilingSeconds: 2\n"
UNINSTALL = CHART / "uninstall" / "rbac.yaml"


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[ControlPlane]:
    """Start a control plane that notes every request."""
    plane = ControlPlane(tmp_path / "control-plane", audit=True)
    plane.start(guarded=True)
    try:
        yield plane
    finally:
        plane.stop(at_once=True)


@pytest.fixture
async def admin(audited: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(audited.server, audited.ca_file, audited.admin_token) as client:
        yield client


async def test_the_operator_asks_for_all_that_it_may_and_for_nothing_that_it_may_not(
    audited: ControlPlane, admin: KubeClient, tmp_path: Path
) -> None:
    await install(admin)
    await apply_settings(admin, SETTINGS)
    site, operator = Site(admin), OperatorProcess(audited, tmp_path)
    await operator.start(admin)
    try:
        await _a_day_of_everything(site, audited)
        await _a_node_that_moved(admin, audited, await site.server())
    except TimeoutError:
        assert _refused(audited) == [], "the roles lack these"
        raise
    finally:
        operator.stop()
    for manifest in load_manifests(UNINSTALL):
        await admin.apply(manifest)
    for kind in ("GpuPool", "TenantQuota", "GpuGrant", "UsageReport"):
        (one, *_) = await admin.list(path_of(names.API_VERSION, kind))
        path = path_of(names.API_VERSION, kind, one["metadata"].get("namespace"), one["metadata"]["name"])
        await admin.patch(path, {"metadata": {"finalizers": ["gpugrant.io/kopf"]}})
    await _uninstall(admin, audited, tmp_path)

    may = granted(load_manifests(MANIFESTS / "10-rbac.yaml", UNINSTALL), ("gpugrant", "gpugrant-uninstall"))
    did = list(asked(audited.audit_log, USER))
    assert _refused(audited) == [], "the roles lack these"
    used = {right for right, _, _ in did}
    unused = sorted(right for right in may if not any(right.covers(each) for each in used))
    assert unused == [], "take these out of the roles"
    # What only the uninstall may, the operator never asked for.
    ends = granted(load_manifests(UNINSTALL), ("gpugrant-uninstall",))
    running = {right for right, _, agent in did if agent != "gpugrant-uninstall"}
    assert not [each for each in running if any(right.covers(each) for right in ends)]


def _refused(plane: ControlPlane) -> list[Right]:
    return sorted({right for right, allowed, _ in asked(plane.audit_log, USER) if not allowed})


def test_a_right_that_nobody_uses_and_a_request_that_nobody_allows_are_told_apart() -> None:
    """That the comparison can fail, both ways."""
    wide = Right("", "", "pods", "get")
    assert wide.covers(Right("any", "", "pods", "get", "x"))
    assert not wide.covers(Right("any", "", "pods/log", "get", "x"))
    narrow = Right("here", "", "configmaps", "list", "one")
    assert narrow.covers(Right("here", "", "configmaps", "list", "one"))
    assert not narrow.covers(Right("there", "", "configmaps", "list", "one"))
    assert not narrow.covers(Right("here", "", "configmaps", "list", ""))


# -- the work --------------------------------------------------------------------------------------------


async def _a_day_of_everything(site: Site, plane: ControlPlane) -> None:
    """Release, bind, wait, take back, end a term over a budget, change the policies' lists, open a month."""
    pool = await site.pool([1, 1, 1])
    tenant = await site.tenant(pool)
    short = await site.grant(tenant, pool, 8, end=at(12), grace=1)
    grant = await site.grant(tenant, pool, 8)
    await site.make({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "never", "namespace": tenant.namespace},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "stubborn"}}}})
    stubborn = await site.pod(tenant, 8, grant=short, labels={"app": "stubborn"})
    await site.running(stubborn)
    await site.told_to_wait(await site.pod(tenant, 8, grant=short))
    plane.stop_component("kube-scheduler")
    try:
        late = await site.pod(tenant, 8, grant=grant)
        await site.admin.wait_for(late, lambda pod: pod is not None and not gates(pod))
        await site.event(late, "TakenBack", 20)
    finally:
        plane.start_component("kube-scheduler")
    exempt = [*("kube-system", "gpu-operator", names.SYSTEM_NAMESPACE), "monitoring"]
    await apply_settings(site.admin, f"{SETTINGS}exemptNamespaces: {exempt}\n")
    for kind, name in (("ValidatingAdmissionPolicy", names.POLICY_TENANT_PODS),
                       ("MutatingAdmissionPolicy", names.POLICY_EXEMPT)):
        await site.admin.wait_for(path_of("admissionregistration.k8s.io/v1", kind, None, name),
                                  lambda seen: "'monitoring'" in str(seen))
    await site.admin.wait_gone(stubborn, 40)
    await site.ready(short, "Ended")
    report = path_of(names.API_VERSION, "UsageReport")
    async with asyncio.timeout(60):
        async for _, seen in site.admin.watch(report):
            if seen.get("status", {}).get("conditions"):
                return


async def _a_node_that_moved(admin: KubeClient, plane: ControlPlane, server: str) -> None:
    """Let the operator's writer meet taints that are not where it saw them: it looks, and tries again."""
    token = await admin.token_for(names.SYSTEM_NAMESPACE, names.SERVICE_ACCOUNT)
    tls = ssl.create_default_context(cafile=str(plane.ca_file))
    node = f"/api/v1/nodes/{server}"
    async with Client(Credentials(plane.server, tls, token=token)) as client:
        observer = Observer(client, Recorder(), CollectorRegistry(), lambda: 1_795_000_000)
        writer = Writer(client, observer, Recorder(), CollectorRegistry(), lambda: 1_795_000_000)
        await observer.look_once()
        theirs = {"key": "node.example.org/busy", "effect": "NoExecute"}
        await admin.patch(node, {"spec": {"taints": [theirs]}})
        writer.submit([WriteServer(server, (), ("example.org/npu",))])
        seen = await admin.wait_for(node, lambda found: len(found["spec"].get("taints", ())) == 2)
        await writer.land(5)
    assert seen["spec"]["taints"][0] == theirs


async def _uninstall(admin: KubeClient, plane: ControlPlane, folder: Path) -> None:
    kubeconfig = folder / "hook.kubeconfig"
    token = await admin.token_for(names.SYSTEM_NAMESPACE, names.SERVICE_ACCOUNT)
    write_kubeconfig(kubeconfig, plane.server, plane.ca_file, names.SERVICE_ACCOUNT, token)
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "gpugrant", "uninstall", "--kubeconfig", str(kubeconfig)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "operator")}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "own objects: 4 freed of finalizers" in done.stdout
