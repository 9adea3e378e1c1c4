"""What the life of a release is tested with: who lives there, what remains, the hook, and who keeps watch."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from chart.helm import NAMESPACE, Helm, HelmFailed, objects
from cluster_kit.pods import a_pod
from cluster_kit.site import Grant, Pool, Site, Tenant, gates
from devcluster.client import JsonObject, KubeClient, Refused, object_path, path_of
from devcluster.controlplane import ControlPlane
from devcluster.credentials import write_kubeconfig
from devcluster.install import ROOT
from gpugrant import names

ATOM = "rebellions.ai/ATOM"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"

# -- what lives there ----------------------------------------------------------------------------------------


@dataclass
class Inhabitants:
    """Two pools of two servers, a tenant with pods that run and one that waits, a provider's own pod."""

    grants: list[Grant]
    running: list[str]
    waiting: str

    @classmethod
    async def settle(cls, site: Site, namespace: str, own: str) -> "Inhabitants":
        admin = site.admin
        tenant = Tenant(namespace)
        pool = await site.pool((2,), provider="cloud", publicShare={"gpus": 8})
        atoms = [await site.server("npus", "ATOM", "npus-f1", resource=ATOM) for _ in range(2)]
        await site.make({
            "apiVersion": names.API_VERSION, "kind": "GpuPool", "metadata": {"name": "atoms"},
            "spec": {"programme": "cloud", "provider": "npus", "gpuType": "ATOM", "resourceName": ATOM,
                     "nodeSelector": {"matchLabels": {names.PROVIDER_LABEL: "npus"}}}})
        limits = [{"programme": "cloud", "gpuType": kind, "share": "Public", "gpus": 16}
                  for kind in (pool.gpu_type, "ATOM")]
        await site.make({"apiVersion": names.API_VERSION, "kind": "TenantQuota", "metadata": {"name": namespace},
                         "spec": {"limits": limits}})
        for name in atoms:
            await site.node(name, lambda node: node["metadata"]["labels"].get(names.POOL_LABEL) == "atoms")
        await until_gated(admin, namespace, ATOM)
        grants = [await site.grant(tenant, pool, 8)]
        atom_pool = Pool("atoms", "cloud", "npus", "ATOM", tuple(atoms))
        grants.append(await site.grant(tenant, atom_pool, 16))
        running = [await site.pod(tenant, 8, grant=grants[0])]
        await site.running(running[0])
        running.append(await site.pod(tenant, 4, resource=ATOM, grant=grants[1]))
        running.append(await site.pod(own, 2))
        await site.running(*running)
        waiting = await site.pod(tenant, 8, grant=grants[0])
        await site.told_to_wait(waiting, "waiting for 8 GPUs")
        return cls(grants, running, waiting)

    async def look(self, admin: KubeClient) -> dict[str, Any]:
        """Return who runs where, and what the grants say."""
        pods = [await admin.get(path) for path in self.running]
        grants = [await admin.get(grant.path) for grant in self.grants]
        return {
            "pods": [(each["metadata"]["uid"], each["spec"]["nodeName"], each["status"]["phase"]) for each in pods],
            "grants": [(each["metadata"]["uid"], each["status"]["allocation"]["servers"]) for each in grants],
        }


async def until_gated(admin: KubeClient, namespace: str, resource: str, seconds: float = 70) -> None:
    """Wait until the policies act on pods that ask for a resource; only a pod can tell."""
    async with asyncio.timeout(seconds):
        while True:
            pod = a_pod("try", namespace, 1, resource=resource, labels={names.GRANT_LABEL: "any"})
            try:
                path = path_of("v1", "Pod", namespace)
                if names.GATE in gates(await admin.send("POST", path, pod, params={"dryRun": "All"})):
                    return
            except Refused as refused:
                if refused.status not in (403, 422):
                    raise
            await asyncio.sleep(0.1)


