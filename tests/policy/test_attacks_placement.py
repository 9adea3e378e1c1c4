"""The way in is closed: nodes, tolerations, selectors, affinity and priorities."""

import pytest

from gpugrant import names

from .api import STRATEGIC, Api
from .attempts import (
    ADMIN,
    EDITOR,
    Attempt,
    Change,
    Refused,
    bound_to_its_grant,
    gated,
    json_patch,
    judge,
    kept_off_gpu_servers,
    patch,
    rows,
    still_gated,
)
from .pods import a_gpu_pod, a_pod, node_affinity, pod_affinity, tolerating

TENANT_PODS = names.POLICY_TENANT_PODS
MIRROR = {"kubernetes.io/config.mirror": "abc", "kubernetes.io/config.source": "file"}
TOLERATION = {"key": names.DEFAULT_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
ADD_TOLERATION = {"op": "add", "path": "/spec/tolerations/-", "value": TOLERATION}


def ephemeral(**fields: object) -> Change:
    debug = [{"name": "debug", "image": "busybox", "targetContainerName": "main", **fields}]
    return patch({"spec": {"ephemeralContainers": debug}}, STRATEGIC, "/ephemeralcontainers")


PLACEMENT_AT_CREATION = [
    Attempt(
        "a GPU pod that names its node",
        a_gpu_pod(nodeName="gpu-0"),
        Refused(
            "core", "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"
        ),
    ),
    Attempt(
        "a pod without GPUs that names its node",
        a_pod(nodeName="gpu-0"),
        Refused(TENANT_PODS, "spec.nodeName: a pod of a tenant's namespace may not name its node"),
    ),
    Attempt(
        "a user posing as a mirror pod",
        a_pod(annotations=MIRROR, nodeName="gpu-0"),
        Refused(TENANT_PODS, "spec.nodeName"),
    ),
    Attempt(
        "the taint's toleration without GPUs",
        a_pod(tolerations=tolerating(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")),
        Refused(TENANT_PODS, "spec.tolerations: a pod that asks for no GPU"),
    ),
    Attempt(
        "the taint's toleration by value",
        a_pod(tolerations=tolerating(key="nvidia.com/gpu", operator="Equal", value="present")),
        Refused(TENANT_PODS, "spec.tolerations: a pod that asks for no GPU"),
    ),
    Attempt(
        "a toleration of everything",
        a_pod(tolerations=tolerating(operator="Exists")),
        Refused(TENANT_PODS, "spec.tolerations: a pod that asks for no GPU"),
    ),
    Attempt(
        "a toleration of every NoSchedule",
        a_pod(tolerations=tolerating(operator="Exists", effect="NoSchedule")),
        Refused(TENANT_PODS, "spec.tolerations: a pod that asks for no GPU"),
    ),
    Attempt(
        "a toleration of every NoExecute, which the taint is not",
        a_pod(tolerations=tolerating(operator="Exists", effect="NoExecute")),
        kept_off_gpu_servers,
    ),
    Attempt(
        "a toleration of somebody else's taint",
        a_pod(tolerations=tolerating(key="spot", operator="Exists")),
        kept_off_gpu_servers,
    ),
    Attempt(
        "the usual GPU toleration on a GPU pod",
        a_gpu_pod(tolerations=tolerating(key="nvidia.com/gpu", operator="Exists")),
        gated,
    ),
    *(
        Attempt(
            f"a selector on {key}",
            a_gpu_pod(nodeSelector={key: "x"}),
            Refused(TENANT_PODS, "spec.nodeSelector: keys under gpugrant.io/"),
        )
        for key in names.NODE_LABELS
    ),
    Attempt(
        "a selector on a provider, without GPUs",
        a_pod(nodeSelector={names.PROVIDER_LABEL: "kakao"}),
        Refused(TENANT_PODS, "spec.nodeSelector: keys under gpugrant.io/"),
    ),
    Attempt(
        "a selector on the GPU's type", a_gpu_pod(nodeSelector={names.PRODUCT_LABEL: "NVIDIA-B200"}), gated
    ),
    Attempt("a selector that never matches", a_gpu_pod(nodeSelector={"no": "such-node"}), gated),
    Attempt(
        "required affinity onto another share",
        a_gpu_pod(affinity=node_affinity(names.SHARE_LABEL)),
        Refused(TENANT_PODS, "spec.affinity.nodeAffinity: keys under gpugrant.io/"),
    ),
    Attempt(
        "preferred affinity onto another pool",
        a_gpu_pod(affinity=node_affinity(names.POOL_LABEL, required=False)),
        Refused(TENANT_PODS, "spec.affinity.nodeAffinity: keys under gpugrant.io/"),
    ),
    *(
        Attempt(
            f"{kind} over another tenant's servers, {'required' if required else 'preferred'}",
            a_gpu_pod(affinity=pod_affinity(kind, names.SHARED_FOR_LABEL, required=required)),
            Refused(TENANT_PODS, "spec.affinity: a topologyKey under gpugrant.io/"),
        )
        for kind in ("podAffinity", "podAntiAffinity")
        for required in (True, False)
    ),
    Attempt(
        "affinity over host names",
        a_gpu_pod(affinity=pod_affinity("podAntiAffinity", names.HOSTNAME_LABEL)),
        gated,
    ),
    Attempt("a scheduler of one's own still meets the gate", a_gpu_pod(schedulerName="mine"), gated),
]

PLACEMENT_LATER = [
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

PRIORITY = [
    Attempt(
        "system-node-critical",
        a_gpu_pod(priorityClassName="system-node-critical"),
        Refused(
            TENANT_PODS, "spec.priorityClassName: priority 2000001000 (PriorityClass system-node-critical)"
        ),
    ),
    Attempt(
        "system-cluster-critical without GPUs",
        a_pod(priorityClassName="system-cluster-critical"),
        Refused(TENANT_PODS, "spec.priorityClassName: priority 2000000000"),
    ),
    Attempt(
        "a class that preempts",
        a_gpu_pod(priorityClassName="test-preempts"),
        Refused(TENANT_PODS, "may preempt other tenants' pods"),
    ),
    Attempt("a class that is high and never preempts", a_gpu_pod(priorityClassName="test-polite"), gated),
    Attempt(
        "a class below zero",
        a_gpu_pod(priorityClassName="test-below-zero"),
        Refused(TENANT_PODS, "spec.priorityClassName: a priority below 0"),
    ),
    Attempt(
        "a priority set by hand",
        a_gpu_pod(priority=1000),
        Refused("core", "the integer value of priority (1000) must not be provided"),
    ),
    Attempt(
        "preemption of others at priority 0 preempts nobody",
        a_gpu_pod(preemptionPolicy="PreemptLowerPriority"),
        gated,
    ),
]


@pytest.mark.parametrize("attempt", rows(PLACEMENT_AT_CREATION, PLACEMENT_LATER, PRIORITY))
def test_the_attempt_ends_as_the_table_says(api: Api, attempt: Attempt) -> None:
    judge(api, attempt)
