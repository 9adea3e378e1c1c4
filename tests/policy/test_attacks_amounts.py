"""The way in is closed: amounts, hiding places and devices that nobody asked for properly."""

import pytest

from gpugrant import names

from .api import Api, Json
from .attempts import LAX, Attempt, Refused, gated, judge, kept_off_gpu_servers, rows
from .pods import a_gpu_pod, a_pod, container, gpu_container, gpus, tolerating

TENANT_PODS = names.POLICY_TENANT_PODS
SIDECAR: Json = {"restartPolicy": "Always"}
DEVICE_CLASS = names.DEVICE_CLASS_PREFIX + "gpu.nvidia.com"
CLAIM: Json = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "any"}]}
VISIBLE = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]
FROM_CONFIG = {"configMapKeyRef": {"name": "c", "key": "k"}}
DEVICE_PATH: Json = {"volumes": [{"name": "dev", "hostPath": {"path": "/dev/nvidia0"}}]}
PRIVILEGED: Json = {"securityContext": {"privileged": True}}


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
    Attempt("GPUs in a sidecar only", a_pod(initContainers=[gpu_container(name="side", **SIDECAR)]), gated),
    Attempt(
        "GPUs in the last of many containers",
        a_pod(*[container(f"c{i}") for i in range(20)], gpu_container(name="last")),
        gated,
    ),
    Attempt("GPUs at pod level", a_pod(resources=gpus(1)), Refused("core", "spec.resources.limits")),
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


@pytest.mark.parametrize("attempt", rows(QUANTITIES, HIDING_PLACES, DEVICES))
def test_the_attempt_ends_as_the_table_says(api: Api, attempt: Attempt) -> None:
    judge(api, attempt)
