"""Pods for the tables: one builder, everything else said by the row."""

from typing import Any

from gpugrant import names

Json = dict[str, Any]


def container(name: str = "main", **fields: Any) -> Json:
    return {"name": name, "image": "registry.example/train:1", **fields}


def gpus(amount: str | int = 1, resource: str = names.DEFAULT_RESOURCE) -> Json:
    """Return the resources of a container that asks for so many GPUs."""
    return {"limits": {resource: str(amount)}}


def gpu_container(amount: str | int = 1, resource: str = names.DEFAULT_RESOURCE, **fields: Any) -> Json:
    return container(resources=gpus(amount, resource), **fields)


def a_pod(
    *containers: Json,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    finalizers: list[str] | None = None,
    **spec: Any,
) -> Json:
    """Return a pod; without containers it has one that asks for no GPU."""
    metadata: Json = {"generateName": "attempt-"}
    if labels is not None:
        metadata["labels"] = labels
    if annotations is not None:
        metadata["annotations"] = annotations
    if finalizers is not None:
        metadata["finalizers"] = finalizers
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": list(containers) or [container()], "restartPolicy": "Never", **spec},
    }


def a_gpu_pod(amount: str | int = 1, **rest: Any) -> Json:
    return a_pod(gpu_container(amount), **rest)


def tolerating(**toleration: str) -> list[Json]:
    return [dict(toleration)]


def node_affinity(key: str, *, required: bool = True) -> Json:
    """Return an affinity that names one node label."""
    term = {"matchExpressions": [{"key": key, "operator": "Exists"}]}
    if required:
        return {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        }
    preferred = [{"weight": 1, "preference": term}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def pod_affinity(kind: str, topology_key: str, *, required: bool = True) -> Json:
    """Return a podAffinity or podAntiAffinity over one topology key."""
    term = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": topology_key}
    if required:
        return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    preferred = [{"weight": 1, "podAffinityTerm": term}]
    return {kind: {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def gates_of(pod: Json) -> list[str]:
    return [gate["name"] for gate in pod["spec"].get("schedulingGates", [])]


def labels_of(pod: Json) -> dict[str, str]:
    return dict(pod["metadata"].get("labels", {}))
