"""The way in is closed: attempts at changing, binding, evicting a pod that exists."""

from collections.abc import Callable

import pytest

from gpugrant import names

from .api import APPLY, STRATEGIC, Api, Json
from .attempts import (
    ADMIN,
    EDITOR,
    IMPOSTOR,
    KUBELET,
    OWN,
    PLAIN,
    PLATFORM,
    STRANGER,
    Attempt,
    Change,
    Refused,
    bound_to_its_grant,
    fenced,
    gated,
    json_patch,
    judge,
    kept_off_gpu_servers,
    patch,
    post,
    put,
    still_gated,
)
from .pods import a_gpu_pod, a_pod, container, node_affinity

GUARD, TENANT_PODS = names.POLICY_GUARD, names.POLICY_TENANT_PODS
GATE_STAYS = Refused(GUARD, "spec.schedulingGates: only the operator takes off the gate")
LABELS_STAY = Refused(GUARD, "metadata.labels: labels under gpugrant.io/ are changed by the operator only")
ANNOTATIONS_STAY = Refused(GUARD, "metadata.annotations: annotations under gpugrant.io/ are changed")
FINALIZER_STAYS = Refused(GUARD, "metadata.finalizers: only the operator puts on and takes off")
TOLERATION = {"key": names.DEFAULT_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
ADD_TOLERATION = {"op": "add", "path": "/spec/tolerations/-", "value": TOLERATION}
OTHER_GATE = [{"name": "example.com/mine"}]


def labels(**values: str | None) -> Change:
    return patch({"metadata": {"labels": {f"gpugrant.io/{k.replace('_', '-')}": v for k, v in values.items()}}})


def annotations(**values: str | None) -> Change:
    given = {f"gpugrant.io/{k.replace('_', '-')}": v for k, v in values.items()}
    return patch({"metadata": {"annotations": given}})


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


def ephemeral(**fields: object) -> Change:
    debug = [{"name": "debug", "image": "busybox", "targetContainerName": "main", **fields}]
    return patch({"spec": {"ephemeralContainers": debug}}, STRATEGIC, "/ephemeralcontainers")


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
    Attempt("the gate off by the platform engineer", a_gpu_pod(), GATE_STAYS, who=PLATFORM, then=put(without_gate)),
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
            binding(), method="POST", content_type="application/json", path="/api/v1/namespaces/team-a/bindings"
        ),
    ),
    Attempt(
        "nodeName by patch",
        a_gpu_pod(),
        Refused("core", "pod updates may not change fields other than"),
        then=patch({"spec": {"nodeName": "gpu-0"}}),
    ),
]

MARKS = [
    Attempt("the GPU label off", a_gpu_pod(), LABELS_STAY, then=labels(gpu=None)),
    Attempt("the GPU label to false", a_gpu_pod(), LABELS_STAY, then=labels(gpu="false")),
    Attempt("all labels off by PUT", a_gpu_pod(), LABELS_STAY, then=put(lambda p: p["metadata"].pop("labels"))),
    Attempt("a grant chosen late", a_gpu_pod(), LABELS_STAY, then=labels(grant="pretrain")),
    Attempt(
        "the grant changed while gated",
        a_gpu_pod(labels={names.GRANT_LABEL: "pretrain"}),
        LABELS_STAY,
        then=labels(grant="eval"),
    ),
    Attempt(
        "the grant changed after the release",
        a_gpu_pod(),
        LABELS_STAY,
        released=True,
        then=labels(grant="eval"),
    ),
    Attempt("the grant off after the release", a_gpu_pod(), LABELS_STAY, released=True, then=labels(grant=None)),
    Attempt(
        "the GPU label off through pods/status",
        a_gpu_pod(),
        LABELS_STAY,
        who=ADMIN,
        then=patch({"metadata": {"labels": {names.GPU_LABEL: None}}}, subresource="/status"),
    ),
    Attempt("the GPU label put on a pod without GPUs", a_pod(), LABELS_STAY, then=labels(gpu="true")),
    Attempt("a server's label put on a pod", a_gpu_pod(), LABELS_STAY, then=labels(share="OwnUse")),
    Attempt(
        "the GPU label put on a pod in nobody's namespace",
        a_pod(),
        LABELS_STAY,
        where=PLAIN,
        who=PLATFORM,
        then=labels(gpu="true"),
    ),
    Attempt("a label of the user's own", a_gpu_pod(), still_gated, then=patch({"metadata": {"labels": {"a": "b"}}})),
    Attempt(
        "a gang grown while gated",
        a_gpu_pod(annotations={names.GANG_SIZE_ANNOTATION: "2"}),
        ANNOTATIONS_STAY,
        then=annotations(gang_size="3"),
    ),
    Attempt(
        "a gang left while gated",
        a_gpu_pod(annotations={names.GANG_SIZE_ANNOTATION: "2"}),
        ANNOTATIONS_STAY,
        then=annotations(gang_size=None),
    ),
    Attempt("another's gang joined late", a_gpu_pod(), ANNOTATIONS_STAY, then=annotations(gang="theirs")),
    Attempt("a forged reason to wait", a_gpu_pod(), ANNOTATIONS_STAY, then=annotations(waiting="nothing")),
    Attempt(
        "a forged grant uid after the release",
        a_gpu_pod(),
        ANNOTATIONS_STAY,
        released=True,
        then=annotations(grant_uid="another"),
    ),
    Attempt(
        "the annotation that only the kwok nodes read", a_gpu_pod(), still_gated, then=annotations(run_seconds="5")
    ),
    Attempt(
        "the metering finalizer off after the release",
        a_gpu_pod(),
        FINALIZER_STAYS,
        released=True,
        then=patch({"metadata": {"finalizers": None}}),
    ),
    Attempt(
        "the metering finalizer off by the platform engineer",
        a_gpu_pod(),
        FINALIZER_STAYS,
        released=True,
        who=PLATFORM,
        then=patch({"metadata": {"finalizers": []}}),
    ),
    Attempt(
        "the metering finalizer off through pods/status",
        a_gpu_pod(),
        FINALIZER_STAYS,
        released=True,
        who=ADMIN,
        then=patch({"metadata": {"finalizers": None}}, subresource="/status"),
    ),
    Attempt(
        "the metering finalizer put on a waiting pod",
        a_gpu_pod(),
        FINALIZER_STAYS,
        then=patch({"metadata": {"finalizers": [names.FINALIZER]}}),
    ),
    Attempt(
        "the metering finalizer put on a pod without GPUs",
        a_pod(),
        FINALIZER_STAYS,
        then=patch({"metadata": {"finalizers": [names.FINALIZER]}}),
    ),
]

