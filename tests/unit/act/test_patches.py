"""Each patch does what was decided to the object it was decided for, or is refused."""

import json
from typing import Any

import pytest

from gpugrant import names
from gpugrant.act import patches
from gpugrant.decide.actions import EvictPod, ReleasePod, SetStatus, WriteServer
from gpugrant.model.node import Node, Taint
from gpugrant.model.pod import Pod, Shape, Toleration

RELEASE = ReleasePod(
    "u",
    "ns",
    "p",
    "eval",
    "gu",
    "n",
    (("gpugrant.io/grant-uid", "gu"),),
    "nvidia.com/gpu",
    True,
    False,
    1_000,
    "words",
)


class Refused(Exception):
    """A test of the patch failed: the API server would answer 422."""


def apply(document: Any, body: bytes) -> Any:
    """Apply a JSON patch as the API server does; a test of null holds where there is nothing."""
    document = json.loads(json.dumps(document))
    for operation in json.loads(body):
        *path, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        parent = document
        for part in path:
            parent = parent[int(part)] if isinstance(parent, list) else parent[part]
        match operation["op"], parent:
            case "test", list():
                if int(last) >= len(parent) or parent[int(last)] != operation["value"]:
                    raise Refused(operation)
            case "test", _:
                if parent.get(last) != operation["value"]:
                    raise Refused(operation)
            case "remove", _:
                del parent[int(last) if isinstance(parent, list) else last]
            case "add", list():
                parent.insert(len(parent) if last == "-" else int(last), operation["value"])
            case "add", _:
                parent[last] = operation["value"]
    return document


def gated(**fields: Any) -> Pod:
    return Pod(uid="u", namespace="ns", name="p", gates=(names.GATE,), **fields)


BARE = {
    "metadata": {"uid": "u", "labels": {names.GPU_LABEL: "true"}},
    "spec": {"schedulingGates": [{"name": names.GATE}]},
}


def test_a_bare_pod_gets_all_that_is_needed_in_one_patch() -> None:
    after = apply(BARE, patches.release(gated(), RELEASE))
    assert after["spec"] == {
        "schedulingGates": [],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "nodeSelector": {"gpugrant.io/grant-uid": "gu"},
    }
    assert after["metadata"] == {
        "uid": "u",
        "labels": {names.GPU_LABEL: "true", names.GRANT_LABEL: "eval"},
        "annotations": {
            names.GRANT_UID_ANNOTATION: "gu",
            names.RELEASED_AT_ANNOTATION: "1970-01-01T00:16:40Z",
        },
        "finalizers": [names.FINALIZER],
    }


def test_what_others_wrote_stays() -> None:
    theirs = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
    before = {
        "metadata": {
            "uid": "u",
            "labels": {names.GPU_LABEL: "true", "app": "x"},
            "annotations": {"a": "b", names.WAITING_ANNOTATION: "no room"},
            "finalizers": ["batch.kubernetes.io/job-tracking"],
        },
        "spec": {
            "schedulingGates": [{"name": names.GATE}],
            "tolerations": [theirs],
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
        },
    }
    shape = Shape(
        selector=(("kubernetes.io/arch", "amd64"),),
        tolerations=(Toleration(theirs["key"], "Exists", "", "NoExecute"),),
    )
    pod = gated(shape=shape, annotated=True, waiting="no room", finalizers=1)
    after = apply(before, patches.release(pod, RELEASE))
    assert after["spec"]["tolerations"][0] == theirs
    assert len(after["spec"]["tolerations"]) == 2
    assert after["spec"]["nodeSelector"]["kubernetes.io/arch"] == "amd64"
    assert after["metadata"]["labels"]["app"] == "x"
    assert after["metadata"]["annotations"]["a"] == "b"
    assert names.WAITING_ANNOTATION not in after["metadata"]["annotations"]
    assert after["metadata"]["finalizers"] == ["batch.kubernetes.io/job-tracking", names.FINALIZER]


