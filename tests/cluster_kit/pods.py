"""Pods as tenants write them."""

from typing import Any

from devcluster.client import JsonObject


def a_pod(name: str, namespace: str, gpus: int | str | None = None, *, resource: str = "nvidia.com/gpu",
          labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None,
          finalizers: list[str] | None = None, **spec: Any) -> JsonObject:
    """Return a pod of one container; ``spec`` adds to or replaces fields of its spec."""
    container: JsonObject = {"name": "main", "image": "registry.example/train:1"}
    if gpus is not None:
        container["resources"] = {"limits": {resource: gpus}}
    metadata: JsonObject = {"name": name, "namespace": namespace}
    for key, value in (("labels", labels), ("annotations", annotations), ("finalizers", finalizers)):
        if value:
            metadata[key] = value
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container], **spec}}


def pod_path(pod: JsonObject) -> str:
    """Return a pod's path."""
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def phase(pod: JsonObject | None) -> str:
    """Return a pod's phase, or Gone."""
    return "Gone" if pod is None else str(pod.get("status", {}).get("phase", ""))


def condition(found: JsonObject | None, kind: str) -> JsonObject:
    """Return a condition of any object, or {}."""
    conditions = (found or {}).get("status", {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})


def is_ready(found: JsonObject | None) -> bool:
    """Say whether a pod or node is Ready."""
    return condition(found, "Ready").get("status") == "True"