PLACEMENT = [
    Attempt(
        "the toleration added to a pod without GPUs",
        a_pod(),
        Refused(TENANT_PODS, "spec.tolerations: only the operator adds a toleration"),
        then=json_patch(ADD_TOLERATION),
    ),
    Attempt(
        "a toleration of everything added to a pod without GPUs",
        a_pod(),
        Refused(TENANT_PODS, "spec.tolerations: only the operator adds a toleration"),
        then=json_patch({**ADD_TOLERATION, "value": {"operator": "Exists"}}),
    ),
    Attempt(
        "the toleration added to a waiting GPU pod",
        a_gpu_pod(),
        Refused(TENANT_PODS, "spec.tolerations: only the operator adds a toleration"),
        then=json_patch(ADD_TOLERATION),
    ),
    Attempt(
        "another toleration added to a waiting GPU pod",
        a_gpu_pod(),
        still_gated,
        then=json_patch({**ADD_TOLERATION, "value": {"key": "spot", "operator": "Exists"}}),
    ),
    Attempt(
        "another toleration added to a pod without GPUs",
        a_pod(),
        kept_off_gpu_servers,
        then=json_patch({**ADD_TOLERATION, "value": {"key": "spot", "operator": "Exists"}}),
    ),
    Attempt(
        "a share selected while gated",
        a_gpu_pod(),
        Refused(TENANT_PODS, "spec.nodeSelector: keys under gpugrant.io/"),
        then=patch({"spec": {"nodeSelector": {names.SHARE_LABEL: "OwnUse"}}}),
    ),
    Attempt(
        "another tenant's grant selected while gated",
        a_gpu_pod(),
        Refused(TENANT_PODS, "spec.nodeSelector: keys under gpugrant.io/"),
        then=patch({"spec": {"nodeSelector": {names.GRANT_UID_LABEL: "another"}}}),
    ),
    Attempt(
        "affinity to a pool added while gated",
        a_gpu_pod(),
        Refused(TENANT_PODS, "spec.affinity.nodeAffinity: keys under gpugrant.io/"),
        then=patch({"spec": {"affinity": node_affinity(names.POOL_LABEL)}}),
    ),
    Attempt(
        "an ordinary selector added while gated",
        a_gpu_pod(),
        still_gated,
        then=patch({"spec": {"nodeSelector": {names.PRODUCT_LABEL: "NVIDIA-B200"}}}),
    ),
    Attempt(
        "the release's selector changed",
        a_gpu_pod(),
        Refused("core", "pod updates may not change fields other than"),
        released=True,
        then=patch({"spec": {"nodeSelector": {names.GRANT_UID_LABEL: "another"}}}),
    ),
    Attempt(
        "the release's selector off",
        a_gpu_pod(),
        Refused("core", "pod updates may not change fields other than"),
        released=True,
        then=patch({"spec": {"nodeSelector": None}}),
    ),
    Attempt(
        "another toleration after the release",
        a_gpu_pod(),
        bound_to_its_grant,
        released=True,
        then=json_patch({**ADD_TOLERATION, "value": {"key": "spot", "operator": "Exists"}}),
    ),
    Attempt(
        "GPUs added by resize",
        a_pod(),
        Refused("core", "spec"),
        who=ADMIN,
        then=patch(
            {"spec": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}},
            STRATEGIC,
            "/resize",
        ),
    ),
    Attempt(
        "GPUs added by an ordinary patch",
        a_pod(),
        Refused("core", "pod updates may not change fields other than"),
        then=patch(
            {"spec": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}},
            STRATEGIC,
        ),
    ),
    Attempt(
        "an ephemeral container with GPUs",
        a_pod(),
        Refused("core", "spec.ephemeralContainers[0].resources: Forbidden"),
        who=ADMIN,
        then=ephemeral(resources={"limits": {"nvidia.com/gpu": "1"}}),
    ),
    Attempt(
        "an ephemeral container that names the devices",
        a_pod(),
        Refused(TENANT_PODS, "spec.containers[].env: NVIDIA_VISIBLE_DEVICES"),
        who=ADMIN,
        then=ephemeral(env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]),
    ),
    Attempt("an ordinary ephemeral container", a_pod(), kept_off_gpu_servers, who=ADMIN, then=ephemeral()),
    Attempt(
        "a tenant user's ephemeral container",
        a_pod(),
        Refused("core", 'cannot patch resource "pods/ephemeralcontainers"'),
        who=EDITOR,
        then=ephemeral(),
    ),
    Attempt(
        "priority by patch",
        a_gpu_pod(),
        Refused("core", "pod updates may not change fields other than"),
        then=patch({"spec": {"priority": 2000}}),
    ),
]

