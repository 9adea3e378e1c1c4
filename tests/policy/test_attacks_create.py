"""The way in is closed: attempts at creating a pod."""

import pytest

from gpugrant import names

from .api import Api
from .attempts import (
    ADMIN,
    BOTH,
    EXEMPT,
    IMPOSTOR,
    KUBELET,
    LAX,
    OWN,
    PLAIN,
    PLATFORM,
    RIVAL,
    STRANGER,
    Attempt,
    Refused,
    counted,
    fenced,
    gated,
    judge,
    kept_off_gpu_servers,
    mirrored,
)
from .pods import (
    a_gpu_pod,
    a_pod,
    container,
    gpu_container,
    gpus,
    node_affinity,
    pod_affinity,
    tolerating,
)

GUARD, TENANT_PODS = names.POLICY_GUARD, names.POLICY_TENANT_PODS
SIDECAR = {"restartPolicy": "Always"}
DEVICE_CLASS = names.DEVICE_CLASS_PREFIX + "gpu.nvidia.com"
CLAIM = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "any"}]}
VISIBLE = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]
FROM_CONFIG = {"configMapKeyRef": {"name": "c", "key": "k"}}
DEVICE_PATH = {"volumes": [{"name": "dev", "hostPath": {"path": "/dev/nvidia0"}}]}
PRIVILEGED = {"securityContext": {"privileged": True}}
GATES = [{"name": names.GATE}]
MIRROR = {"kubernetes.io/config.mirror": "abc", "kubernetes.io/config.source": "file"}

QUANTITIES = [
    Attempt("one GPU in a container", a_gpu_pod(1), gated),
    Attempt("eight GPUs as 8e0", a_gpu_pod("8e0"), gated),
    Attempt("a thousand GPUs as 1k", a_gpu_pod("1k"), gated),
    Attempt("eight GPUs as 8000m", a_gpu_pod("8000m"), gated),
    Attempt("1e30 GPUs, more than an int64", a_gpu_pod("1e30"), gated),
    Attempt("2^63 GPUs, one more than an int64", a_gpu_pod("9223372036854775808"), gated),
    Attempt(
        "two containers whose sum overflows an int64",
        a_pod(gpu_container(2**63 - 1), gpu_container(2**63 - 1, name="second")),
        gated,
    ),
    Attempt("zero GPUs is a pod without GPUs", a_gpu_pod("0"), kept_off_gpu_servers),
    Attempt(
        "zero GPUs does not earn the toleration",
        a_gpu_pod("0", tolerations=tolerating(key="nvidia.com/gpu", operator="Exists")),
        Refused(TENANT_PODS, "spec.tolerations: a pod that asks for no GPU"),
    ),
    Attempt("minus one GPU", a_gpu_pod("-1"), Refused("core", "must be greater than or equal to 0")),
    Attempt("half a GPU", a_gpu_pod("0.5"), Refused("core", "must be an integer")),
    Attempt("no number at all", a_gpu_pod("many"), Refused("core", "quantities must match")),
    Attempt(
        "GPUs as a request without a limit",
        a_pod(container(resources={"requests": {"nvidia.com/gpu": "1"}})),
        Refused("core", "Limit must be set"),
    ),
    Attempt(
        "a larger request than limit",
        a_pod(container(resources={"requests": {"nvidia.com/gpu": "2"}, "limits": {"nvidia.com/gpu": "1"}})),
        Refused("core", "must be equal to nvidia.com/gpu limit"),
    ),
]

HIDING_PLACES = [
    Attempt("GPUs in an init container only", a_pod(initContainers=[gpu_container(name="init")]), gated),
    Attempt(
        "GPUs in a sidecar only", a_pod(initContainers=[gpu_container(name="side", **SIDECAR)]), gated
    ),
    Attempt(
        "GPUs in the last of many containers",
        a_pod(*[container(f"c{i}") for i in range(20)], gpu_container(name="last")),
        gated,
    ),
    Attempt(
        "GPUs at pod level", a_pod(resources=gpus(1)), Refused("core", "spec.resources.limits")
    ),
    Attempt(
        "an ephemeral container at creation",
        a_pod(ephemeralContainers=[gpu_container(name="debug")]),
        Refused("core", "cannot be set on create"),
    ),
    Attempt("a device class as extended resource", a_pod(gpu_container(1, DEVICE_CLASS)), gated),
    Attempt(
        "a device class as a request without a limit",
        a_pod(container(resources={"requests": {DEVICE_CLASS: "1"}})),
        gated,
    ),
    Attempt("a resource claim", a_pod(**CLAIM), gated),
    Attempt(
        "a MIG name no pool has: no toleration, so no server",
        a_pod(gpu_container(1, "nvidia.com/mig-1g.10gb")),
        kept_off_gpu_servers,
    ),
    Attempt(
        "a MIG name with the GPU toleration",
        a_pod(
            gpu_container(1, "nvidia.com/mig-1g.10gb"),
            tolerations=tolerating(key="nvidia.com/gpu", operator="Exists"),
        ),
        Refused(TENANT_PODS, "spec.tolerations: a pod that asks for no GPU"),
    ),
    Attempt(
        "a name that only looks alike",
        a_pod(gpu_container(1, "nvidia.com/gpu.shared")),
        kept_off_gpu_servers,
    ),
    Attempt(
        "so many amounts that the policy runs out of its budget: closed, not open",
        a_pod(
            *[
                container(f"c{i}", resources={"limits": {f"x{i}-{j}.io/y": "1" for j in range(1000)}})
                for i in range(60)
            ],
            gpu_container(name="last"),
        ),
        Refused(names.POLICY_GATE, "actual cost limit exceeded"),
    ),
]

