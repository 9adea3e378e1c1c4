"""What of gpugrant's is taken off an object, and what people wrote and keep."""

from typing import Any

import pytest

from gpugrant import names
from gpugrant.run.unmark import is_unplaceable, unmark_node, unmark_own, unmark_pod

Json = dict[str, Any]
RESOURCES = frozenset({"nvidia.com/gpu"})


def an_object(spec: Json | None = None, **metadata: Any) -> Json:
    return {"metadata": {"name": "x", "uid": "u-1", **metadata}, "spec": spec or {}, "status": {}}


def apply(patch: list[Json], found: Json) -> Json:
    """Carry out a JSON patch of tests and removals, as the API server does."""
    for step in patch:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        place: Any = found
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        key = int(last) if isinstance(place, list) else last
        if step["op"] == "test":
            assert place[key] == step["value"], step
        else:
            assert step["op"] == "remove"
            del place[key]
    return found


def test_a_released_pod_keeps_what_others_put_on_it() -> None:
    pod = an_object(
        labels={"app": "x", names.GPU_LABEL: "true", names.GRANT_LABEL: "g"},
        annotations={"a": "b", names.GRANT_UID_ANNOTATION: "g-1", names.RELEASED_AT_ANNOTATION: "2026-01-01T00:00:00Z",
                     names.GANG_ANNOTATION: "mine", names.RUN_SECONDS_ANNOTATION: "5"},
        finalizers=["example.org/a", names.FINALIZER, "example.org/b"],
    )
    left = apply(unmark_pod(pod, release=False), pod)["metadata"]
    assert left["labels"] == {"app": "x"}
    assert left["annotations"] == {"a": "b", names.GANG_ANNOTATION: "mine", names.RUN_SECONDS_ANNOTATION: "5"}
    assert left["finalizers"] == ["example.org/a", "example.org/b"]


@pytest.mark.parametrize(("release", "gates", "annotations"), [
    (False, ["other", names.GATE], {names.WAITING_ANNOTATION: "…"}),
    (True, ["other"], {}),
])
def test_a_waiting_pod_keeps_the_grant_its_tenant_named_and_unless_released_its_gate_and_the_words(
    release: bool, gates: list[str], annotations: dict[str, str]
) -> None:
    pod = an_object(
        {"schedulingGates": [{"name": "other"}, {"name": names.GATE}]},
        labels={names.GPU_LABEL: "true", names.GRANT_LABEL: "mine"}, annotations={names.WAITING_ANNOTATION: "…"})
    left = apply(unmark_pod(pod, release=release), pod)
    assert left["metadata"]["labels"] == {names.GRANT_LABEL: "mine"}
    assert left["metadata"]["annotations"] == annotations
    assert [gate["name"] for gate in left["spec"]["schedulingGates"]] == gates


def test_a_server_is_a_node_again_with_everybody_elses_taints_and_labels() -> None:
    theirs = [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
              {"key": "nvidia.com/gpu", "value": "present", "effect": "NoExecute"},
              {"key": "nvidia.com/gpu", "value": "else", "effect": "NoSchedule"},
              {"key": "example.org/x", "value": "present", "effect": "NoSchedule"}]
    ours = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
            {"key": "rebellions.ai/ATOM", "value": "present", "effect": "NoSchedule"}]
    kept = {names.PROVIDER_LABEL: "kakao", names.FABRIC_LABEL: "f1", "zone": "a"}
    node = an_object({"taints": [theirs[0], ours[0], *theirs[1:], ours[1]]},
                     labels={**kept, **dict.fromkeys(names.NODE_LABELS, "x")},
                     annotations={names.MAINTENANCE_ANNOTATION: "a/b"})
    node["status"]["capacity"] = {"rebellions.ai/ATOM": "8"}  # of a pool that is gone
    left = apply(unmark_node(node, RESOURCES), node)
    assert left["spec"]["taints"] == theirs
    assert left["metadata"]["labels"] == kept
    assert left["metadata"]["annotations"] == {names.MAINTENANCE_ANNOTATION: "a/b"}


def test_a_node_of_no_pool_keeps_a_taint_that_looks_like_ours() -> None:
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    assert unmark_node(an_object({"taints": [taint]}, labels={names.PROVIDER_LABEL: "kakao"}), RESOURCES) == []


def test_our_own_objects_lose_finalizers_and_kopfs_notes() -> None:
    grant = an_object(finalizers=["gpugrant.io/kopf"], annotations={"kopf.gpugrant.io/last": "…", "a": "b"})
    left = apply(unmark_own(grant), grant)["metadata"]
    assert (left["finalizers"], left["annotations"]) == ([], {"a": "b"})


def test_nothing_of_ours_is_no_write() -> None:
    bare = an_object({"schedulingGates": [{"name": "other"}]}, labels={"a": "b"}, finalizers=["example.org/a"])
    assert unmark_pod(bare, release=True) == unmark_node(bare, RESOURCES) == unmark_own(bare) == []


def test_every_patch_is_for_this_object_and_no_later_one_of_its_name() -> None:
    pod = an_object(labels={names.GPU_LABEL: "true"})
    assert unmark_pod(pod, release=False)[0] == {"op": "test", "path": "/metadata/uid", "value": "u-1"}


@pytest.mark.parametrize(
    ("spec", "phase", "expected"),
    [
        ({"nodeSelector": {names.OWN_USE_LABEL: "x"}}, "Pending", True),
        ({"nodeSelector": {names.OWN_USE_LABEL: "x"}, "nodeName": "n"}, "Running", False),
        ({"nodeSelector": {names.GRANT_UID_LABEL: "x"}}, "Failed", False),
        ({"nodeSelector": {"zone": "a"}}, "Pending", False),
        ({}, "Pending", False),
    ],
)
def test_a_pod_that_selects_servers_of_ours_and_is_not_bound_will_never_be(
    spec: Json, phase: str, expected: bool
) -> None:
    pod = an_object(spec)
    pod["status"]["phase"] = phase
    assert is_unplaceable(pod) is expected
