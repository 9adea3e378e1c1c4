"""Installed, upgraded, rolled back and uninstalled by the real helm, on a real API server, with grants and pods there.

No kubelet is here: the operator runs beside, as the chart's service account, and so does the command of the hook's Job.
"""

import asyncio
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from chart.helm import (
    CHART,
    CRDS_CHART,
    NAMESPACE,
    PREVIOUS,
    PREVIOUS_CRDS,
    PREVIOUS_WHEEL,
    VALUES,
    Helm,
    HelmFailed,
)
from chart.lives import (
    ADMISSION,
    ATOM,
    Doorkeeper,
    Inhabitants,
    hook_of,
    keeps_watching,
    remains,
    uninstall_in_vain,
    uninstall_with_hook,
    until_gated,
)
from cluster_kit.operator import OperatorProcess
from cluster_kit.pods import a_pod, condition
from cluster_kit.site import Site
from devcluster.client import APPLY, JsonObject, KubeClient, Refused, load_manifests, object_path
from devcluster.controlplane import ControlPlane
from devcluster.install import MANIFESTS, apply_settings, wait_until_walls_stand
from gpugrant.act.policies import exempt_of, resources_of

Row = tuple[str, int, int, int | None]  # uid, seats, held from, held until
SETTINGS = """
bindTimeoutSeconds: 5
gracePeriodCeilingSeconds: 5
exemptNamespaces: [kube-system, gpu-operator, gpugrant-system, monitoring]
"""


@pytest.fixture
async def admin(plane: ControlPlane) -> AsyncIterator[KubeClient]:
    """Speak to this folder's control plane as the platform engineer; the operator's namespace is there."""
    async with KubeClient(plane.server, plane.ca_file, plane.admin_token) as client:
        await client.apply(load_manifests(MANIFESTS / "00-namespace.yaml")[0])
        yield client


async def run(helm: Helm, *arguments: str | Path) -> str:
    return await asyncio.to_thread(helm.run, *arguments)


# -- what the API server says of what is rendered --------------------------------------------------------


@pytest.mark.parametrize("values", sorted(VALUES.glob("*.yaml")), ids=lambda values: values.stem)
async def test_the_api_server_takes_everything_in_a_dry_run_and_the_pods_are_restricted(
    plane: ControlPlane, admin: KubeClient, helm: Helm, values: Path
) -> None:
    await admin.apply(_service_monitors())
    await admin.wait_for(object_path(_service_monitors()),
                         lambda seen: condition(seen, "Established").get("status") == "True")
    for each in await asyncio.to_thread(helm.template, CHART, "--values", values):
        params = {"dryRun": "All", "fieldManager": "test", "force": "true", "fieldValidation": "Strict"}
        path = object_path({**each, "metadata": {"namespace": NAMESPACE, **each["metadata"]}})
        taken = await admin.send("PATCH", path, each, content_type=APPLY, params=params)
        assert taken["metadata"]["name"] == each["metadata"]["name"]
        if each["kind"] in ("Deployment", "Job"):
            # The namespace enforces Pod Security `restricted`: a pod that does not pass is refused. Its account
            # comes with the chart, so it is left out here.
            template = each["spec"]["template"]
            spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try", "namespace": NAMESPACE},
                   "spec": spec}
            await admin.wait_for(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default", bool)
            await admin.send("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", pod, params={"dryRun": "All"})
    with pytest.raises(Refused, match="restricted"):
        await admin.create(a_pod("lax", NAMESPACE))


def _service_monitors() -> JsonObject:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "servicemonitors.monitoring.coreos.com",
                     "annotations": {"api-approved.kubernetes.io": "unapproved, a test's"}},
        "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced",
                 "names": {"kind": "ServiceMonitor", "plural": "servicemonitors"},
                 "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]},
    }


# -- from the first install to the last trace --------------------------------------------------------------


