"""Objects as an API server sends them, of realistic size, and the JSON patches that change them."""

import copy
from datetime import UTC, datetime
from typing import Any

import msgspec

from devcluster.fleet import Fleet, a_server
from gpugrant import names

Json = dict[str, Any]
encode = msgspec.json.Encoder().encode
# Gated; with its status it grows to 5 KB: what a training Job's pod weighs at the API server.
POD_BYTES = 4300


def stamp(at: int) -> str:
    """Return epoch seconds as the API server writes them."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- objects -------------------------------------------------------------------------------------------


def nodes(fleet: Fleet) -> list[Json]:
    """Return the fleet's nodes with the heartbeat conditions, images and managedFields that real ones carry."""
    made = []
    for pool in fleet.pools:
        for fabric, size in enumerate(pool.fabrics, 1):
            for number in range(size):
                node = a_server(
                    f"{pool.name}-{fabric}-{number:04}",
                    provider=pool.provider,
                    product=pool.gpu_type,
                    fabric=f"{pool.name}-f{fabric}",
                )
                now = node["status"]["conditions"][0]["lastHeartbeatTime"]
                node["status"]["conditions"] += [
                    {
                        "type": kind,
                        "status": "False",
                        "reason": f"KubeletHasNo{kind}",
                        "lastHeartbeatTime": now,
                        "lastTransitionTime": now,
                        "message": f"kubelet has no {kind}",
                    }
                    for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")
                ]
                node["status"]["images"] = [
                    {"names": [f"registry.example/team/image-{i}@sha256:{i:064x}"], "sizeBytes": 10**9 + i}
                    for i in range(20)
                ]
                node["metadata"]["creationTimestamp"] = now
                node["metadata"]["managedFields"] = _managed(now, 40)
                made.append(node)
    return made


def pools(fleet: Fleet) -> list[Json]:
    """Return a GpuPool for each pool of the fleet, all public."""
    return [
        {
            "apiVersion": names.API_VERSION,
            "kind": "GpuPool",
            "metadata": {"name": pool.name},
            "spec": {"programme": pool.programme, "provider": pool.provider, "gpuType": pool.gpu_type},
        }
        for pool in fleet.pools
    ]


def tenant(name: str, programme: str, gpu_type: str, gpus: int) -> list[Json]:
    """Return a tenant's namespace and quota, both of its name."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": name,
                "labels": {names.TENANT_LABEL: name, names.POD_SECURITY_LABEL: "baseline"},
            },
        },
        {
            "apiVersion": names.API_VERSION,
            "kind": "TenantQuota",
            "metadata": {"name": name},
            "spec": {"limits": [{"programme": programme, "gpuType": gpu_type, "gpus": gpus}]},
        },
    ]


def grant(
    name: str, namespace: str, programme: str, gpu_type: str, provider: str, gpus: int, now: int
) -> Json:
    """Return a grant of servers of its own, whose term began yesterday."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "GpuGrant",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "programme": programme,
            "gpuType": gpu_type,
            "provider": provider,
            "gpus": gpus,
            "placement": "AnyFabric",
            "term": {"start": stamp(now - 86_400), "end": stamp(now + 90 * 86_400)},
        },
    }


