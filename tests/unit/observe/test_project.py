"""What of a Pod, Node or Namespace object becomes a fact, and how GPUs are counted."""

import json
from typing import Any

import pytest

from gpugrant.meter.facts import EndReason
from gpugrant.meter.intervals import Interval, NodeFacts, held_interval
from gpugrant.model.quantity import LARGEST
from gpugrant.observe import raw
from gpugrant.observe.project import (
    is_extended,
    project_namespace,
    project_node,
    project_pod,
    requested,
    seconds,
)

GPU = "nvidia.com/gpu"


def pod(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **metadata: Any) -> Any:
    body = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7", **metadata},
        "spec": spec or {},
        "status": status or {},
    }
    return project_pod(json.dumps(body).encode())


def container(amount: object = None, *, always: bool = False, **more: object) -> dict[str, Any]:
    body: dict[str, Any] = {"name": "c", "resources": {"limits": {**more}}}
    if amount is not None:
        body["resources"]["limits"][GPU] = str(amount)
    if always:
        body["restartPolicy"] = "Always"
    return body


@pytest.mark.parametrize(
    ("containers", "init", "gpus"),
    [
        ([2, 3], [], 5),
        ([1], [4], 4),
        ([4], [1], 4),
        ([1], [2, 3], 3),
        ([1], [(2, True)], 3),
        ([1], [(2, True), 4], 6),
        ([1], [4, (2, True)], 4),
        ([0], [(1, True), (2, True)], 3),
        ([0], [8], 8),
    ],
    ids=[
        "containers add up",
        "a larger init container counts alone",
        "a smaller init container does not count",
        "of init containers the largest counts",
        "a sidecar runs beside the containers",
        "an init container after a sidecar runs beside it",
        "an init container before a sidecar does not",
        "sidecars add up",
        "GPUs in an init container only",
    ],
)
def test_gpus_are_counted_as_the_scheduler_counts(containers: list[int], init: list[Any], gpus: int) -> None:
    spec = {
        "containers": [container(count) for count in containers],
        "initContainers": [
            container(one[0], always=True) if isinstance(one, tuple) else container(one) for one in init
        ],
    }
    assert pod(spec).shape.amount(GPU) == gpus


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("8", 8),
        ("8e0", 8),
        ("8000m", 8),
        ("1k", 1000),
        ("1e30", 10**30),
        ("9223372036854775808", 2**63),
        ("0", 0),
    ],
)
def test_any_way_of_writing_a_quantity_is_understood_exactly(written: str, meant: int) -> None:
    assert pod({"containers": [container(written)]}).shape.amount(GPU) == meant


def test_a_quantity_beyond_all_measure_is_bounded() -> None:
    assert pod({"containers": [container("1e999999")]}).shape.amount(GPU) == LARGEST


def test_pod_level_resources_replace_the_containers_sum_and_overhead_is_added() -> None:
    spec = {
        "containers": [container(1, cpu="2", memory="1Gi")],
        "resources": {"requests": {"cpu": "3"}},
        "overhead": {"cpu": "250m", "memory": "64Mi"},
    }
    shape = pod(spec).shape
    assert (shape.cpu_milli, shape.memory, shape.amount(GPU)) == (3250, 2**30 + 64 * 2**20, 1)


def test_requests_come_before_limits() -> None:
    spec = raw.PodSpec(containers=[raw.Container(raw.Resources({"cpu": "1"}, {"cpu": "4"}))])
    assert requested(spec)["cpu"] == 1000


