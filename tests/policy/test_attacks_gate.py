"""The way in is closed: taking off the gate, and binding round it."""

from collections.abc import Callable

import pytest

from gpugrant import names

from .api import APPLY, MERGE, STRATEGIC, Api, Json, fresh_name, pods, wait_for_default_account
from .attempts import (
    ADMIN,
    IMPOSTOR,
    KUBELET,
    PLATFORM,
    STRANGER,
    Attempt,
    Change,
    Refused,
    json_patch,
    judge,
    patch,
    post,
    put,
    rows,
    still_gated,
)
from .pods import a_gpu_pod

GUARD = names.POLICY_GUARD
GATE_STAYS = Refused(GUARD, "spec.schedulingGates: only the operator takes off the gate")
OTHER_GATE = [{"name": "example.com/mine"}]


def without_gate(pod: Json) -> None:
    pod["spec"].pop("schedulingGates")


def binding(kind: str = "Binding") -> Callable[[Json], Json]:
    def body(pod: Json) -> Json:
        name = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
        target = {"apiVersion": "v1", "kind": "Node", "name": "gpu-0"}
        return {"apiVersion": "v1", "kind": kind, "metadata": name, "target": target}

    return body


def applied_without_gate(pod: Json) -> Json:
    """Return what server-side apply by another manager would own: no gates."""
    named = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": {"schedulingGates": []}}


GATE = [
    Attempt(
        "the gate off by merge patch",
        a_gpu_pod(),
        GATE_STAYS,
        then=patch({"spec": {"schedulingGates": None}}),
    ),
    Attempt(
        "the gate off by merge patch to an empty list",
        a_gpu_pod(),
        GATE_STAYS,
        then=patch({"spec": {"schedulingGates": []}}),
    ),
    Attempt(
        "the gate off by strategic merge, directive delete",
        a_gpu_pod(),
        GATE_STAYS,
        then=patch({"spec": {"schedulingGates": [{"$patch": "delete", "name": names.GATE}]}}, STRATEGIC),
    ),
    Attempt(
        "the gate off by strategic merge, directive replace",
        a_gpu_pod(),
        GATE_STAYS,
        then=patch({"spec": {"schedulingGates": [{"$patch": "replace"}]}}, STRATEGIC),
    ),
    Attempt(
        "the gate off by JSON patch",
        a_gpu_pod(),
        GATE_STAYS,
        then=json_patch({"op": "remove", "path": "/spec/schedulingGates/0"}),
    ),
    Attempt(
        "the whole list off by JSON patch",
        a_gpu_pod(),
        GATE_STAYS,
        then=json_patch({"op": "remove", "path": "/spec/schedulingGates"}),
    ),
    Attempt("the gate off by PUT", a_gpu_pod(), GATE_STAYS, then=put(without_gate)),
    Attempt(
        "the gate off by a namespace admin",
        a_gpu_pod(),
        GATE_STAYS,
        who=ADMIN,
        then=put(without_gate),
    ),
    Attempt(
        "the gate off by a service account of another namespace",
        a_gpu_pod(),
        GATE_STAYS,
        who=STRANGER,
        then=put(without_gate),
    ),
    Attempt(
        "the gate off by the platform engineer", a_gpu_pod(), GATE_STAYS, who=PLATFORM, then=put(without_gate)
    ),
    Attempt(
        "the gate off by another account of the operator's namespace",
        a_gpu_pod(),
        Refused("core", 'cannot update resource "pods"'),
        who=IMPOSTOR,
        then=put(without_gate),
    ),
    Attempt(
        "the gate off by a kubelet",
        a_gpu_pod(),
        Refused("core", 'cannot update resource "pods"'),
        who=KUBELET,
        then=put(without_gate),
    ),
    Attempt(
        "the gate off while another stays",
        a_gpu_pod(schedulingGates=OTHER_GATE),
        GATE_STAYS,
        then=patch({"spec": {"schedulingGates": OTHER_GATE}}),
    ),
    Attempt(
        "one's own gate off while ours stays",
        a_gpu_pod(schedulingGates=OTHER_GATE),
        still_gated,
        then=patch({"spec": {"schedulingGates": [{"name": names.GATE}]}}),
    ),
    Attempt(
        "the gate exchanged for another",
        a_gpu_pod(),
        Refused("core", "only deletion is allowed"),
        then=patch({"spec": {"schedulingGates": OTHER_GATE}}),
    ),
    Attempt(
        "server-side apply that owns no gate leaves it",
        a_gpu_pod(),
        still_gated,
        then=Change(applied_without_gate, content_type=APPLY, query="?fieldManager=mine&force=true"),
    ),
    Attempt(
        "the gate off through pods/status changes no spec",
        a_gpu_pod(),
        still_gated,
        who=ADMIN,
        then=patch({"spec": {"schedulingGates": None}}, subresource="/status"),
    ),
    Attempt(
        "the gate off through pods/ephemeralcontainers",
        a_gpu_pod(),
        still_gated,
        who=ADMIN,
        then=patch({"spec": {"schedulingGates": None}}, subresource="/ephemeralcontainers"),
    ),
    Attempt(
        "the gate off through pods/resize",
        a_gpu_pod(),
        still_gated,
        who=ADMIN,
        then=patch({"spec": {"schedulingGates": None}}, subresource="/resize"),
    ),
]