async def remains(admin: KubeClient) -> list[str]:
    """Return everything of ours that is still on nodes, pods, namespaces and our own kinds."""
    found = []
    # People set these.
    kept = {names.PROVIDER_LABEL, names.FABRIC_LABEL, names.TENANT_LABEL, "gpugrant.io/product",
            names.RUN_SECONDS_ANNOTATION}
    kinds = [("v1", "Node"), ("v1", "Pod"), ("v1", "Namespace"),
             *((names.API_VERSION, kind) for kind in ("GpuPool", "TenantQuota", "GpuGrant"))]
    for api_version, kind in kinds:
        for each in await admin.list(path_of(api_version, kind)):
            meta = each["metadata"]
            path = object_path(each | {"apiVersion": api_version, "kind": kind})
            marks = [*(meta.get("labels") or {}), *(meta.get("annotations") or {}), *(meta.get("finalizers") or ())]
            # A label that the tenant itself put on a pod which was never released stays its own.
            mine = {names.GRANT_LABEL} if kind == "Pod" and _by_hand(each) else set()
            if kind == "Pod" and names.GATE in gates(each):
                mine.add(names.WAITING_ANNOTATION)  # as long as the gate is there, it says why
            found += [f"{path} {mark}" for mark in marks if "gpugrant.io/" in mark and mark not in kept | mine]
            found += [f"{path} taint" for taint in each.get("spec", {}).get("taints") or ()
                      if taint["key"] in (names.DEFAULT_RESOURCE, ATOM)]
            if kind == "Pod" and names.GATE in gates(each):
                found.append(f"{path} gate")
    leases = await admin.list(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")
    return found + [each["metadata"]["name"] for each in leases]


def _by_hand(pod: JsonObject) -> bool:
    return not any(key.startswith("gpugrant.io/") for key in pod["spec"].get("nodeSelector") or ())


# -- the hook ------------------------------------------------------------------------------------------------


class Hook:
    """`gpugrant uninstall` as the hook's Job runs it."""

    def __init__(self, kubeconfig: Path, arguments: list[str]) -> None:
        self._kubeconfig, self._arguments = kubeconfig, arguments

    async def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run it with more arguments, to its end."""
        command = [sys.executable, "-m", "gpugrant", *self._arguments, *arguments,
                   "--kubeconfig", str(self._kubeconfig)]
        return await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "operator")})


@asynccontextmanager
async def hook_of(helm: Helm, plane: ControlPlane, admin: KubeClient, folder: Path) -> AsyncIterator[Hook]:
    """What helm does for the hook, but for its Job: its rights come and go; its command is there to run."""
    hooks = sorted(objects(await asyncio.to_thread(helm.run, "get", "hooks", "gpugrant")),
                   key=lambda each: int(each["metadata"]["annotations"]["helm.sh/hook-weight"]))
    job = hooks.pop()
    assert job["kind"] == "Job"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    for each in hooks:
        await admin.apply(each)
    token = await admin.token_for(NAMESPACE, job["spec"]["template"]["spec"]["serviceAccountName"])
    kubeconfig = folder / "hook.kubeconfig"
    write_kubeconfig(kubeconfig, plane.server, plane.ca_file, "gpugrant", token)
    try:
        yield Hook(kubeconfig, container["args"])
    finally:
        for each in hooks:
            await admin.delete(object_path(each))


async def uninstall_in_vain(helm: Helm, admin: KubeClient) -> str:
    """Let helm give up on its hook, whose Job does not end; return helm's words. Nothing is deleted but the rights."""
    try:
        await asyncio.to_thread(helm.run, "uninstall", "gpugrant", "--timeout", "5s")
    except HelmFailed as failed:
        await _see_only_the_job(admin)
        return str(failed)
    raise AssertionError("nobody ended the Job")


async def uninstall_with_hook(helm: Helm, hook: Hook, admin: KubeClient) -> str:
    """Let helm uninstall with its hook, playing the kubelet of the Job's pod; return what the command printed."""
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    of_the_job = "batch.kubernetes.io/job-name=gpugrant-uninstall"
    earlier = {each["metadata"]["uid"] for each in await admin.list(pods, labelSelector=of_the_job)}
    helms = asyncio.create_task(asyncio.to_thread(helm.run, "uninstall", "gpugrant", "--timeout", "60s"))
    async with asyncio.timeout(60):
        async for _, pod in admin.watch(pods, labelSelector=of_the_job):
            if pod["metadata"]["uid"] not in earlier and pod.get("status", {}).get("phase") == "Running":
                break
    done = await hook.run()
    assert done.returncode == 0, done.stderr
    await admin.patch(object_path({"apiVersion": "v1", "kind": "Pod", **pod}) + "/status",
                      {"status": {"phase": "Succeeded", "containerStatuses": None}})
    await helms
    await _see_only_the_job(admin)
    return done.stdout


async def _see_only_the_job(admin: KubeClient) -> None:
    """See that of a hook only its Job is left, whose log is there to read."""
    roles = [*await admin.list("/apis/rbac.authorization.k8s.io/v1/clusterroles"),
             *await admin.list(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles")]
    assert not [each for each in roles if each["metadata"]["name"] == "gpugrant-uninstall"]
    assert await admin.get(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/gpugrant-uninstall")


# -- who watches ---------------------------------------------------------------------------------------------


class Doorkeeper:
    """Tries, without a pause, to create a GPU pod in a tenant's namespace (dry run); notes how the answers change."""

    def __init__(self, admin: KubeClient, namespace: str) -> None:
        self._admin, self._namespace = admin, namespace
        self.seen: list[str] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def sees(self, answer: str) -> None:
        """Wait until the newest answer is this."""
        async with asyncio.timeout(30):
            while self.seen[-1:] != [answer]:
                self._changed.clear()
                await self._changed.wait()

    def opened_again(self, answer: str) -> bool:
        """Say whether an answer came again after another one."""
        return answer in self.seen[self.seen.index(answer) + 1:] if answer in self.seen else False

    async def _keep(self) -> None:
        path = path_of("v1", "Pod", self._namespace)
        while True:
            try:
                taken = await self._admin.send("POST", path, a_pod("try", self._namespace, 1), params={"dryRun": "All"})
                answer = "gated" if gates(taken) else "open"
            except Refused as refused:
                if not re.search("gpugrant-(guard|tenant-pods)|not yet ready", refused.message):
                    raise
                answer = "refused"
            if self.seen[-1:] != [answer]:
                self.seen.append(answer)
                self._changed.set()
            await asyncio.sleep(0.005)


@asynccontextmanager
async def keeps_watching(admin: KubeClient, collection: str, name: str) -> AsyncIterator[list[JsonObject]]:
    """Every version of one object while the block runs."""
    seen: list[JsonObject] = []
    first = asyncio.Event()

    async def watch() -> None:
        async for _, each in admin.watch(collection, fieldSelector=f"metadata.name={name}"):
            seen.append(each)
            first.set()

    task = asyncio.create_task(watch())
    await first.wait()
    try:
        yield seen
        latest = (await admin.get(f"{collection}/{name}"))["metadata"]["resourceVersion"]
        async with asyncio.timeout(10):
            while seen[-1]["metadata"]["resourceVersion"] != latest:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