@pytest.mark.parametrize(
    ("name", "extended"),
    [
        (GPU, True),
        ("rebellions.ai/ATOM", True),
        ("nvidia.com/mig-1g.10gb", True),
        ("cpu", False),
        ("hugepages-2Mi", False),
        ("kubernetes.io/something", False),
        ("attachable-volumes.kubernetes.io/x", False),
        ("deviceclass.resource.kubernetes.io/gpu", False),
    ],
)
def test_which_resources_are_extended(name: str, extended: bool) -> None:
    assert is_extended(name) is extended


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [container(**{"deviceclass.resource.kubernetes.io/gpu": "1"})]},
        {"containers": [container()], "resourceClaims": [{"name": "c"}]},
    ],
    ids=["a device class as a resource", "a resource claim"],
)
def test_dynamic_resource_allocation_is_seen(spec: dict[str, Any]) -> None:
    assert pod(spec).shape.dra


def test_pods_of_one_template_share_one_shape() -> None:
    spec = {"containers": [container(8)], "nodeSelector": {"a": "b"}}
    assert pod(spec, uid="one").shape is pod(spec, uid="two").shape


@pytest.mark.parametrize(
    ("affinity", "spread"),
    [
        ({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}, True),
        ({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{}]}}, True),
        ({"podAffinity": {}}, False),
        ({"nodeAffinity": {}}, False),
    ],
    ids=["pod affinity", "pod anti-affinity", "an empty one", "node affinity"],
)
def test_what_lets_the_scheduler_choose_the_server(affinity: dict[str, Any], spread: bool) -> None:
    assert pod({"affinity": affinity}).shape.spread is spread


def test_required_node_affinity_is_kept_term_by_term() -> None:
    terms = [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]},
        {},
    ]
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    first, second, third = pod({"affinity": {"nodeAffinity": affinity}}).shape.affinity
    assert first.expressions[0].values == ("a", "b")
    assert second.fields[0].key == "metadata.name"
    assert third.expressions == third.fields == ()


def test_topology_spread_lets_the_scheduler_choose_too() -> None:
    assert pod({"topologySpreadConstraints": [{"maxSkew": 1}]}).shape.spread


T1, T2, T3 = "2026-11-22T10:00:00Z", "2026-11-22T10:00:07Z", "2026-11-22T10:01:00Z"
LATER = "2026-11-22T14:59:00Z"


def _terminated(start: str | None, end: str | None) -> dict[str, Any]:
    return {"state": {"terminated": {"exitCode": 0, "startedAt": start, "finishedAt": end}}}


def test_the_last_container_to_finish_ends_the_pod() -> None:
    status = {
        "phase": "Succeeded",
        "containerStatuses": [_terminated(T1, T2), _terminated(T1, T3)],
        "initContainerStatuses": [_terminated(T1, T1)],
    }
    seen = pod(status=status)
    assert seen.finished_at == seconds(T3)
    assert seen.admitted


def _ran(name: str, end: str | None = None, code: int = 0) -> dict[str, Any]:
    """Return the status of a container that runs, or has finished."""
    if end is None:
        return {"name": name, "state": {"running": {"startedAt": T1}}}
    return {"name": name, "state": {"terminated": {"exitCode": code, "startedAt": T1, "finishedAt": end}}}