async def test_grants_and_pods_live_through_upgrade_and_rollback_and_nothing_of_ours_is_left_in_the_end(
    plane: ControlPlane, admin: KubeClient, helm: Helm, tmp_path: Path
) -> None:
    site, operator = Site(admin), OperatorProcess(plane, tmp_path)
    todays, previous = operator.package, tmp_path / "previous"
    zipfile.ZipFile(PREVIOUS_WHEEL).extractall(previous)
    tenant, own = await site.tenant_namespace(), await site.provider_namespace("cloud")
    async with Doorkeeper(admin, tenant) as door:
        await run(helm, "install", "gpugrant-crds", PREVIOUS_CRDS)
        await run(helm, "install", "gpugrant", PREVIOUS, "--set", "manageSettings=false")
        await apply_settings(admin, SETTINGS)
        await wait_until_walls_stand(admin)
        await door.sees("gated")
    assert not door.opened_again("open"), door.seen
    try:
        await exchange(operator, previous, admin)
        there = await Inhabitants.settle(site, tenant, own)
        before = await there.look(admin)
        held = await booked(operator, {uid for uid, *_ in before["pods"]})

        async with keeps_watching(admin, f"{ADMISSION}/mutatingadmissionpolicies", "gpugrant-gate") as versions:
            await run(helm, "upgrade", "gpugrant-crds", CRDS_CHART)
            await run(helm, "upgrade", "gpugrant", CHART, "--reuse-values")
            assert _chart(await admin.get(_DEPLOYMENT)) == "gpugrant-0.3.0"
        assert all(ATOM in resources_of(each) for each in versions), "the gate was open for a resource in use"
        assert all("monitoring" in exempt_of(each) for each in versions), "an exempt namespace was not"
        assert await there.look(admin) == before
        await exchange(operator, todays, admin)
        assert (await there.look(admin), holds(operator)) == (before, held)

        await run(helm, "rollback", "gpugrant", "1")
        assert _chart(await admin.get(_DEPLOYMENT)) == "gpugrant-0.2.0"
        await exchange(operator, previous, admin)
        await until_gated(admin, tenant, ATOM)
        assert (await there.look(admin), holds(operator)) == (before, held)
        await run(helm, "upgrade", "gpugrant", CHART, "--reuse-values", "--set", "uninstall.waiting=Release")
        await exchange(operator, todays, admin)
        assert (await there.look(admin), holds(operator)) == (before, held)
        verify = [sys.executable, "-m", "gpugrant", "ledger", "verify", "--ledger", f"sqlite:///{operator.ledger}"]
        verified = await asyncio.to_thread(subprocess.run, verify, capture_output=True, text=True, check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr

        # Not while an operator leads, who would put everything back.
        async with hook_of(helm, plane, admin, tmp_path) as hook:
            refused = await hook.run("--patience", "2")
            assert refused.returncode == 1
            assert "still leads after 2 s" in refused.stderr
            assert (await admin.get(_DEPLOYMENT))["spec"]["replicas"] == 0
            assert await there.look(admin) == before
            operator.stop()
            done = await hook.run("--waiting", "list")
            assert done.returncode == 0, done.stderr
            assert f"  {tenant}/{there.waiting.rpartition('/')[2]}  waiting for 8 GPUs" in done.stdout
            assert "nodes: 4 freed of labels and taint" in done.stdout
            assert "2 pools, 1 quota, 2 grants" in done.stdout
            assert await remains(admin) == [there.waiting + " gate"]
            assert "waiting for 8 GPUs" in (await hook.run("--waiting", "list")).stdout  # a second log says it too

            # helm has deleted nothing yet: an upgrade to what is there takes it all back.
            await run(helm, "upgrade", "gpugrant", CHART, "--reuse-values")
            await wait_until_walls_stand(admin)
            assert (await admin.get(_DEPLOYMENT))["spec"]["replicas"] == 1
            again = await hook.run("--waiting", "list")
            assert again.returncode == 0, again.stderr
    finally:
        operator.stop()
    assert "gpugrant-uninstall" in await uninstall_in_vain(helm, admin)
    assert await admin.get(_DEPLOYMENT) and (await there.look(admin))["pods"] == before["pods"]
    # Once more, and from helm's own hand: its hook finds little left to do, and lets go what waits.
    async with Doorkeeper(admin, tenant) as door:
        await door.sees("refused")
        told = await uninstall_with_hook(helm, hook, admin)
        await door.sees("open")
    assert door.seen == ["refused", "open"]  # the guard went last
    assert "nodes: 0 freed" in told and "run on" not in told
    assert "1 released from the gate" in told
    assert await remains(admin) == []
    left = await admin.list(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims")
    assert [each["metadata"]["name"] for each in left] == ["gpugrant-data"]
    for kind in ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings", "validatingadmissionpolicies",
                 "validatingadmissionpolicybindings"):
        assert not [each for each in await admin.list(f"{ADMISSION}/{kind}") if "gpugrant" in str(each["metadata"])]
    assert (await there.look(admin))["pods"] == before["pods"]  # what ran runs, and the released one waits no more

    # The claim and the kinds that stayed are no obstacle to coming back.
    await run(helm, "uninstall", "gpugrant-crds")
    assert await admin.get(there.grants[0].path)
    await run(helm, "install", "gpugrant-crds", CRDS_CHART)
    await run(helm, "install", "gpugrant", CHART, "--set", "manageSettings=false")
    await wait_until_walls_stand(admin)
    await run(helm, "uninstall", "gpugrant", "--no-hooks")
    await site.clean_up()  # namespaces go: nothing holds a pod


async def exchange(operator: OperatorProcess, package: Path, admin: KubeClient) -> None:
    """Start another version of the operator in the place of the one that runs, as a Deployment does."""
    operator.stop()
    operator.package = package
    await operator.start(admin)


async def booked(operator: OperatorProcess, uids: set[str]) -> list[Row]:
    """Wait until the ledger has these pods, and no others; return its rows."""
    async with asyncio.timeout(10):
        while {row[0] for row in holds(operator)} != uids:  # noqa: ASYNC110 (a file has no watch)
            await asyncio.sleep(0.1)
    return holds(operator)


def holds(operator: OperatorProcess) -> list[Row]:
    """Return what the ledger has of pods."""
    with closing(sqlite3.connect(operator.ledger)) as connection:
        return connection.execute("select uid, seats, held_from, held_until from holdings order by uid").fetchall()


_DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/gpugrant"


def _chart(found: JsonObject) -> str:
    return str(found["metadata"]["labels"]["helm.sh/chart"])


async def test_it_says_what_is_wrong_where_it_goes_elsewhere(admin: KubeClient, helm: Helm) -> None:
    with pytest.raises(HelmFailed, match="Use: --namespace gpugrant-system"):
        await asyncio.to_thread(helm.run, "install", "gpugrant", CHART, namespace="default")
