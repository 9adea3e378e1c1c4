"""The cluster itself: nodes, their pods' ways to each other, names, a node that was switched off."""

import asyncio
import ipaddress

import pytest

from cluster_kit.pods import is_ready
from devcluster.binaries import KUBERNETES
from devcluster.client import JsonObject, KubeClient
from kind.cluster import WORKERS, AlreadyUp, KindCluster

_SERVER = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
http.server.HTTPServer(("", 8080), Answer).serve_forever()
"""
# Routes, Service rules and names come a moment after the API has the objects, and the API does not say when.
_ASK = """
import sys, time, urllib.request
deadline = time.monotonic() + 30
while True:
    try:
        print(urllib.request.urlopen(sys.argv[1], timeout=3).read().decode())
        break
    except OSError as error:
        if time.monotonic() > deadline:
            sys.exit(f"{sys.argv[1]}: {error}")
        time.sleep(0.1)
"""


def _has_ended(found: JsonObject | None) -> bool:
    return (found or {}).get("status", {}).get("phase") in ("Succeeded", "Failed")


def _server(namespace: str, node: str, image: str) -> JsonObject:
    container = {"name": "server", "image": image, "imagePullPolicy": "Never", "command": ["python3", "-c", _SERVER],
                 "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}}
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": f"on-{node}", "namespace": namespace, "labels": {"app": node}},
        "spec": {"containers": [container], "nodeName": node, "terminationGracePeriodSeconds": 0},
    }


async def _run_servers(admin: KubeClient, namespace: str, nodes: list[str], image: str) -> dict[str, JsonObject]:
    for node in nodes:
        await admin.create(_server(namespace, node, image))
    paths = {node: f"/api/v1/namespaces/{namespace}/pods/on-{node}" for node in nodes}
    return {node: await admin.wait_for(path, is_ready, 60) for node, path in paths.items()}


async def _ask(cluster: KindCluster, namespace: str, node: str, url: str) -> str:
    """Ask ``url`` from the pod on ``node``; return the answer."""
    command = ["exec", "--namespace", namespace, f"on-{node}", "--", "python3", "-c", _ASK, url]
    return (await asyncio.to_thread(cluster.kubectl, *command)).strip()


def _workers(cluster: KindCluster) -> list[str]:
    return [node for node in cluster.nodes() if "worker" in node]


async def test_nodes_are_ready_with_pod_ranges_of_their_own(kind_cluster: KindCluster, kind_admin: KubeClient) -> None:
    nodes = await kind_admin.list("/api/v1/nodes")
    assert sorted(node["metadata"]["name"] for node in nodes) == kind_cluster.nodes()
    assert len(nodes) == WORKERS + 1 and all(is_ready(node) for node in nodes)
    assert {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes} == {f"v{KUBERNETES}"}
    ranges = [ipaddress.ip_network(node["spec"]["podCIDR"]) for node in nodes]
    assert not any(one.overlaps(other) for one in ranges for other in ranges if one is not other)


async def test_pods_on_different_nodes_see_each_other_under_their_own_addresses(
    kind_cluster: KindCluster, kind_admin: KubeClient, namespace: str, python_image: str
) -> None:
    workers = _workers(kind_cluster)
    pods = await _run_servers(kind_admin, namespace, workers, python_image)
    addresses = {node: pod["status"]["podIP"] for node, pod in pods.items()}
    pairs = [(one, other) for one in workers for other in workers if one != other]
    answers = await asyncio.gather(
        *(_ask(kind_cluster, namespace, one, f"http://{addresses[other]}:8080") for one, other in pairs))
    assert answers == [addresses[one] for one, _ in pairs]


async def test_a_service_answers_on_every_node_under_its_name(
    kind_cluster: KindCluster, kind_admin: KubeClient, namespace: str, python_image: str
) -> None:
    workers = _workers(kind_cluster)
    pods = await _run_servers(kind_admin, namespace, workers, python_image)
    await kind_admin.create({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "first", "namespace": namespace},
        "spec": {"selector": {"app": workers[0]}, "ports": [{"port": 80, "targetPort": 8080}]}})
    # The node that serves it too: a pod there reaches itself through the Service, masqueraded as its node's bridge.
    others = workers[1:]
    for name in ("first", f"first.{namespace}.svc.cluster.local"):
        answers = await asyncio.gather(*(_ask(kind_cluster, namespace, node, f"http://{name}") for node in others))
        assert answers == [pods[node]["status"]["podIP"] for node in others]


async def test_a_node_that_was_switched_off_comes_back_with_its_pods_reachable(
    kind_cluster: KindCluster, kind_admin: KubeClient, namespace: str, python_image: str
) -> None:
    *_, here, lost = _workers(kind_cluster)
    before = await _run_servers(kind_admin, namespace, [here, lost], python_image)
    await asyncio.to_thread(kind_cluster.stop_node, lost)
    await asyncio.to_thread(kind_cluster.start_node, lost)

    def is_back(pod: JsonObject | None) -> bool:
        restarts = [each["restartCount"] for each in (pod or {}).get("status", {}).get("containerStatuses", [])]
        return restarts == [1] and is_ready(pod)

    pod = await kind_admin.wait_for(f"/api/v1/namespaces/{namespace}/pods/on-{lost}", is_back, 90)
    assert pod["metadata"]["uid"] == before[lost]["metadata"]["uid"]
    address = before[here]["status"]["podIP"]
    assert await _ask(kind_cluster, namespace, here, f"http://{pod['status']['podIP']}:8080") == address
    assert await _ask(kind_cluster, namespace, lost, f"http://{address}:8080") == pod["status"]["podIP"]


async def test_a_claim_gets_a_volume_that_others_than_root_write_and_that_outlives_the_pod(
    kind_admin: KubeClient, namespace: str, python_image: str
) -> None:
    await kind_admin.create({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}})
    programs = {
        "writes": 'open("/data/file", "x").write("kept")',
        "reads": 'assert open("/data/file").read() == "kept"',
    }
    for name, program in programs.items():
        await kind_admin.create({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "restartPolicy": "Never", "securityContext": {"runAsUser": 65532, "runAsNonRoot": True},
                "containers": [{
                    "name": name, "image": python_image, "imagePullPolicy": "Never",
                    "command": ["python3", "-c", program], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}})
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        ended = await kind_admin.wait_for(path, _has_ended, 60)
        assert ended["status"]["phase"] == "Succeeded"
        await kind_admin.delete(path)


def test_a_second_start_is_refused_and_changes_nothing(kind_cluster: KindCluster) -> None:
    nodes = kind_cluster.nodes()
    with pytest.raises(AlreadyUp, match=r"up already.*Nothing was started or stopped.*make kind-down"):
        kind_cluster.start()
    assert kind_cluster.nodes() == nodes
    assert kind_cluster.kubectl("get", "--raw", "/readyz") == "ok"
