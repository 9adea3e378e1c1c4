"""Kubernetes' own controllers get through: their pods are made, gated, fenced or left alone, and go again."""

from typing import Any

import pytest

from gpugrant import names

from .api import Api, Json, eventually, fresh_name, pods, wait_for_default_account, wait_until_gone
from .attempts import EDITOR, OWN, TEAM, Harmless, fenced, gated, kept_off_gpu_servers
from .install import apply_all, path_of
from .pods import a_gpu_pod, a_pod, gates_of, labels_of

PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
}
GPUS = pytest.param(True, id="with GPUs")
NO_GPUS = pytest.param(False, id="without GPUs")


def template(name: str, *, with_gpus: bool, restart: str) -> Json:
    pod = a_gpu_pod() if with_gpus else a_pod()
    pod["spec"]["restartPolicy"] = restart
    return {"metadata": {"labels": {"app": name}}, "spec": pod["spec"]}


def workload(kind: str, name: str, *, with_gpus: bool) -> Json:
    spec: dict[str, Any] = {"template": template(name, with_gpus=with_gpus, restart="Always")}
    if kind == "Job":
        spec["template"]["spec"]["restartPolicy"] = "Never"
        spec |= {"parallelism": 2, "completions": 2}
    else:
        spec["selector"] = {"matchLabels": {"app": name}}
    if kind in ("Deployment", "StatefulSet", "ReplicaSet"):
        spec["replicas"] = 2
    if kind == "StatefulSet":
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    version = "batch/v1" if kind == "Job" else "apps/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def pods_of(api: Api, namespace: str, name: str) -> list[Json]:
    found = api.get(f"{pods(namespace)}?labelSelector=app%3D{name}")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def expected(namespace: str, *, with_gpus: bool) -> Harmless:
    if not with_gpus:
        return kept_off_gpu_servers
    return gated if namespace == TEAM else fenced


@pytest.fixture
def a_node(api: Api) -> Json:
    """Return a node, so that a DaemonSet has somewhere to want a pod."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-0"}}
    answer = api.send("POST", "/api/v1/nodes", node)
    assert answer.accepted or answer.code == 409
    return node


@pytest.mark.parametrize("namespace", [TEAM, OWN])
@pytest.mark.parametrize("with_gpus", [GPUS, NO_GPUS])
@pytest.mark.parametrize("kind", PATHS)
def test_a_controller_creates_its_pods_and_replaces_a_deleted_one(
    api: Api, a_node: Json, kind: str, with_gpus: bool, namespace: str
) -> None:
    name = fresh_name(kind.lower())
    collection = PATHS[kind].format(namespace)
    api.as_user(EDITOR).must("POST", collection, workload(kind, name, with_gpus=with_gpus))
    wanted = 1 if kind == "DaemonSet" else 2
    made = eventually(
        lambda: (found := pods_of(api, namespace, name)) and len(found) == wanted and found, f"{kind}'s pods"
    )
    assert isinstance(made, list)
    for pod in made:
        expected(namespace, with_gpus=with_gpus)(pod, pod)
    if kind != "Job":  # a Job counts a failure, and backs off for 10 s
        _replaces_a_deleted_pod(api, namespace, name, made)
    api.as_user(EDITOR).must("DELETE", f"{collection}/{name}", {"propagationPolicy": "Background"})
    eventually(
        lambda: not api.get(f"{pods(namespace)}?labelSelector=app%3D{name}")["items"], f"{kind}'s pods go"
    )


def _replaces_a_deleted_pod(api: Api, namespace: str, name: str, made: list[Json]) -> None:
    gone = made[0]["metadata"]["uid"]
    api.as_user(EDITOR).must(
        "DELETE", f"{pods(namespace)}/{made[0]['metadata']['name']}", {"gracePeriodSeconds": 0}
    )

    def replaced() -> bool:
        uids = {pod["metadata"]["uid"] for pod in pods_of(api, namespace, name)}
        return len(uids) == len(made) and gone not in uids

    eventually(replaced, f"the controller of {name} replaces its pod")


def test_a_template_with_a_wrong_word_is_told_so_in_its_jobs_events(api: Api) -> None:
    """The Job is accepted; what the policy says of its pods is where its owner looks."""
    name = fresh_name("wrong")
    job = workload("Job", name, with_gpus=True)
    job["spec"]["template"]["spec"]["nodeSelector"] = {names.SHARE_LABEL: "OwnUse"}
    api.as_user(EDITOR).must("POST", PATHS["Job"].format(TEAM), job)

    def told() -> bool:
        events = api.get(f"/api/v1/namespaces/{TEAM}/events?fieldSelector=involvedObject.name%3D{name}")[
            "items"
        ]
        return any("keys under gpugrant.io/ are set by the operator" in event["message"] for event in events)

    eventually(told, "an Event on the Job")
    api.must("DELETE", f"{PATHS['Job'].format(TEAM)}/{name}", {"propagationPolicy": "Background"})


def test_a_limit_range_that_gives_gpus_to_everybody_gates_everybody(api: Api) -> None:
    """LimitRanger writes its defaults before the gate looks."""
    limits = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "gpus-for-all", "namespace": TEAM},
        "spec": {"limits": [{"type": "Container", "default": {names.DEFAULT_RESOURCE: "1"}}]},
    }
    apply_all(api, [limits])
    try:
        eventually(
            lambda: (
                gates_of(api.as_user(EDITOR).create_pod(a_pod(), TEAM, dry_run=True).body) == [names.GATE]
            ),
            "the limit range acts, and its pod is gated",
        )
    finally:
        api.must("DELETE", path_of(limits))
    eventually(
        lambda: names.GPU_LABEL not in labels_of(api.create_pod(a_pod(), TEAM, dry_run=True).body),
        "the limit range is gone",
    )


def test_a_namespace_with_waiting_pods_can_be_deleted(api: Api) -> None:
    name = fresh_name("short-lived")
    marks = {names.TENANT_LABEL: "hangang", names.POD_SECURITY_LABEL: "baseline"}
    api.must("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": marks}})
    wait_for_default_account(api, name)
    assert gates_of(api.must("POST", pods(name), a_gpu_pod())) == [names.GATE]
    api.must("DELETE", f"/api/v1/namespaces/{name}")
    wait_until_gone(api, f"/api/v1/namespaces/{name}")


def test_a_tenant_may_give_up_a_waiting_pod_by_deleting_or_evicting_it(api: Api) -> None:
    user = api.as_user(EDITOR)
    for way in ("delete", "evict"):
        pod = user.must("POST", pods(TEAM), a_gpu_pod())
        path = f"{pods(TEAM)}/{pod['metadata']['name']}"
        if way == "delete":
            user.must("DELETE", path)
        else:
            metadata = {"name": pod["metadata"]["name"], "namespace": TEAM}
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
            user.must("POST", f"{path}/eviction", eviction)
        wait_until_gone(api, path)
