"""The way in is closed: whoever asks, and in whichever namespace; and nobody else is disturbed."""

import pytest

from gpugrant import names

from .api import Api, Json
from .attempts import (
    ADMIN,
    BOTH,
    EXEMPT,
    IMPOSTOR,
    KUBELET,
    OWN,
    PLAIN,
    PLATFORM,
    RIVAL,
    STRANGER,
    Attempt,
    Change,
    Refused,
    bound_to_its_grant,
    counted,
    fenced,
    gated,
    judge,
    kept_off_gpu_servers,
    mirrored,
    patch,
    rows,
)
from .pods import a_gpu_pod, a_pod, gpu_container, tolerating

GUARD, TENANT_PODS = names.POLICY_GUARD, names.POLICY_TENANT_PODS
CLAIM: Json = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "any"}]}
GATES = [{"name": names.GATE}]
MIRROR = {"kubernetes.io/config.mirror": "abc", "kubernetes.io/config.source": "file"}
LABELS_STAY = Refused(GUARD, "metadata.labels: labels under gpugrant.io/ are changed by the operator only")
FINALIZER_STAYS = Refused(GUARD, "metadata.finalizers: only the operator puts on and takes off")
OTHER_GATE = [{"name": "example.com/mine"}]


def labels(**values: str | None) -> Change:
    return patch(
        {"metadata": {"labels": {f"gpugrant.io/{k.replace('_', '-')}": v for k, v in values.items()}}}
    )


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
    Attempt(
        "a kubelet mirrors its static pod", a_pod(annotations=MIRROR, nodeName="gpu-0"), mirrored, who=KUBELET
    ),
    Attempt(
        "a kubelet creates a pod that is no mirror",
        a_pod(nodeName="gpu-0"),
        Refused(TENANT_PODS, "spec.nodeName"),
        who=KUBELET,
    ),
    Attempt(
        "a kubelet mirrors a static pod with GPUs",
        a_gpu_pod(annotations=MIRROR, nodeName="gpu-0"),
        Refused(
            "core", "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"
        ),
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
        a_gpu_pod(
            nodeName="gpu-0",
            tolerations=tolerating(operator="Exists"),
            priorityClassName="system-node-critical",
        ),
        counted,
        where=EXEMPT,
        who=PLATFORM,
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
    Attempt(
        "a provider's pod with a grant, late", a_gpu_pod(), LABELS_STAY, where=OWN, then=labels(grant="x")
    ),
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


@pytest.mark.parametrize("attempt", rows(PEOPLE, OTHER_PLACES, OWN_USE, NOBODY_IS_DISTURBED))
def test_the_attempt_ends_as_the_table_says(api: Api, attempt: Attempt) -> None:
    judge(api, attempt)