OWN_USE = [
    Attempt(
        "a provider's pod off the fence, by selector",
        a_gpu_pod(),
        Refused("core", "pod updates may not change fields other than"),
        where=OWN,
        then=patch({"spec": {"nodeSelector": None}}),
    ),
    Attempt(
        "a provider's pod with a gate of its own off the fence, by selector",
        a_gpu_pod(schedulingGates=OTHER_GATE),
        Refused("core", "spec.nodeSelector"),
        where=OWN,
        then=patch({"spec": {"nodeSelector": {names.OWN_USE_LABEL: None}}}),
    ),
    Attempt("a provider's pod without its label", a_gpu_pod(), LABELS_STAY, where=OWN, then=labels(gpu=None)),
    Attempt("a provider's pod with a grant, late", a_gpu_pod(), LABELS_STAY, where=OWN, then=labels(grant="x")),
    Attempt(
        "a provider's pod with our finalizer, late",
        a_gpu_pod(),
        FINALIZER_STAYS,
        where=OWN,
        then=patch({"metadata": {"finalizers": [names.FINALIZER]}}),
    ),
    Attempt(
        "a provider's pod with a label of its own",
        a_gpu_pod(),
        fenced,
        where=OWN,
        then=patch({"metadata": {"labels": {"a": "b"}}}),
    ),
]

NOBODY_IS_DISTURBED = [
    Attempt(
        "a kubelet reports a released pod's status",
        a_gpu_pod(),
        bound_to_its_grant,
        released=True,
        who=KUBELET,
        then=patch({"status": {"phase": "Pending", "message": "pulling"}}, subresource="/status"),
    ),
    Attempt(
        "a controller's finalizer comes and goes beside ours",
        a_gpu_pod(finalizers=["batch.kubernetes.io/job-tracking"]),
        gated,
        who=PLATFORM,
        then=patch({"metadata": {"finalizers": None}}),
    ),
    Attempt(
        "the garbage collector orphans a released pod",
        a_gpu_pod(),
        bound_to_its_grant,
        released=True,
        who=PLATFORM,
        then=patch({"metadata": {"ownerReferences": None}}),
    ),
]

TABLE = [*GATE, *BINDING, *MARKS, *PLACEMENT, *OWN_USE, *NOBODY_IS_DISTURBED]
# Somebody must be using a container called main for the patches above.
assert container()["name"] == "main"


@pytest.mark.parametrize("attempt", [pytest.param(attempt, id=attempt.id) for attempt in TABLE])
def test_changing_a_pod_ends_as_the_table_says(api: Api, attempt: Attempt) -> None:
    judge(api, attempt)
