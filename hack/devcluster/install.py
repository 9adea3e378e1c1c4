"""Put gpugrant's CRDs, RBAC and admission policies into a cluster, and wait until they act.

Policies take a moment between being stored and being asked; until then a pod would go in past them. So the
wait asks the API server itself, with pods in dry runs, and ends when each wall answers as it should.
"""

import asyncio
import copy
import os
from pathlib import Path
from typing import Any

from devcluster.client import JsonObject, KubeClient, Refused, load_manifests, path_of

ROOT = Path(__file__).resolve().parent.parent.parent
CRDS = ROOT / "crds"
MANIFESTS = ROOT / "charts" / "gpugrant" / "manifests"
_SECONDS = 60.0
_PAUSE = 0.1  # there is nothing to watch: whether a policy acts is told by a pod alone


async def install(client: KubeClient) -> None:
    """Apply everything in file-name order and wait until it acts. Raises Refused, TimeoutError."""
    definitions = load_manifests(*sorted(CRDS.glob("*.yaml")))
    for manifest in definitions:
        await client.apply(manifest)
    for manifest in definitions:
        name = manifest["metadata"]["name"]
        await client.wait_for(
            path_of(manifest["apiVersion"], manifest["kind"], None, name), _is_established, _SECONDS)
    for manifest in load_manifests(*sorted(MANIFESTS.glob("*.yaml"))):
        await client.apply(manifest)
    await wait_until_walls_stand(client)


async def apply_settings(client: KubeClient, text: str) -> None:
    """Put a settings file where the operator reads it."""
    await client.apply({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "gpugrant-settings", "namespace": "gpugrant-system"}, "data": {"settings.yaml": text}})


def _is_established(found: JsonObject | None) -> bool:
    conditions = (found or {}).get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


# -- the walls ---------------------------------------------------------------------------------------


async def wait_until_walls_stand(client: KubeClient) -> None:
    """Wait until the guard refuses, the gate gates and the fence fences. Raises TimeoutError."""
    number = os.getpid()
    tenant, provider, nobody = (f"gpugrant-probe-{kind}-{number}" for kind in ("tenant", "provider", "nobody"))
    labels = {
        tenant: {"gpugrant.io/tenant": "probe", "pod-security.kubernetes.io/enforce": "baseline"},
        provider: {"gpugrant.io/provider": "probe"},
        nobody: {},
    }
    try:
        for name, marks in labels.items():
            await client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": marks}})
            await client.wait_for(
                f"/api/v1/namespaces/{name}/serviceaccounts/default", lambda seen: seen is not None, _SECONDS)
        async with asyncio.timeout(_SECONDS):
            while not await _walls_stand(client, tenant, provider, nobody):  # noqa: ASYNC110
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        raise TimeoutError(f"the admission policies did not act within {_SECONDS:.0f} s of being applied") from None
    finally:
        for name in labels:
            await client.delete(f"/api/v1/namespaces/{name}", missing_ok=True)


async def _walls_stand(client: KubeClient, tenant: str, provider: str, nobody: str) -> bool:
    if await _dry_run(client, nobody) is not None:  # the guard
        return False
    if await _dry_run(client, tenant, nodeName="elsewhere") is not None:  # the shape of tenants' pods
        return False
    gated = await _dry_run(client, tenant)
    if gated is None or not gated["spec"].get("schedulingGates"):
        return False
    fenced = await _dry_run(client, provider)
    return fenced is not None and "gpugrant.io/own-use" in fenced["spec"].get("nodeSelector", {})


async def _dry_run(client: KubeClient, namespace: str, **spec: Any) -> JsonObject | None:
    """Return a GPU pod as the API server would keep it, or None where it refuses the pod."""
    pod: JsonObject = copy.deepcopy(_PROBE)
    pod["spec"].update(spec)
    try:
        return await client.send("POST", f"/api/v1/namespaces/{namespace}/pods", pod, params={"dryRun": "All"})
    except Refused as refused:
        if refused.status in (403, 422):
            return None
        raise


_PROBE: JsonObject = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "probe"},
    "spec": {"containers": [{"name": "probe", "image": "registry.example/probe:1",
                             "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
}
