"""What of gpugrant's is on an object, and the JSON patch that takes it off. Pure: JSON in, JSON out.

Marks are what the operator and the policies wrote. What people wrote stays: the labels of namespaces, provider and
fabric of nodes, a maintenance window, gang and grant on a pod that was never released. A pod that stays behind the gate
keeps the words that say why.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gpugrant import names
from gpugrant.act.patches import escape

JsonObject = Mapping[str, Any]
Operation = dict[str, Any]

_OURS: Final = f"{names.GROUP}/"
# Where Kopf would keep what it remembers of an object, were it ever asked to.
_KOPFS: Final = f"kopf.{names.GROUP}/"
_POD_ANNOTATIONS: Final = (
    names.GRANT_UID_ANNOTATION,
    names.RELEASED_AT_ANNOTATION,
    names.REPLACEMENT_ANNOTATION,
)


def is_gated(pod: JsonObject) -> bool:
    """Say whether a pod waits behind our gate."""
    return any(gate["name"] == names.GATE for gate in pod["spec"].get("schedulingGates") or ())


def is_running(pod: JsonObject) -> bool:
    """Say whether a pod is bound, and neither has ended nor is being deleted."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return bool(pod["spec"].get("nodeName")) and _phase(pod) not in ("Succeeded", "Failed")


def is_unplaceable(pod: JsonObject) -> bool:
    """Say whether a pod waits for a server that carries a label of ours. A released pod keeps its selector."""
    selects = any(key.startswith(_OURS) for key in pod["spec"].get("nodeSelector") or ())
    return selects and not pod["spec"].get("nodeName") and not is_gated(pod) and _phase(pod) == "Pending"


def controller_of(pod: JsonObject) -> str:
    """Return the uid of the controller that makes the pod again when it goes; "" where there is none."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def waiting_words(pod: JsonObject) -> str:
    """Return what a pod was told about its waiting."""
    return str((pod["metadata"].get("annotations") or {}).get(names.WAITING_ANNOTATION, ""))


def unmark_pod(pod: JsonObject, *, release: bool) -> list[Operation]:
    """Return the patch that takes our marks off a pod; with ``release`` the gate goes too. [] where nothing is."""
    there = pod["metadata"].get("annotations") or {}
    released = names.GRANT_UID_ANNOTATION in there or names.FINALIZER in _finalizers(pod)
    labels = [names.GPU_LABEL, names.GRANT_LABEL] if released else [names.GPU_LABEL]
    stays = is_gated(pod) and not release
    annotations = _POD_ANNOTATIONS if stays else (names.WAITING_ANNOTATION, *_POD_ANNOTATIONS)
    patch = _drop_keys(pod, "labels", labels) + _drop_keys(pod, "annotations", annotations)
    patch += _drop_finalizers(pod)
    if release:
        gates = pod["spec"].get("schedulingGates") or []
        ours = [index for index, gate in enumerate(gates) if gate["name"] == names.GATE]
        patch += _drop_entries("/spec/schedulingGates", ours, lambda index: {"name": gates[index]["name"]})
    return _guarded(pod, patch)


def unmark_node(node: JsonObject, resources: frozenset[str]) -> list[Operation]:
    """Return the patch that makes a server of a pool a node again; ``resources``: names that pools have used.

    A taint of the pool's form is taken for ours on nodes that carry our label, as the operator does when a server
    leaves its pool.
    """
    patch = _drop_keys(node, "labels", names.NODE_LABELS) + _drop_finalizers(node)
    if names.POOL_LABEL in (node["metadata"].get("labels") or {}):
        offered = (node.get("status") or {}).get("capacity") or {}
        taints = node["spec"].get("taints") or []
        ours = [
            index
            for index, taint in enumerate(taints)
            if (taint["key"] in resources or taint["key"] in offered)
            and (taint.get("value"), taint["effect"]) == (names.TAINT_VALUE, names.TAINT_EFFECT)
        ]
        patch += _drop_entries("/spec/taints", ours, lambda index: {"key": taints[index]["key"]})
    return _guarded(node, patch)


def unmark_own(found: JsonObject) -> list[Operation]:
    """Return the patch that takes finalizers and Kopf's notes off an object of our own kinds."""
    kopfs = [key for key in found["metadata"].get("annotations") or () if key.startswith(_KOPFS)]
    return _guarded(found, _drop_keys(found, "annotations", kopfs) + _drop_finalizers(found))


def _phase(pod: JsonObject) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def _finalizers(found: JsonObject) -> list[str]:
    return list(found["metadata"].get("finalizers") or ())


def _drop_finalizers(found: JsonObject) -> list[Operation]:
    there = _finalizers(found)
    ours = [index for index, name in enumerate(there) if name.startswith(_OURS)]
    return _drop_entries("/metadata/finalizers", ours, lambda index: there[index])


def _drop_keys(found: JsonObject, field: str, keys: Iterable[str]) -> list[Operation]:
    there = found["metadata"].get(field) or {}
    return [{"op": "remove", "path": f"/metadata/{field}/{escape(key)}"} for key in keys if key in there]


def _drop_entries(path: str, indices: list[int], what: Any) -> list[Operation]:
    """Remove list entries from the back, so that earlier removals do not move later ones; each is tested first."""
    patch: list[Operation] = []
    for index in reversed(indices):
        told = what(index)
        tests = (
            [{"op": "test", "path": f"{path}/{index}/{key}", "value": value} for key, value in told.items()]
            if isinstance(told, dict)
            else [{"op": "test", "path": f"{path}/{index}", "value": told}]
        )
        patch += [*tests, {"op": "remove", "path": f"{path}/{index}"}]
    return patch


def _guarded(found: JsonObject, patch: list[Operation]) -> list[Operation]:
    if not patch:
        return []
    return [{"op": "test", "path": "/metadata/uid", "value": found["metadata"]["uid"]}, *patch]