MARKS = [
    Attempt("the gate set by the user, too", a_gpu_pod(schedulingGates=GATES), gated),
    Attempt(
        "another gate beside ours", a_gpu_pod(schedulingGates=[{"name": "kueue.x-k8s.io/admission"}]), gated
    ),
    Attempt("the GPU label forged to false", a_gpu_pod(labels={names.GPU_LABEL: "false"}), gated),
    Attempt("the user's own grant", a_gpu_pod(labels={names.GRANT_LABEL: "pretrain"}), gated),
    Attempt(
        "another tenant's grant: the operator looks only among this tenant's",
        a_gpu_pod(labels={names.GRANT_LABEL: "seorak-notebooks"}),
        gated,
    ),
    Attempt(
        "an empty grant",
        a_gpu_pod(labels={names.GRANT_LABEL: ""}),
        Refused(TENANT_PODS, "metadata.labels[gpugrant.io/grant]: must be the name of a GpuGrant"),
    ),
    Attempt(
        "a grant that cannot be a name",
        a_gpu_pod(labels={names.GRANT_LABEL: "Pretrain_X"}),
        Refused(TENANT_PODS, "metadata.labels[gpugrant.io/grant]"),
    ),
    Attempt(
        "the GPU label on a pod without GPUs",
        a_pod(labels={names.GPU_LABEL: "true"}),
        Refused(TENANT_PODS, "metadata.labels: of the labels under gpugrant.io/"),
    ),
    Attempt(
        "a node label of ours on a pod",
        a_gpu_pod(labels={names.SHARE_LABEL: "OwnUse"}),
        Refused(TENANT_PODS, "metadata.labels: of the labels under gpugrant.io/"),
    ),
    Attempt(
        "the tenant label on a pod",
        a_pod(labels={names.TENANT_LABEL: "seorak"}),
        Refused(TENANT_PODS, "metadata.labels: of the labels under gpugrant.io/"),
    ),
    Attempt(
        "the grant's uid as annotation",
        a_gpu_pod(annotations={names.GRANT_UID_ANNOTATION: "uid-1"}),
        Refused(TENANT_PODS, "metadata.annotations: of the annotations under gpugrant.io/"),
    ),
    Attempt(
        "a release time of one's own",
        a_gpu_pod(annotations={names.RELEASED_AT_ANNOTATION: "2026-11-01T00:00:00Z"}),
        Refused(TENANT_PODS, "metadata.annotations: of the annotations under gpugrant.io/"),
    ),
    Attempt(
        "a gang replacement that nobody asked for",
        a_gpu_pod(annotations={names.REPLACEMENT_ANNOTATION: "true"}),
        Refused(TENANT_PODS, "metadata.annotations: of the annotations under gpugrant.io/"),
    ),
    Attempt(
        "the metering finalizer at creation",
        a_gpu_pod(finalizers=[names.FINALIZER]),
        Refused(TENANT_PODS, "metadata.finalizers: gpugrant.io/metering"),
    ),
    Attempt(
        "the metering finalizer on a pod without GPUs",
        a_pod(finalizers=[names.FINALIZER]),
        Refused(TENANT_PODS, "metadata.finalizers: gpugrant.io/metering"),
    ),
    Attempt(
        "our gate on a pod without GPUs",
        a_pod(schedulingGates=GATES),
        Refused(TENANT_PODS, "spec.schedulingGates: the gate gpugrant.io/admission is for pods"),
    ),
    Attempt("a gang of 16", a_gpu_pod(annotations={names.GANG_SIZE_ANNOTATION: "16"}), gated),
    Attempt(
        "a named gang of 100000",
        a_gpu_pod(annotations={names.GANG_ANNOTATION: "workers", names.GANG_SIZE_ANNOTATION: "100000"}),
        gated,
    ),
    *(
        Attempt(
            f"a gang of {size!r} pods",
            a_gpu_pod(annotations={names.GANG_SIZE_ANNOTATION: size}),
            Refused(TENANT_PODS, "metadata.annotations[gpugrant.io/gang-size]: must be a whole number"),
        )
        for size in ("0", "-1", "", "two", "1.5", "1e3", "016", "100001", "9" * 40, "16\n")
    ),
    Attempt(
        "a gang without a size",
        a_gpu_pod(annotations={names.GANG_ANNOTATION: "workers"}),
        Refused(TENANT_PODS, "metadata.annotations[gpugrant.io/gang]: must be a name"),
    ),
    Attempt(
        "a gang whose name is a sentence",
        a_gpu_pod(annotations={names.GANG_ANNOTATION: "my gang", names.GANG_SIZE_ANNOTATION: "2"}),
        Refused(TENANT_PODS, "metadata.annotations[gpugrant.io/gang]: must be a name"),
    ),
]