WAITS = {"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}
LOST = {"name": "main", "state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}}


@pytest.mark.parametrize(
    ("own", "init", "end"),
    [
        ([_ran("main")], [_ran("init", T2)], None),
        ([_ran("main", T2), _ran("other")], [], None),
        ([_ran("main", T2)], [_ran("sidecar")], None),
        ([_ran("main", T2)], [_ran("sidecar", T3)], T3),
        ([_ran("main", T2)], [_ran("init", T1), _ran("sidecar", T2)], T2),
        ([_ran("main", T2), {**LOST, "name": "other"}], [], None),
        ([WAITS], [_ran("init", T2, code=1)], T2),
        ([WAITS], [_ran("sidecar"), _ran("init", T2, code=1)], None),
        ([WAITS], [_ran("init", T2)], None),
        ([LOST], [_ran("init", T2)], None),
        ([], [], None),
    ],
    ids=[
        "a server lost while the container ran on after its init container",
        "a server lost while one of two containers ran",
        "a server lost while a sidecar ran on",
        "a sidecar that ended last ends the pod",
        "a container that ended last ends the pod",
        "a container of which nobody knows when it ended leaves the end open",
        "an init container that failed ends the pod",
        "an init container that failed beside a sidecar that ran on does not",
        "an init container that succeeded does not end the pod that went on to pull its image",
        "nor one after which the container was lost",
        "without any report nothing says when",
    ],
)
def test_a_pod_has_finished_only_once_nothing_of_it_may_run(
    own: list[Any], init: list[Any], end: str | None
) -> None:
    spec = {
        "containers": [{"name": one["name"]} for one in own],
        "initContainers": [
            {"name": one["name"], **({"restartPolicy": "Always"} if one["name"] == "sidecar" else {})}
            for one in init
        ],
    }
    status = {"phase": "Failed", "containerStatuses": own, "initContainerStatuses": init}
    assert pod(spec, status).finished_at == seconds(end)


def test_a_pod_whose_server_was_lost_held_until_it_was_disrupted() -> None:
    status = {
        "phase": "Failed",
        "containerStatuses": [_ran("main")],
        "initContainerStatuses": [_ran("init", T2)],
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": T1},
            {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "lastTransitionTime": LATER},
        ],
    }
    spec = {
        "nodeName": "server",
        "containers": [{"name": "main"}],
        "initContainers": [{"name": "init"}],
    }
    held = held_interval(pod(spec, status), NodeFacts(), seconds(LATER) + 9)
    assert held == Interval(seconds(T1), seconds(T1) + 17_940, EndReason.DISRUPTED)


# What kubelets of 1.37.2 said, word for word but for what does not matter here.
REFUSED = {
    "phase": "Failed",
    "message": "Pod was rejected: Allocate failed due to rpc error: code = Internal, which is unexpected",
    "reason": "UnexpectedAdmissionError",
    "startTime": T1,
    "qosClass": "BestEffort",
}
EVICTED = {
    "phase": "Failed",
    "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": T1}],
    "message": 'Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". ',
    "reason": "Evicted",
    "startTime": T1,
    "containerStatuses": [
        {
            "name": "main",
            "state": {"waiting": {"reason": "ContainerCreating"}},
            "lastState": {
                "terminated": {
                    "exitCode": 137,
                    "reason": "ContainerStatusUnknown",
                    "message": "The container could not be located when the pod was deleted.  "
                    "The container used to be Running",
                    "startedAt": None,
                    "finishedAt": None,
                }
            },
            "restartCount": 1,
        }
    ],
}


def _by_kubelet(status: dict[str, Any], at: str, **spec: Any) -> Any:
    fields = [{"manager": "kubelet", "subresource": "status", "time": at, "fieldsV1": {"f:status": {}}}]
    return pod({"nodeName": "server", **spec}, status, managedFields=fields)


def test_a_pod_that_was_refused_at_the_door_held_nothing() -> None:
    seen = _by_kubelet(REFUSED, T1)
    assert (seen.admitted, seen.finished_at, seen.acknowledged_at) == (False, 0, seconds(T1))
    held = held_interval(seen, NodeFacts(), seconds(T3))
    assert held == Interval(seconds(T1), seconds(T1), EndReason.REJECTED)


def test_an_evicted_pod_of_whose_container_the_kubelet_lost_sight_held_until_it_said_so() -> None:
    seen = _by_kubelet(EVICTED, T3, containers=[{"name": "main"}])
    assert (seen.admitted, seen.finished_at) == (True, 0)
    held = held_interval(seen, NodeFacts(), seconds(LATER))
    assert held == Interval(seconds(T1), seconds(T3), EndReason.TERMINAL)