def pod_manifest() -> Json:
    """Return a one-GPU pod as a tenant submits it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"labels": {"app": "train"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "train",
                    "image": "registry.example/team/train:1",
                    "command": ["python", "-m", "train", "--config", "/etc/train/config.yaml"],
                    "env": [{"name": f"SETTING_{i}", "value": "x" * 30} for i in range(20)],
                    "resources": {
                        "requests": {"cpu": "8", "memory": "64Gi", names.DEFAULT_RESOURCE: "1"},
                        "limits": {"cpu": "8", "memory": "64Gi", names.DEFAULT_RESOURCE: "1"},
                    },
                }
            ],
        },
    }


def gated_pod(number: int, namespace: str, grant_name: str, at: int) -> Json:
    """Return a pod as the API server keeps it after admission: gated, labelled, with defaults."""
    pod = pod_manifest()
    meta, spec = pod["metadata"], pod["spec"]
    meta |= {
        "name": f"train-{number:06}",
        "namespace": namespace,
        "uid": f"{number:08x}-0000-4000-8000-{number:012x}",
        "creationTimestamp": stamp(at),
        "managedFields": _managed(stamp(at), 10),
    }
    meta["labels"] |= {names.GPU_LABEL: "true", names.GRANT_LABEL: grant_name}
    spec |= {
        "schedulingGates": [{"name": names.GATE}],
        "schedulerName": "default-scheduler",
        "serviceAccountName": "default",
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{key}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            }
            for key in ("not-ready", "unreachable")
        ],
        "volumes": [
            {
                "name": "kube-api-access",
                "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "token"}}]},
            }
        ],
    }
    pod["status"] = {
        "phase": "Pending",
        "qosClass": "Guaranteed",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastTransitionTime": stamp(at),
            }
        ],
    }
    meta["annotations"] = {"team.example/note": "x" * max(1, POD_BYTES - len(encode(pod)) - 60)}
    return pod


def _managed(at: str, fields: int) -> list[Json]:
    return [
        {
            "manager": manager,
            "operation": "Update",
            "apiVersion": "v1",
            "time": at,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:status": {f"f:field-{i}": {".": {}} for i in range(fields)}},
            **({"subresource": "status"} if manager == "kubelet" else {}),
        }
        for manager in ("kubectl", "kubelet")
    ]


# -- what becomes of a pod -----------------------------------------------------------------------------


def bind(pod: Json, node: str, at: int) -> None:
    """Let the scheduler bind a pod."""
    pod["spec"]["nodeName"] = node
    pod["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(at)}
    ]


def run(pod: Json, at: int) -> None:
    """Let the kubelet start a pod's containers."""
    pod["status"] |= {"phase": "Running", "startTime": stamp(at), "podIP": "10.64.0.1", "hostIP": "10.1.0.1"}
    pod["status"]["conditions"] += [
        {"type": kind, "status": "True", "lastTransitionTime": stamp(at)}
        for kind in ("Initialized", "ContainersReady", "Ready")
    ]
    state = {"running": {"startedAt": stamp(at)}}
    pod["status"]["containerStatuses"] = [
        {
            "name": "train",
            "image": "registry.example/team/train:1",
            "ready": True,
            "restartCount": 0,
            "state": state,
        }
    ]


def end(pod: Json, at: int) -> None:
    """Let a pod's containers succeed."""
    pod["status"]["phase"] = "Succeeded"
    container = pod["status"]["containerStatuses"][0]
    begun = container["state"]["running"]["startedAt"]
    container["state"] = {"terminated": {"exitCode": 0, "startedAt": begun, "finishedAt": stamp(at)}}


# -- patches -------------------------------------------------------------------------------------------


def apply_patch(body: Json, patch: bytes) -> Json:
    """Return ``body`` after a JSON patch (RFC 6902: test, add, remove). Raises ValueError where a test fails."""
    found: Json = copy.deepcopy(body)
    for operation in msgspec.json.decode(patch):
        *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        place: Any = found
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        key: Any = int(last) if isinstance(place, list) and last != "-" else last
        match operation["op"]:
            case "test":
                there = place[key] if isinstance(place, list) else place.get(key)
                if there != operation["value"]:
                    raise ValueError(f"{operation}: there is {there!r}")
            case "add" if key == "-":
                place.append(operation["value"])
            case "add" if isinstance(place, list):
                place.insert(key, operation["value"])
            case "add":
                place[key] = operation["value"]
            case "remove":
                del place[key]
                if not place and isinstance(place, list):  # the API server omits empty lists
                    _drop_empty(found, operation["path"])
    return found


def _drop_empty(body: Json, path: str) -> None:
    *way, last = path.split("/")[1:-1]
    place: Any = body
    for part in way:
        place = place[part]
    del place[last]


def merge_patch(body: Json, patch: Json) -> Json:
    """Return ``body`` after a JSON merge patch (RFC 7386)."""
    merged = dict(body)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            old = merged.get(key)
            merged[key] = merge_patch(old if isinstance(old, dict) else {}, value)
        else:
            merged[key] = value
    return merged
