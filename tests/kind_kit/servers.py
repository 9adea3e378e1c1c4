"""Workers as GPU servers: the fake device plugin on each, told to fail, and what it wrote down."""

import asyncio
import json
from datetime import datetime
from typing import Any

import yaml

from devcluster.client import JsonObject, KubeClient
from devcluster.runfolder import ROOT
from deviceplugin.image import build_plugin
from gpugrant import names
from kind.cluster import ClusterFailed, KindCluster

GPU = "nvidia.com/gpu"
PROVIDER, FABRIC = "kind-cloud", "kind-f1"
SEATS = 8
_MANIFEST = ROOT / "hack" / "deviceplugin" / "manifests" / "deviceplugin.yaml"
_PODS = "/api/v1/namespaces/fake-gpu/pods"
_LOG = "/var/log/fake-gpu/log"


class Servers:
    """The workers of a cluster."""

    def __init__(self, cluster: KindCluster) -> None:
        self._cluster = cluster
        self.all = [node for node in cluster.nodes() if "worker" in node]

    async def start(self, admin: KubeClient) -> None:
        """Give every worker eight B200, and wait until its kubelet offers them."""
        self._cluster.load(build_plugin(self._cluster.engine), nodes=self.all)
        # Pods without GPUs need a node that is no GPU server.
        control_plane = next(node for node in self._cluster.nodes() if node not in self.all)
        await admin.patch(f"/api/v1/nodes/{control_plane}", {"spec": {"taints": None}})
        for manifest in yaml.safe_load_all(_MANIFEST.read_text()):
            await admin.apply(manifest)
        await asyncio.gather(*(self.equip(admin, node) for node in self.all))

    async def equip(self, admin: KubeClient, node: str) -> None:
        """Make a node a GPU server, once its kubelet has registered it; wait until it offers what it has."""
        await admin.wait_for(f"/api/v1/nodes/{node}", lambda seen: seen is not None, 60)
        labels = {"fake-gpu/profile": "b200", names.PROVIDER_LABEL: PROVIDER, names.FABRIC_LABEL: FABRIC}
        await admin.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": labels}})
        await self.offers(admin, node, SEATS, 90)

    async def offers(self, admin: KubeClient, node: str, gpus: int, seconds: float = 60) -> JsonObject:
        """Wait until a node's allocatable says so many GPUs."""
        return await admin.wait_for(
            f"/api/v1/nodes/{node}",
            lambda seen: ((seen or {}).get("status", {}).get("allocatable") or {}).get(GPU) == str(gpus), seconds)

    async def knows_its_pods(self, node: str, seconds: float) -> None:
        """Wait until a kubelet that was restarted has heard of its pods, by that of the plugin."""
        async with asyncio.timeout(seconds):
            while "fake-gpu" not in await asyncio.to_thread(self._namespaces_on, node):  # noqa: ASYNC110 (it has no watch)
                await asyncio.sleep(0.5)

    def _namespaces_on(self, node: str) -> set[str]:
        """Return the namespaces of the pods that a kubelet speaks of; none while it does not answer."""
        try:
            told = self._cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/pods")
        except ClusterFailed:
            return set()
        return {pod["metadata"]["namespace"] for pod in json.loads(told)["items"] or ()}

    def plugin(self, node: str, *command: str) -> Any:
        """Tell the plugin of a node something; return its answer."""
        listed = self._cluster.kubectl(
            "get", "pods", "--namespace", "fake-gpu", "--field-selector", f"spec.nodeName={node}",
            "--output", "jsonpath={.items[0].metadata.name}")
        return json.loads(self._cluster.kubectl(
            "exec", "--namespace", "fake-gpu", listed, "--", "python3", "-m", "deviceplugin", *command))

    def log(self, node: str) -> list[dict[str, Any]]:
        """Return all that the plugin of a node wrote down, since the node was made."""
        return [json.loads(line) for line in self._cluster.run_in_node(node, "cat", _LOG).splitlines()]

    def allocated(self, node: str) -> list[list[str]]:
        """Return the devices of every Allocate that was answered, in order."""
        lines = self.log(node)
        calls = {(line["run"], line["call"]): line["devices"] for line in lines
                 if line["event"] == "called" and line["rpc"] == "Allocate"}
        return [_flat(calls[line["run"], line["call"]]) for line in lines
                if line["event"] == "answered" and line["rpc"] == "Allocate" and line["code"] == "OK"]

    def changes(self, node: str, device: str) -> list[tuple[float, str]]:
        """Return when, by the node's clock, a device's health changed, and to what."""
        return [(datetime.fromisoformat(line["time"]).timestamp(), line["now"]["health"]) for line in self.log(node)
                if line["event"] == "device" and line["id"] == device and line["was"] != line["now"]]


def _flat(devices: Any) -> list[str]:
    return sorted(one for group in devices for one in ([group] if isinstance(group, str) else group))
