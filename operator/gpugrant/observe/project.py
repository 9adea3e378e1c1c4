"""Raw objects to the model: pure, and the only place that knows what a Kubernetes field means to us.

Strings that many objects share and whole shapes are interned: 50,000 held pods must stay small.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from sys import intern
from typing import TypeVar

import msgspec

from gpugrant import names
from gpugrant.model.node import Node, Taint
from gpugrant.model.objects import Namespace
from gpugrant.model.pod import Pod, Requirement, Shape, Term, Toleration
from gpugrant.model.quantity import parse_quantity
from gpugrant.observe import raw

_decode_pod = msgspec.json.Decoder(raw.RawPod).decode
_decode_node = msgspec.json.Decoder(raw.RawNode).decode
_decode_namespace = msgspec.json.Decoder(raw.RawNamespace).decode

# Of the reasons that DisruptionTarget has, the one that is set as the pod is declared over.
# Source: pkg/controller/podgc.
_DECLARED_OVER = "DeletionByPodGC"
_SHAPES: dict[Shape, Shape] = {}
_MOST_SHAPES = 20_000
_TUPLES: dict[tuple[object, ...], tuple[object, ...]] = {}
_T = TypeVar("_T", bound=tuple[object, ...])


@lru_cache(maxsize=16384)
def seconds(stamp: str | None) -> int:
    """Return the epoch seconds of an API server's time stamp, 0 for none."""
    if not stamp:
        return 0
    return int(datetime.fromisoformat(stamp).timestamp())


# -- pods ------------------------------------------------------------------------------------------


def project_pod(body: bytes | msgspec.Raw) -> Pod:
    """Return the Pod in ``body``. Raises msgspec.MsgspecError, ValueError for what is none."""
    return pod_of(_decode_pod(body))


def pod_of(it: raw.RawPod) -> Pod:
    """Return the model of a decoded pod."""
    meta, spec, status = it.metadata, it.spec, it.status or raw.PodStatus()
    labels, annotations = meta.labels or {}, meta.annotations or {}
    finalizers = meta.finalizers or []
    owner = next((one for one in meta.owner_references or () if one.controller), None)
    conditions = {one.type: one for one in status.conditions or () if one.status == "True"}
    containers = (*(status.container_statuses or ()), *(status.init_container_statuses or ()))
    return Pod(
        uid=intern(meta.uid),  # the cache, the world and the meter key by it
        namespace=intern(meta.namespace),
        name=meta.name,
        version=meta.resource_version,
        created=seconds(meta.creation_timestamp),
        shape=_shape(spec),
        gates=_shared(tuple(intern(gate.name) for gate in spec.scheduling_gates or ())),
        node=intern(spec.node_name or ""),
        phase=intern(status.phase or "Pending"),
        deleting=seconds(meta.deletion_timestamp),
        priority=spec.priority or 0,
        controller=intern(owner.uid) if owner else "",
        controller_kind=intern(owner.kind) if owner else "",
        gpu_label=labels.get(names.GPU_LABEL) == "true",
        grant=intern(labels.get(names.GRANT_LABEL, "")),
        grant_uid=intern(annotations.get(names.GRANT_UID_ANNOTATION, "")),
        gang=intern(annotations.get(names.GANG_ANNOTATION, "")),
        gang_size=intern(annotations.get(names.GANG_SIZE_ANNOTATION, "")),
        waiting=annotations.get(names.WAITING_ANNOTATION, ""),
        released_at=_epoch(annotations.get(names.RELEASED_AT_ANNOTATION, "")),
        replacement=annotations.get(names.REPLACEMENT_ANNOTATION) == "true",
        finalizer=names.FINALIZER in finalizers,
        finalizers=len(finalizers),
        finalizer_index=finalizers.index(names.FINALIZER) if names.FINALIZER in finalizers else 0,
        annotated=meta.annotations is not None,
        grace_seconds=30
        if spec.termination_grace_period_seconds is None
        else spec.termination_grace_period_seconds,
        scheduled_at=_transition(conditions.get("PodScheduled")),
        finished_at=_finished(spec, status),
        acknowledged_at=seconds(status.start_time),
        admitted=bool(containers),
        disrupted_at=_ended_by_others(conditions.get("DisruptionTarget")),
        terminal_at=_status_written(meta) if status.phase in ("Succeeded", "Failed") else 0,
        unwell=_unwell(containers),
        reason=intern(status.reason or ""),
    )


