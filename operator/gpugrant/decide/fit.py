"""Would the scheduler put this pod on this server? The part of its rules that can be known beforehand.

Node selector, required node affinity and taints, as documented at
https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/ and taint-and-toleration.
"""

from gpugrant.model.node import Node
from gpugrant.model.pod import Requirement, Shape, Term, Toleration

_BLOCKING = ("NoSchedule", "NoExecute")
_OTHER_LABELS = "other labels than its nodeSelector and affinity ask for"


# Kubernetes' own taints tell a node's state of the moment (not-ready, unschedulable, pressure …).
_PASSING = "node.kubernetes.io/"


def node_matches(shape: Shape, node: Node, granted_taint: str = "", passing: bool = True) -> bool:
    """Say whether selector, affinity and taints let the pod onto the node; the arguments are those of node_obstacle."""
    return not node_obstacle(shape, node, granted_taint, passing)


def node_obstacle(shape: Shape, node: Node, granted_taint: str = "", passing: bool = True) -> str:
    """Return what the node has that keeps the pod off, "" where selector, affinity and taints let it on.

    ``granted_taint`` is the key that the release will tolerate. Without ``passing``, taints that come and go with
    the node's state are looked away from: would the pod fit a healthy server?
    """
    labels = node.labels
    for key, value in shape.selector:
        if labels.get(key) != value:
            return _OTHER_LABELS
    if shape.affinity and not any(_term_holds(term, node) for term in shape.affinity):
        return _OTHER_LABELS
    for taint in node.taints:
        if not passing and taint.key.startswith(_PASSING):
            continue
        if taint.effect in _BLOCKING and taint.key != granted_taint:
            if not any(_tolerates(t, taint.key, taint.value, taint.effect) for t in shape.tolerations):
                return f"the taint {taint.key}"
    return ""


def _term_holds(term: Term, node: Node) -> bool:
    if not term.expressions and not term.fields:
        return False
    return all(_holds(r, node.labels.get(r.key)) for r in term.expressions) and all(
        r.key == "metadata.name" and _holds(r, node.name) for r in term.fields
    )


def _holds(need: Requirement, value: str | None) -> bool:
    match need.operator:
        case "In":
            return value is not None and value in need.values
        case "NotIn":
            return value is None or value not in need.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            try:
                have, bound = int(value or ""), int(need.values[0])
            except (ValueError, IndexError):
                return False
            return have > bound if need.operator == "Gt" else have < bound
    return False


def _tolerates(toleration: Toleration, key: str, value: str, effect: str) -> bool:
    if toleration.effect and toleration.effect != effect:
        return False
    if not toleration.key:
        return toleration.operator == "Exists"
    if toleration.key != key:
        return False
    return toleration.operator == "Exists" or toleration.value == value