PLACEMENT = [
    Attempt(
        "a GPU pod that names its node",
        a_gpu_pod(nodeName="gpu-0"),
        Refused("core", "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"),
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
    Attempt("a selector on the GPU's type", a_gpu_pod(nodeSelector={names.PRODUCT_LABEL: "NVIDIA-B200"}), gated),
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

PRIORITY = [
    Attempt(
        "system-node-critical",
        a_gpu_pod(priorityClassName="system-node-critical"),
        Refused(TENANT_PODS, "spec.priorityClassName: priority 2000001000 (PriorityClass system-node-critical)"),
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

DEVICES = [
    Attempt(
        "NVIDIA_VISIBLE_DEVICES in a container",
        a_pod(container(env=VISIBLE)),
        Refused(TENANT_PODS, "spec.containers[].env: NVIDIA_VISIBLE_DEVICES"),
    ),
    Attempt(
        "NVIDIA_VISIBLE_DEVICES in a GPU pod",
        a_pod(gpu_container(env=VISIBLE)),
        Refused(TENANT_PODS, "spec.containers[].env: NVIDIA_VISIBLE_DEVICES"),
    ),
    Attempt(
        "NVIDIA_VISIBLE_DEVICES in an init container",
        a_pod(initContainers=[container("init", env=VISIBLE)]),
        Refused(TENANT_PODS, "spec.containers[].env: NVIDIA_VISIBLE_DEVICES"),
    ),
    Attempt(
        "NVIDIA_VISIBLE_DEVICES out of a ConfigMap",
        a_pod(container(env=[{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": FROM_CONFIG}])),
        Refused(TENANT_PODS, "spec.containers[].env: NVIDIA_VISIBLE_DEVICES"),
    ),
    Attempt("/dev/nvidia0 as hostPath", a_pod(**DEVICE_PATH), Refused("core", "violates PodSecurity")),
    Attempt("privileged", a_pod(container(**PRIVILEGED)), Refused("core", "violates PodSecurity")),
    Attempt(
        "GPUs in a namespace without Pod Security",
        a_gpu_pod(),
        Refused(TENANT_PODS, "metadata.namespace: namespace team-lax must enforce Pod Security"),
        where=LAX,
    ),
    Attempt("no GPUs in a namespace without Pod Security", a_pod(), kept_off_gpu_servers, where=LAX),
]

PEOPLE = [
    Attempt("a namespace admin's GPU pod", a_gpu_pod(), gated, who=ADMIN),
    Attempt("a service account of another namespace", a_gpu_pod(), gated, who=STRANGER),
    Attempt("the platform engineer's GPU pod in a tenant's namespace", a_gpu_pod(), gated, who=PLATFORM),
    Attempt("a GPU pod in another tenant's namespace", a_gpu_pod(), gated, where=RIVAL),
    Attempt("a namespace that is a tenant's and a provider's is a tenant's", a_gpu_pod(), gated, where=BOTH),
    Attempt(
        "the operator's namespace, another service account, no rights",
        a_gpu_pod(),
        Refused("core", 'cannot create resource "pods"'),
        who=IMPOSTOR,
    ),
    Attempt("a kubelet mirrors its static pod", a_pod(annotations=MIRROR, nodeName="gpu-0"), mirrored, who=KUBELET),
    Attempt(
        "a kubelet creates a pod that is no mirror",
        a_pod(nodeName="gpu-0"),
        Refused(TENANT_PODS, "spec.nodeName"),
        who=KUBELET,
    ),
    Attempt(
        "a kubelet mirrors a static pod with GPUs",
        a_gpu_pod(annotations=MIRROR, nodeName="gpu-0"),
        Refused("core", "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"),
        who=KUBELET,
    ),
]

OTHER_PLACES = [
    Attempt(
        "a GPU pod in nobody's namespace",
        a_gpu_pod(),
        Refused(GUARD, "lacks the label gpugrant.io/tenant"),
        where=PLAIN,
    ),
    Attempt(
        "the platform engineer's GPU pod in nobody's namespace",
        a_gpu_pod(),
        Refused(GUARD, "lacks the label gpugrant.io/tenant"),
        where=PLAIN,
        who=PLATFORM,
    ),
    Attempt(
        "a GPU pod in nobody's namespace that gates itself",
        a_gpu_pod(schedulingGates=GATES),
        Refused(GUARD, "lacks the label gpugrant.io/tenant"),
        where=PLAIN,
    ),
    Attempt(
        "a resource claim in nobody's namespace",
        a_pod(**CLAIM),
        Refused(GUARD, "lacks the label gpugrant.io/tenant"),
        where=PLAIN,
    ),
    Attempt(
        "a grant's label in nobody's namespace",
        a_pod(labels={names.GRANT_LABEL: "pretrain"}),
        Refused(GUARD, "metadata: labels, annotations and finalizers under gpugrant.io/"),
        where=PLAIN,
    ),
    Attempt("a pod without GPUs in nobody's namespace", a_pod(), kept_off_gpu_servers, where=PLAIN),
    Attempt("a provider's own GPU pod", a_gpu_pod(), fenced, where=OWN),
    Attempt(
        "a provider's GPU pod with the toleration already there",
        a_gpu_pod(tolerations=tolerating(key="nvidia.com/gpu", operator="Exists")),
        fenced,
        where=OWN,
    ),
    Attempt(
        "a provider's GPU pod with two GPU containers and an init container",
        a_pod(gpu_container(), gpu_container(name="b"), initContainers=[gpu_container(name="i")]),
        fenced,
        where=OWN,
    ),
    Attempt(
        "a provider's GPU pod pointing at another provider's own use",
        a_gpu_pod(nodeSelector={names.OWN_USE_LABEL: "naver-cloud"}),
        fenced,
        where=OWN,
    ),
    Attempt(
        "a provider's GPU pod also asking for a public server fits nowhere",
        a_gpu_pod(nodeSelector={names.SHARE_LABEL: "Public"}),
        fenced,
        where=OWN,
    ),
    Attempt(
        "a provider's GPU pod that names its node",
        a_gpu_pod(nodeName="gpu-0"),
        Refused(GUARD, "spec.nodeName: a GPU pod may not name its node"),
        where=OWN,
    ),
    Attempt(
        "a provider's GPU pod that gates itself, to be released into a share",
        a_gpu_pod(schedulingGates=GATES),
        Refused(GUARD, "spec.schedulingGates: the gate gpugrant.io/admission is for pods of tenants"),
        where=OWN,
    ),
    Attempt(
        "a provider's GPU pod with a grant's label",
        a_gpu_pod(labels={names.GRANT_LABEL: "pretrain"}),
        Refused(GUARD, "metadata: labels, annotations and finalizers under gpugrant.io/"),
        where=OWN,
    ),
    Attempt(
        "a provider's GPU pod with a grant's uid",
        a_gpu_pod(annotations={names.GRANT_UID_ANNOTATION: "uid-1"}),
        Refused(GUARD, "metadata: labels, annotations and finalizers under gpugrant.io/"),
        where=OWN,
    ),
    Attempt(
        "a provider's GPU pod with the metering finalizer",
        a_gpu_pod(finalizers=[names.FINALIZER]),
        Refused(GUARD, "metadata: labels, annotations and finalizers under gpugrant.io/"),
        where=OWN,
    ),
    Attempt(
        "a provider's GPU pod with the GPU label forged to false",
        a_gpu_pod(labels={names.GPU_LABEL: "false"}),
        fenced,
        where=OWN,
    ),
    Attempt("a system GPU pod", a_gpu_pod(), counted, where=EXEMPT, who=PLATFORM),
    Attempt(
        "a system GPU pod that names its node and tolerates everything",
        a_gpu_pod(nodeName="gpu-0", tolerations=tolerating(operator="Exists"), priorityClassName="system-node-critical"),
        counted,
        where=EXEMPT,
        who=PLATFORM,
    ),
]

TABLE = [
    *QUANTITIES,
    *HIDING_PLACES,
    *MARKS,
    *PLACEMENT,
    *PRIORITY,
    *DEVICES,
    *PEOPLE,
    *OTHER_PLACES,
]


@pytest.mark.parametrize("attempt", [pytest.param(attempt, id=attempt.id) for attempt in TABLE])
def test_creating_a_pod_ends_as_the_table_says(api: Api, attempt: Attempt) -> None:
    judge(api, attempt)