def _status_written(meta: raw.PodMeta) -> int:
    """Return when the API server took the latest status in: nodes' clocks differ, its clock is one."""
    times = [seconds(one.time) for one in meta.managed_fields or () if one.subresource == "status"]
    return max(times, default=0)


def _transition(condition: raw.Condition | None) -> int:
    return seconds(condition.last_transition_time) if condition else 0


def _ended_by_others(disruption: raw.Condition | None) -> int:
    """Return when a pod was declared over; 0 where its disruption only says that its end was asked for.

    An eviction, a preemption and a taint ask, and the containers may run on for as long as the grace is.
    """
    return _transition(disruption) if disruption and disruption.reason == _DECLARED_OVER else 0


def _finished(spec: raw.PodSpec, status: raw.PodStatus) -> int:
    """Return when the last container finished; 0 while any may still hold, or nothing says when it ended.

    A server that is lost leaves its containers' last report behind: one that is said to run there says that
    the others' finishes are not the pod's.
    """
    own = status.container_statuses or []
    first = status.init_container_statuses or []
    sidecars = {one.name for one in spec.init_containers or () if one.restart_policy == "Always"}
    if _started(own):
        if len(own) < len(spec.containers or ()):
            return 0
        beside = [one for one in first if one.name in sidecars and (_started([one]) or _end(one))]
        return _last_end([*own, *beside])
    if any(_end(one) for one in own):
        return _last_end(own)
    # No container of its own ever ran: an init container that failed ended it. One that succeeded did not.
    ran = [one for one in first if _started([one]) or _end(one)]
    return _last_end(ran) if any(_failed(one) for one in ran) else 0


def _unwell(containers: Iterable[raw.ContainerStatus]) -> int:
    """Return how many of a pod's devices its node calls unhealthy; what is Unknown is not."""
    return sum(
        device.health == "Unhealthy"
        for container in containers
        for resource in container.allocated_resources_status or ()
        for device in resource.resources or ()
    )


def _last_end(containers: list[raw.ContainerStatus]) -> int:
    ends = [_end(one) for one in containers]
    return max(ends) if all(ends) else 0


def _end(container: raw.ContainerStatus) -> int:
    state = container.state
    return seconds(state.terminated.finished_at) if state is not None and state.terminated is not None else 0


def _failed(container: raw.ContainerStatus) -> bool:
    state = container.state
    return state is not None and state.terminated is not None and state.terminated.exit_code != 0


def _started(containers: Iterable[raw.ContainerStatus]) -> bool:
    for one in containers:
        for state in (one.state, one.last_state):
            if state is None:
                continue
            if state.running is not None and state.running.started_at:
                return True
            # A container that never started is terminated with the zero time, which is written as null.
            if state.terminated is not None and state.terminated.started_at:
                return True
    return False


def _epoch(stamp: str) -> int:
    try:
        return int(stamp) if stamp.isdigit() else seconds(stamp)
    except ValueError:
        return 0


# -- what a pod asks for ---------------------------------------------------------------------------


def _shape(spec: raw.PodSpec) -> Shape:
    wanted = requested(spec)
    affinity = spec.affinity
    spread = bool(spec.topology_spread_constraints) or (
        affinity is not None and bool(affinity.pod_affinity or affinity.pod_anti_affinity)
    )
    shape = Shape(
        resources=tuple(
            (intern(name), count) for name, count in sorted(wanted.items()) if count > 0 and is_extended(name)
        ),
        cpu_milli=wanted.get("cpu", 0),
        memory=wanted.get("memory", 0),
        selector=tuple(sorted((spec.node_selector or {}).items())),
        affinity=_terms(affinity),
        tolerations=tuple(
            Toleration(one.key or "", one.operator or "Equal", one.value or "", one.effect or "")
            for one in spec.tolerations or ()
        ),
        spread=spread,
        dra=bool(spec.resource_claims)
        or any(count > 0 and name.startswith(names.DEVICE_CLASS_PREFIX) for name, count in wanted.items()),
    )
    known = _SHAPES.get(shape)
    if known is not None:
        return known
    if len(_SHAPES) >= _MOST_SHAPES:
        _SHAPES.clear()  # costs sharing, never correctness
    _SHAPES[shape] = shape
    return shape


