"""Labels on a real Node object, with the rights that the manifest gives and no others."""

from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex

import pytest
import yaml

from devcluster.client import KubeClient
from devcluster.controlplane import ControlPlane
from deviceplugin.node import Node, Refused
from deviceplugin.profiles import profile
from deviceplugin.service import Service
from kubelet_kit.running import Running, options

MANIFEST = Path(__file__).resolve().parents[2] / "hack/deviceplugin/manifests/deviceplugin.yaml"
RIGHTS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding")


@pytest.fixture
async def node(admin: KubeClient, control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[Node]:
    """Make a Node that people labelled, and speak of it as the DaemonSet's service account does."""
    for each in yaml.safe_load_all(MANIFEST.read_text()):
        if each["kind"] in RIGHTS:
            await admin.apply(each)
    account = tmp_path / "account"
    account.mkdir()
    (account / "ca.crt").symlink_to(control_plane.ca_file)
    (account / "token").write_text(await admin.token_for("fake-gpu", "fake-gpu"))
    name = f"fake-gpu-{token_hex(4)}"
    labels = {"fake-gpu/profile": "h100", "nvidia.com/gpu.product": "NVIDIA-B200", "example.com/rack": "7"}
    await admin.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
    try:
        yield Node(name, control_plane.server, account)
    finally:
        await admin.delete(f"/api/v1/nodes/{name}")


async def test_a_nodes_labels_are_the_profiles_those_of_others_go_and_peoples_stay(node, admin):
    assert (await node.labels())["fake-gpu/profile"] == "h100"
    await node.label(profile("atom").labels(4))
    await node.label(profile("h100").labels(8))
    labels = (await admin.get(f"/api/v1/nodes/{node.name}"))["metadata"]["labels"]
    assert profile("h100").labels(8).items() <= labels.items()
    assert not any(key.startswith("rebellions.ai/") for key in labels)
    assert labels["example.com/rack"] == "7"


async def test_labels_count_the_devices_that_are_there(node, admin, kubelet, http, tmp_path):
    service = Service(options(kubelet, tmp_path / "log", node=node.name, api=node))
    running = Running(service, tmp_path / "log", http)
    path = f"/api/v1/nodes/{node.name}"
    async with service.running():
        await admin.wait_for(path, lambda it: it["metadata"]["labels"].get("nvidia.com/gpu.count") == "8")
        await running.do("remove", device=0)
        await admin.wait_for(path, lambda it: it["metadata"]["labels"].get("nvidia.com/gpu.count") == "7")


async def test_what_the_api_server_refuses_is_told_in_its_words(node):
    node._url = node._url.replace("/nodes/", "/namespaces/")
    with pytest.raises(Refused, match=r"GET node fake-gpu-.*: 403: .*cannot get resource"):
        await node.labels()