def test_a_pod_that_ran_and_was_rejected_when_its_server_came_back_held_until_then() -> None:
    """The kubelet takes conditions and containers off it: it looks as if it had been refused at the door."""
    running = pod(
        {"nodeName": "server"},
        {
            "phase": "Running",
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": T1}],
            "containerStatuses": [_ran("main")],
        },
    )
    back = _by_kubelet({**REFUSED, "startTime": T1}, T2)
    held = held_interval(back.still_knowing(running), NodeFacts(), seconds(LATER))
    assert held == Interval(seconds(T1), seconds(T2), EndReason.TERMINAL)


def test_nor_does_it_where_nobody_remembers_it() -> None:
    """An operator that was started meanwhile: the kubelet has kept when it first saw the pod."""
    back = _by_kubelet({**REFUSED, "startTime": T1}, LATER)
    held = held_interval(back, NodeFacts(), seconds(LATER) + 9)
    assert held == Interval(seconds(T1), seconds(LATER), EndReason.TERMINAL)


@pytest.mark.parametrize("remembered", [True, False])
def test_a_server_that_came_back_and_dates_the_bind_anew_does_not_move_it(remembered: bool) -> None:
    """Also seen of a kubelet of 1.37.2: it finds the container ended, and writes all conditions as of now."""
    scheduled = {"type": "PodScheduled", "status": "True"}
    running = {"phase": "Running", "startTime": T1, "conditions": [{**scheduled, "lastTransitionTime": T1}],
               "containerStatuses": [_ran("main")]}
    ended = _ran("main", T2)
    back = _by_kubelet({**REFUSED, "startTime": T1, "conditions": [{**scheduled, "lastTransitionTime": T3}],
                        "containerStatuses": [ended]}, T3, containers=[{"name": "main"}])
    if remembered:
        back = back.still_knowing(pod({"nodeName": "server", "containers": [{"name": "main"}]}, running))
    assert held_interval(back, NodeFacts(), seconds(LATER)) == Interval(seconds(T1), seconds(T2), EndReason.FINISHED)


def test_a_kubelets_clock_that_is_some_seconds_behind_moves_no_bind() -> None:
    seen = pod({"nodeName": "server"}, {
        "phase": "Running", "startTime": T1,
        "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-22T10:00:09Z"}]})
    assert held_interval(seen, NodeFacts(), seconds(LATER)) == Interval(seconds(T1) + 9)


def test_a_pod_that_says_as_much_as_before_is_left_as_it_is() -> None:
    seen = pod(status={"containerStatuses": [_ran("main")]})
    assert seen.still_knowing(None) is seen
    assert seen.still_knowing(pod()) is seen


@pytest.mark.parametrize("reason", ["EvictionByEvictionAPI", "PreemptionByScheduler", "DeletionByTaintManager"])
def test_an_eviction_that_was_asked_for_is_no_end(reason: str) -> None:
    """A tenant may ask for its own, with a grace of its own, and a container that never started has no finish."""
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": T1},
                  {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": T2}]
    lost = {"name": "decoy", "state": {"terminated": {"reason": "ContainerStatusUnknown", "exitCode": 137}}}
    status = {"phase": "Failed", "startTime": T1, "conditions": conditions,
              "containerStatuses": [_ran("main", T3), lost]}
    seen = _by_kubelet(status, LATER, containers=[{"name": "main"}, {"name": "decoy"}])
    assert held_interval(seen, NodeFacts(), seconds(LATER)) == Interval(
        seconds(T1), seconds(LATER), EndReason.TERMINAL)


def test_a_rejection_that_nobody_dates_is_no_refusal_at_the_door() -> None:
    seen = pod({"nodeName": "server"}, REFUSED)  # somebody took the managed fields away
    assert held_interval(seen, NodeFacts(), seconds(LATER)) == Interval(
        seconds(T1), seconds(LATER), EndReason.SEEN_ENDED)


def test_a_slow_clock_of_a_server_moves_no_bind_of_a_pod_that_runs() -> None:
    seen = pod({"nodeName": "server"}, {
        "phase": "Running", "startTime": T1,
        "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": T3}]}, creationTimestamp=T1)
    assert held_interval(seen, NodeFacts(), seconds(LATER)) == Interval(seconds(T3))