BINDING = [
    Attempt(
        "pods/binding by a tenant user",
        a_gpu_pod(),
        Refused("core", 'cannot create resource "pods/binding"'),
        then=post(binding(), "/binding"),
    ),
    Attempt(
        "pods/binding by somebody who may",
        a_gpu_pod(),
        Refused("core", "has non-empty .spec.schedulingGates"),
        who=ADMIN,
        then=post(binding(), "/binding"),
    ),
    Attempt(
        "pods/binding by the platform engineer",
        a_gpu_pod(),
        Refused("core", "has non-empty .spec.schedulingGates"),
        who=PLATFORM,
        then=post(binding(), "/binding"),
    ),
    Attempt(
        "the old bindings resource by somebody who may",
        a_gpu_pod(),
        Refused("core", "has non-empty .spec.schedulingGates"),
        who=ADMIN,
        then=Change(
            binding(),
            method="POST",
            content_type="application/json",
            path="/api/v1/namespaces/team-a/bindings",
        ),
    ),
    Attempt(
        "nodeName by patch",
        a_gpu_pod(),
        Refused("core", "pod updates may not change fields other than"),
        then=patch({"spec": {"nodeName": "gpu-0"}}),
    ),
]


@pytest.mark.parametrize("attempt", rows(GATE, BINDING))
def test_the_attempt_ends_as_the_table_says(api: Api, attempt: Attempt) -> None:
    judge(api, attempt)


def test_a_waiting_pod_keeps_its_gate_when_its_namespace_is_no_tenants_any_more(api: Api) -> None:
    """Its marks are the operator's wherever they are, so a label lost by mistake opens nothing."""
    namespace = fresh_name("was-a-tenants")
    marks = {names.TENANT_LABEL: "hangang", names.POD_SECURITY_LABEL: "baseline"}
    api.must("POST", "/api/v1/namespaces", {"metadata": {"name": namespace, "labels": marks}})
    wait_for_default_account(api, namespace)
    pod = api.must("POST", pods(namespace), a_gpu_pod())
    lost = {"metadata": {"labels": {names.TENANT_LABEL: None}}}
    api.must("PATCH", f"/api/v1/namespaces/{namespace}", lost, MERGE)
    for _ in range(20):
        answer = api.patch_pod(pod, {"spec": {"schedulingGates": None}})
        assert names.POLICY_GUARD in answer.message, answer
    api.must("DELETE", f"/api/v1/namespaces/{namespace}")