@pytest.mark.parametrize(
    "meanwhile",
    [
        {"metadata": {**BARE["metadata"], "uid": "another"}, "spec": BARE["spec"]},
        {
            "metadata": BARE["metadata"],
            "spec": {"schedulingGates": [{"name": "theirs"}, {"name": names.GATE}]},
        },
        {"metadata": {**BARE["metadata"], "annotations": {"a": "b"}}, "spec": BARE["spec"]},
        {"metadata": {**BARE["metadata"], "finalizers": ["theirs"]}, "spec": BARE["spec"]},
        {"metadata": BARE["metadata"], "spec": {**BARE["spec"], "nodeSelector": {"a": "b"}}},
        {"metadata": BARE["metadata"], "spec": {**BARE["spec"], "tolerations": [{"key": "a"}]}},
    ],
    ids=["another pod", "another gate", "annotations", "a finalizer", "a selector", "a toleration"],
)
def test_what_came_up_meanwhile_is_never_overwritten(meanwhile: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        apply(meanwhile, patches.release(gated(), RELEASE))


@pytest.mark.parametrize(
    "pod",
    [
        Pod(uid="u", namespace="ns", name="p", gates=()),
        Pod(uid="u", namespace="ns", name="p", gates=(names.GATE, "kueue.x-k8s.io/admission")),
        Pod(uid="u", namespace="ns", name="p", gates=(names.GATE,), deleting=5),
        Pod(uid="other", namespace="ns", name="p", gates=(names.GATE,)),
    ],
    ids=["already released", "another gate is left", "being deleted", "another pod"],
)
def test_a_release_that_no_longer_fits_is_not_even_sent(pod: Pod) -> None:
    with pytest.raises(patches.StaleError):
        patches.release(pod, RELEASE)


def test_a_namespace_that_opted_out_gets_no_finalizer() -> None:
    import msgspec

    action = msgspec.structs.replace(RELEASE, finalizer=False)
    assert "finalizers" not in apply(BARE, patches.release(gated(), action))["metadata"]


def test_only_our_finalizer_is_stripped() -> None:
    before = {"metadata": {"uid": "u", "finalizers": ["theirs", names.FINALIZER]}}
    assert apply(before, patches.strip_finalizer("u", 1))["metadata"]["finalizers"] == ["theirs"]
    with pytest.raises(Refused):
        apply(before, patches.strip_finalizer("u", 0))


@pytest.mark.parametrize(
    ("asked", "ceiling", "granted"), [(10**9, 3600, 3600), (30, 3600, 30), (0, 3600, 0), (30, 0, 0)]
)
def test_grace_is_what_the_pod_asks_for_up_to_the_ceiling(asked: int, ceiling: int, granted: int) -> None:
    pod = Pod(uid="u", namespace="ns", name="p", grace_seconds=asked)
    action = EvictPod("u", "ns", "p", ceiling, False, "Evicting", "")
    for body in (
        json.loads(patches.eviction(pod, action))["deleteOptions"],
        json.loads(patches.deletion(pod, action)),
    ):
        assert body["gracePeriodSeconds"] == granted
        assert body["preconditions"] == {"uid": "u"}


# -- servers ---------------------------------------------------------------------------------------

NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
OURS = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def node(taints: list[dict[str, str]], labels: dict[str, str] | None = None) -> tuple[Node, dict[str, Any]]:
    labels = {"kubernetes.io/hostname": "n"} if labels is None else labels
    body: dict[str, Any] = {"metadata": {"uid": "nu", "labels": labels}, "spec": {}}
    if taints:
        body["spec"]["taints"] = taints
    seen = tuple(Taint(one["key"], one.get("value", ""), one["effect"]) for one in taints)
    return Node(name="n", uid="nu", labels=labels, taints=seen), body


@pytest.mark.parametrize(
    ("taints", "action", "then"),
    [
        ([], WriteServer("n", add_taints=("nvidia.com/gpu",)), [OURS]),
        ([NOT_READY], WriteServer("n", add_taints=("nvidia.com/gpu",)), [NOT_READY, OURS]),
        ([OURS, NOT_READY], WriteServer("n", drop_taints=("nvidia.com/gpu",)), [NOT_READY]),
        (
            [NOT_READY, OURS],
            WriteServer("n", (), ("a.b/c",), ("nvidia.com/gpu",)),
            [NOT_READY, {**OURS, "key": "a.b/c"}],
        ),
    ],
    ids=["none so far", "beside another's", "taken off", "one for another"],
)
def test_only_our_taint_comes_and_goes(taints: list[Any], action: WriteServer, then: list[Any]) -> None:
    known, body = node(taints)
    patch = patches.server(known, action)
    assert patch is not None
    assert apply(body, patch)["spec"]["taints"] == then


def test_a_taint_that_has_moved_is_not_mistaken() -> None:
    known, _ = node([OURS, NOT_READY])
    _, body = node([NOT_READY, OURS])
    patch = patches.server(known, WriteServer("n", drop_taints=("nvidia.com/gpu",)))
    assert patch is not None
    with pytest.raises(Refused):
        apply(body, patch)


def test_labels_are_set_changed_and_removed() -> None:
    known, body = node([], {"gpugrant.io/pool": "a", "gpugrant.io/share": "Public", "x": "y"})
    action = WriteServer(
        "n", (("gpugrant.io/pool", "b"), ("gpugrant.io/share", None), ("gpugrant.io/own-use", "p"))
    )
    patch = patches.server(known, action)
    assert patch is not None
    assert apply(body, patch)["metadata"]["labels"] == {
        "gpugrant.io/pool": "b",
        "gpugrant.io/own-use": "p",
        "x": "y",
    }


def test_a_server_that_is_as_wanted_is_not_written() -> None:
    known, _ = node([OURS], {"gpugrant.io/pool": "a"})
    action = WriteServer(
        "n", (("gpugrant.io/pool", "a"), ("gpugrant.io/share", None)), ("nvidia.com/gpu",), ("b.c/d",)
    )
    assert patches.server(known, action) is None


# -- statuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "wanted", "patch"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, {"a": {"y": None}}),
        ({"a": {"x": 1}}, {"a": {"x": 1}}, {}),
        ({"l": [1, 2]}, {"l": [1]}, {"l": [1]}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({}, {"a": None}, {}),
    ],
    ids=[
        "new",
        "same",
        "gone",
        "gone inside",
        "same inside",
        "a list as a whole",
        "none again",
        "none still",
    ],
)
def test_a_status_patch_says_only_what_differs(known: Any, wanted: Any, patch: Any) -> None:
    assert patches.merge(known, wanted) == patch
    action = SetStatus("GpuGrant", "ns", "g", "gu", wanted)
    body = patches.status(known, action)
    assert (body is None) == (not patch)
    if body:
        assert json.loads(body) == {"metadata": {"uid": "gu"}, "status": patch}
