"""The bodies of our writes: pure functions from what is known and what is wanted to bytes.

Lists without merge keys (tolerations, taints, gates, finalizers) are only ever changed by JSON patch with
tests: a strategic merge or a forced apply would wipe what others wrote. A whole map or list is added only
after a test that there is none (``value: null``), so that a stale view costs a 422, never others' data.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from gpugrant import names
from gpugrant.decide.actions import EvictPod, ReleasePod, SetStatus, WriteServer
from gpugrant.model.node import Node
from gpugrant.model.pod import Pod, Toleration

Operation = dict[str, Any]
_encode = msgspec.json.Encoder().encode


class StaleError(Exception):
    """What is known of the object does not go with what is wanted: decide again."""


def escape(key: str) -> str:
    """Return a key as one part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def stamp(at: int) -> str:
    """Return epoch seconds as the API server writes them."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _test(path: str, value: object) -> Operation:
    return {"op": "test", "path": path, "value": value}


def _add(path: str, value: object) -> Operation:
    return {"op": "add", "path": path, "value": value}


def _remove(path: str) -> Operation:
    return {"op": "remove", "path": path}


def _add_keys(path: str, exists: bool, values: dict[str, str]) -> list[Operation]:
    """Return how to put keys into a map that exists, or to add the map where there is none."""
    if not values:
        return []
    if exists:
        return [_add(f"{path}/{escape(key)}", value) for key, value in values.items()]
    return [_test(path, None), _add(path, values)]


# -- pods ------------------------------------------------------------------------------------------


def release(pod: Pod, action: ReleasePod) -> bytes:
    """Return the one JSON patch that takes the gate off and says where the pod may run.

    Raises StaleError where the pod is no longer as the decision took it: ours must be the last gate left.
    """
    if pod.uid != action.uid or pod.gates != (names.GATE,) or pod.deleting:
        raise StaleError(f"pod {pod.key} has gates {list(pod.gates)}, deleting {bool(pod.deleting)}")
    annotations = {
        names.GRANT_UID_ANNOTATION: action.grant_uid,
        names.RELEASED_AT_ANNOTATION: stamp(action.at),
    }
    if action.replacement:
        annotations[names.REPLACEMENT_ANNOTATION] = "true"
    patch = [
        _test("/metadata/uid", pod.uid),
        _test("/spec/schedulingGates/0/name", names.GATE),
        _remove("/spec/schedulingGates/0"),
        *_tolerate(pod, action.resource),
        *_add_keys("/spec/nodeSelector", bool(pod.shape.selector), dict(action.selector)),
        *_add_keys("/metadata/labels", pod.gpu_label, {names.GRANT_LABEL: action.grant}),
        *_add_keys("/metadata/annotations", pod.annotated, annotations),
    ]
    if pod.waiting:
        patch.append(_remove(f"/metadata/annotations/{escape(names.WAITING_ANNOTATION)}"))
    if action.finalizer and not pod.finalizer:
        if pod.finalizers:
            patch.append(_add("/metadata/finalizers/-", names.FINALIZER))
        else:
            patch += [_test("/metadata/finalizers", None), _add("/metadata/finalizers", [names.FINALIZER])]
    return _encode(patch)


def _tolerate(pod: Pod, resource: str) -> list[Operation]:
    wanted = Toleration(key=resource, operator="Exists", effect=names.TAINT_EFFECT)
    if wanted in pod.shape.tolerations:
        return []
    toleration = {"key": resource, "operator": "Exists", "effect": names.TAINT_EFFECT}
    if pod.shape.tolerations:
        return [_add("/spec/tolerations/-", toleration)]
    return [_test("/spec/tolerations", None), _add("/spec/tolerations", [toleration])]


def strip_finalizer(uid: str, index: int) -> bytes:
    """Return the patch that takes the metering finalizer off."""
    path = f"/metadata/finalizers/{index}"
    return _encode([_test("/metadata/uid", uid), _test(path, names.FINALIZER), _remove(path)])


def explain(uid: str, message: str) -> bytes:
    """Return the merge patch that writes the reason a pod waits on it."""
    return _encode({"metadata": {"uid": uid, "annotations": {names.WAITING_ANNOTATION: message}}})


def label(uid: str) -> bytes:
    """Return the merge patch that puts the gpu label on."""
    return _encode({"metadata": {"uid": uid, "labels": {names.GPU_LABEL: "true"}}})


def eviction(pod: Pod, action: EvictPod) -> bytes:
    """Return the policy/v1 Eviction of a pod."""
    return _encode(
        {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": _delete_options(pod, action),
        }
    )


def deletion(pod: Pod, action: EvictPod) -> bytes:
    """Return the DeleteOptions for a DELETE of a pod."""
    return _encode({"apiVersion": "v1", "kind": "DeleteOptions", **_delete_options(pod, action)})


def _delete_options(pod: Pod, action: EvictPod) -> dict[str, Any]:
    # Always explicit: a tenant may have asked for a grace period of thirty years.
    preconditions = {"uid": action.uid}
    if action.unbound == action.uid:
        preconditions["resourceVersion"] = pod.version  # the scheduler may bind it at this very moment
    return {
        "gracePeriodSeconds": max(0, min(pod.grace_seconds, action.grace_seconds)),
        "preconditions": preconditions,
    }


# -- nodes -----------------------------------------------------------------------------------------


def server(node: Node, action: WriteServer) -> bytes | None:
    """Return the JSON patch for a server's labels and taints of ours; None where nothing would change."""
    patch: list[Operation] = []
    for key, value in action.labels:
        path = f"/metadata/labels/{escape(key)}"
        if value is None and key in node.labels:
            patch.append(_remove(path))
        elif value is not None and node.labels.get(key) != value:
            patch.append(_add(path, value))
    patch += _taints(node, action)
    if not patch:
        return None
    if not node.labels:
        patch.insert(0, _add("/metadata/labels", {}))
        patch.insert(0, _test("/metadata/labels", None))
    return _encode([_test("/metadata/uid", node.uid), *patch])


def _taints(node: Node, action: WriteServer) -> list[Operation]:
    patch: list[Operation] = []
    # From the back, so that earlier removals do not move later ones.
    for index in reversed(range(len(node.taints))):
        taint = node.taints[index]
        if taint.key in action.drop_taints and taint.effect == names.TAINT_EFFECT:
            path = f"/spec/taints/{index}"
            patch += [_test(f"{path}/key", taint.key), _test(f"{path}/effect", taint.effect), _remove(path)]
    there = {taint.key for taint in node.taints if taint.effect == names.TAINT_EFFECT}
    missing = [
        {"key": key, "value": names.TAINT_VALUE, "effect": names.TAINT_EFFECT}
        for key in action.add_taints
        if key not in there
    ]
    if missing and not node.taints:
        return [*patch, _test("/spec/taints", None), _add("/spec/taints", missing)]
    return patch + [_add("/spec/taints/-", taint) for taint in missing]


# -- our own kinds ---------------------------------------------------------------------------------


def status(known: dict[str, Any], action: SetStatus) -> bytes | None:
    """Return the merge patch from the known status to the wanted one; None where nothing would change."""
    difference = merge(known, action.status)
    if not difference:
        return None
    return _encode({"metadata": {"uid": action.uid}, "status": difference})


def merge(known: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch (RFC 7386) that makes ``wanted`` of ``known``."""
    patch: dict[str, Any] = {key: None for key in known if key not in wanted or wanted[key] is None}
    for key, value in wanted.items():
        old = known.get(key)
        if value is None or old == value:
            continue
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := merge(old, value):
                patch[key] = inner
        else:
            patch[key] = value
    return patch