def test_transitions_count_while_they_are_true() -> None:
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": T1},
        {"type": "DisruptionTarget", "status": "False", "lastTransitionTime": T2},
    ]
    seen = pod(status={"conditions": conditions})
    assert (seen.scheduled_at, seen.disrupted_at) == (seconds(T1), 0)


def test_the_api_servers_time_of_the_terminal_status_is_read_from_managed_fields() -> None:
    fields = [
        {"manager": "kubelet", "subresource": "status", "time": T2, "fieldsV1": {"f:status": {}}},
        {"manager": "gpugrant", "time": T3},
    ]
    assert pod(status={"phase": "Failed"}, managedFields=fields).terminal_at == seconds(T2)
    assert pod(status={"phase": "Running"}, managedFields=fields).terminal_at == 0


def test_marks_of_ours_are_read() -> None:
    seen = pod(
        {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}, {"name": "gpugrant.io/admission"}]},
        labels={"gpugrant.io/gpu": "true", "gpugrant.io/grant": "eval"},
        annotations={
            "gpugrant.io/grant-uid": "gu",
            "gpugrant.io/gang-size": "16",
            "gpugrant.io/released-at": T1,
            "gpugrant.io/waiting": "words",
            "gpugrant.io/gang-replacement": "true",
        },
        finalizers=["batch.kubernetes.io/job-tracking", "gpugrant.io/metering"],
        ownerReferences=[
            {"kind": "Job", "uid": "j", "controller": True, "name": "x"},
            {"kind": "Y", "uid": "y"},
        ],
    )
    assert seen.gates == ("kueue.x-k8s.io/admission", "gpugrant.io/admission")
    assert (seen.grant, seen.grant_uid, seen.gang_size, seen.waiting) == ("eval", "gu", "16", "words")
    assert (seen.released_at, seen.replacement) == (seconds(T1), True)
    assert (seen.finalizer, seen.finalizers, seen.finalizer_index) == (True, 2, 1)
    assert (seen.controller, seen.controller_kind) == ("j", "Job")


@pytest.mark.parametrize("text", ["soon", "-1", "99999999999999999999999Z", ""])
def test_a_release_time_that_makes_no_sense_is_none(text: str) -> None:
    assert pod(annotations={"gpugrant.io/released-at": text}).released_at == 0


def test_a_node_is_read() -> None:
    body = {
        "metadata": {
            "name": "n",
            "uid": "u",
            "labels": {"a": "b"},
            "annotations": {"gpugrant.io/maintenance": "x/y"},
        },
        "spec": {"unschedulable": True, "taints": [{"key": GPU, "value": "present", "effect": "NoSchedule"}]},
        "status": {
            "capacity": {GPU: "8", "cpu": "192", "pods": "110"},
            "allocatable": {GPU: "7", "cpu": "190500m", "memory": "2Ti", "pods": "64"},
            "conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": T1}],
        },
    }
    node = project_node(json.dumps(body).encode())
    assert (node.seats_installed(GPU), node.seats_allocatable(GPU)) == (8, 7)
    assert (node.cpu_milli, node.memory, node.pods) == (190_500, 2 * 2**40, 64)
    assert (node.ready, node.ready_since, node.unschedulable) == (False, seconds(T1), True)
    assert node.taints[0].key == GPU
    assert node.maintenance == "x/y"


def test_a_namespace_is_read() -> None:
    body = {
        "metadata": {
            "name": "ns",
            "labels": {"gpugrant.io/tenant": "t", "gpugrant.io/provider": "p"},
            "annotations": {"gpugrant.io/metering-finalizer": "off"},
        },
        "status": {"phase": "Terminating"},
    }
    namespace = project_namespace(json.dumps(body).encode())
    assert (namespace.tenant, namespace.provider) == ("t", "p")
    assert namespace.metering_off
    assert namespace.terminating
