"""The way in is closed: our labels, annotations and finalizer, at creation and later."""

import pytest

from gpugrant import names

from .api import Api
from .attempts import (
    ADMIN,
    PLAIN,
    PLATFORM,
    Attempt,
    Change,
    Refused,
    gated,
    judge,
    patch,
    put,
    rows,
    still_gated,
)
from .pods import a_gpu_pod, a_pod

GUARD, TENANT_PODS = names.POLICY_GUARD, names.POLICY_TENANT_PODS
GATES = [{"name": names.GATE}]
LABELS_STAY = Refused(GUARD, "metadata.labels: labels under gpugrant.io/ are changed by the operator only")
ANNOTATIONS_STAY = Refused(GUARD, "metadata.annotations: annotations under gpugrant.io/ are changed")
FINALIZER_STAYS = Refused(GUARD, "metadata.finalizers: only the operator puts on and takes off")


def labels(**values: str | None) -> Change:
    return patch(
        {"metadata": {"labels": {f"gpugrant.io/{k.replace('_', '-')}": v for k, v in values.items()}}}
    )


def annotations(**values: str | None) -> Change:
    given = {f"gpugrant.io/{k.replace('_', '-')}": v for k, v in values.items()}
    return patch({"metadata": {"annotations": given}})


MARKS_AT_CREATION = [
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

MARKS_LATER = [
    Attempt("the GPU label off", a_gpu_pod(), LABELS_STAY, then=labels(gpu=None)),
    Attempt("the GPU label to false", a_gpu_pod(), LABELS_STAY, then=labels(gpu="false")),
    Attempt(
        "all labels off by PUT", a_gpu_pod(), LABELS_STAY, then=put(lambda p: p["metadata"].pop("labels"))
    ),
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
    Attempt(
        "the grant off after the release", a_gpu_pod(), LABELS_STAY, released=True, then=labels(grant=None)
    ),
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
    Attempt(
        "a label of the user's own",
        a_gpu_pod(),
        still_gated,
        then=patch({"metadata": {"labels": {"a": "b"}}}),
    ),
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
        "the annotation that only the kwok nodes read",
        a_gpu_pod(),
        still_gated,
        then=annotations(run_seconds="5"),
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


@pytest.mark.parametrize("attempt", rows(MARKS_AT_CREATION, MARKS_LATER))
def test_the_attempt_ends_as_the_table_says(api: Api, attempt: Attempt) -> None:
    judge(api, attempt)