def requested(spec: raw.PodSpec) -> dict[str, int]:
    """Return what the scheduler counts for a pod: cpu in milli, the rest in units.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers
    """
    total: dict[str, int] = {}
    for container in spec.containers or ():
        _add(total, _requests(container.resources))
    sidecars: dict[str, int] = {}
    largest: dict[str, int] = {}
    for container in spec.init_containers or ():
        own = _requests(container.resources)
        if container.restart_policy == "Always":
            _add(total, own)
            _add(sidecars, own)
            own = dict(sidecars)
        else:
            _add(own, sidecars)
        _raise(largest, own)
    _raise(total, largest)
    if spec.resources is not None:  # pod-level resources replace the containers' sum, for cpu and memory
        total.update(_requests(spec.resources))
    _add(total, _amounts(spec.overhead))
    return total


def _requests(resources: raw.Resources | None) -> dict[str, int]:
    if resources is None:
        return {}
    # For extended resources limits without requests are allowed; the API server fills requests in.
    wanted = _amounts(resources.limits)
    wanted.update(_amounts(resources.requests))
    return wanted


def _amounts(amounts: raw.Amounts | None) -> dict[str, int]:
    return {
        name: parse_quantity(text, 1000 if name == "cpu" else 1) for name, text in (amounts or {}).items()
    }


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


def _raise(total: dict[str, int], other: dict[str, int]) -> None:
    for name, count in other.items():
        if count > total.get(name, 0):
            total[name] = count


def is_extended(name: str) -> bool:
    """Say whether a resource is an extended one: a domain of its own, and not one of Kubernetes'."""
    domain, slash, _ = name.partition("/")
    return bool(slash) and domain != "kubernetes.io" and not domain.endswith(".kubernetes.io")


def _terms(affinity: raw.Affinity | None) -> tuple[Term, ...]:
    if affinity is None or affinity.node_affinity is None or affinity.node_affinity.required is None:
        return ()
    return tuple(
        Term(_requirements(term.match_expressions), _requirements(term.match_fields))
        for term in affinity.node_affinity.required.node_selector_terms or ()
    )


def _requirements(expressions: list[raw.Expression] | None) -> tuple[Requirement, ...]:
    return tuple(Requirement(one.key, one.operator, tuple(one.values or ())) for one in expressions or ())


# -- nodes and namespaces --------------------------------------------------------------------------


def project_node(body: bytes | msgspec.Raw) -> Node:
    """Return the Node in ``body``."""
    it = _decode_node(body)
    meta, spec, status = it.metadata, it.spec or raw.NodeSpec(), it.status or raw.NodeStatus()
    ready = next((one for one in status.conditions or () if one.type == "Ready"), None)
    offered = _amounts(status.allocatable)
    return Node(
        name=intern(meta.name),
        uid=intern(meta.uid),
        version=meta.resource_version,
        created=seconds(meta.creation_timestamp),
        labels={intern(key): intern(value) for key, value in (meta.labels or {}).items()},
        taints=_shared(
            tuple(
                Taint(intern(one.key), intern(one.value or ""), intern(one.effect))
                for one in spec.taints or ()
            )
        ),
        unschedulable=bool(spec.unschedulable),
        ready=ready is not None and ready.status == "True",
        ready_since=_transition(ready),
        capacity=_extended(_amounts(status.capacity)),
        allocatable=_extended(offered),
        cpu_milli=offered.get("cpu", 0),
        memory=offered.get("memory", 0),
        pods=offered.get("pods", 110),
        maintenance=(meta.annotations or {}).get(names.MAINTENANCE_ANNOTATION, ""),
    )


def _extended(amounts: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return _shared(
        tuple((intern(name), count) for name, count in sorted(amounts.items()) if is_extended(name))
    )


def project_namespace(body: bytes | msgspec.Raw) -> Namespace:
    """Return the Namespace in ``body``."""
    it = _decode_namespace(body)
    labels, annotations = it.metadata.labels or {}, it.metadata.annotations or {}
    return Namespace(
        name=intern(it.metadata.name),
        tenant=intern(labels.get(names.TENANT_LABEL, "")),
        provider=intern(labels.get(names.PROVIDER_LABEL, "")),
        metering_off=annotations.get(names.METERING_FINALIZER_ANNOTATION) == "off",
        terminating=bool(it.metadata.deletion_timestamp)
        or (it.status is not None and it.status.phase == "Terminating"),
    )


def _shared(value: _T) -> _T:
    if len(_TUPLES) >= _MOST_SHAPES:
        _TUPLES.clear()
    return _TUPLES.setdefault(value, value)  # type: ignore[return-value]
