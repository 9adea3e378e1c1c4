"""What we read of the API server's JSON, as typed structs. All other fields are skipped by the decoder."""

from typing import Any

from msgspec import Raw, Struct


class Owner(Struct, rename="camel"):
    """An ownerReference."""

    kind: str = ""
    uid: str = ""
    controller: bool | None = None


class Meta(Struct, rename="camel"):
    """ObjectMeta."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None
    owner_references: list[Owner] | None = None


class ManagedField(Struct):
    """Who wrote last, what part of the object, and when by the API server's clock."""

    subresource: str = ""
    time: str | None = None


class PodMeta(Meta, rename="camel"):
    """A pod's metadata."""

    managed_fields: list[ManagedField] | None = None


class Head(Struct):
    """Any object's metadata alone."""

    metadata: Meta


class Event(Struct):
    """One line of a WATCH."""

    type: str
    object: Raw


class Condition(Struct, rename="camel"):
    """A status condition."""

    type: str = ""
    status: str = ""
    reason: str = ""
    last_transition_time: str | None = None


# -- pods ------------------------------------------------------------------------------------------

Amounts = dict[str, str | int]


class Resources(Struct):
    """ResourceRequirements."""

    requests: Amounts | None = None
    limits: Amounts | None = None


class Container(Struct, rename="camel"):
    """A container's requests; restartPolicy Always makes an init container a sidecar."""

    resources: Resources | None = None
    restart_policy: str | None = None
    name: str = ""


class Expression(Struct):
    """A node selector requirement."""

    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class SelectorTerm(Struct, rename="camel"):
    """A node selector term."""

    match_expressions: list[Expression] | None = None
    match_fields: list[Expression] | None = None


class NodeSelector(Struct, rename="camel"):
    """Terms of which any must hold."""

    node_selector_terms: list[SelectorTerm] | None = None


class RequiredAffinity(Struct, rename={"required": "requiredDuringSchedulingIgnoredDuringExecution"}):
    """The required half of nodeAffinity."""

    required: NodeSelector | None = None


class Affinity(Struct, rename="camel"):
    """Affinity; of pod affinities only their presence matters."""

    node_affinity: RequiredAffinity | None = None
    pod_affinity: dict[str, Any] | None = None
    pod_anti_affinity: dict[str, Any] | None = None


class RawToleration(Struct):
    """A toleration."""

    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None


class Named(Struct):
    """A scheduling gate."""

    name: str = ""


class PodSpec(Struct, rename="camel"):
    """PodSpec."""

    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    overhead: Amounts | None = None
    resources: Resources | None = None
    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    tolerations: list[RawToleration] | None = None
    topology_spread_constraints: list[Raw] | None = None
    scheduling_gates: list[Named] | None = None
    resource_claims: list[Raw] | None = None
    node_name: str | None = None
    priority: int | None = None
    termination_grace_period_seconds: int | None = None


class Terminated(Struct, rename="camel"):
    """A terminated container state."""

    exit_code: int = 0
    started_at: str | None = None
    finished_at: str | None = None


class Running(Struct, rename="camel"):
    """A running container state."""

    started_at: str | None = None


class ContainerState(Struct):
    """A container state."""

    terminated: Terminated | None = None
    running: Running | None = None


class DeviceHealth(Struct):
    """The health of one device that a container has."""

    health: str | None = None


class ResourceStatus(Struct):
    """The devices of one resource that a container has."""

    name: str = ""
    resources: list[DeviceHealth] | None = None


class ContainerStatus(Struct, rename="camel"):
    """A container status."""

    name: str = ""
    state: ContainerState | None = None
    last_state: ContainerState | None = None
    allocated_resources_status: list[ResourceStatus] | None = None


class PodStatus(Struct, rename="camel"):
    """PodStatus."""

    phase: str | None = None
    reason: str | None = None
    start_time: str | None = None
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class RawPod(Struct):
    """A Pod."""

    metadata: PodMeta
    spec: PodSpec
    status: PodStatus | None = None


# -- nodes and namespaces --------------------------------------------------------------------------


class RawTaint(Struct):
    """A taint."""

    key: str = ""
    value: str | None = None
    effect: str = ""


class NodeSpec(Struct):
    """NodeSpec."""

    taints: list[RawTaint] | None = None
    unschedulable: bool | None = None


class NodeStatus(Struct):
    """NodeStatus."""

    capacity: Amounts | None = None
    allocatable: Amounts | None = None
    conditions: list[Condition] | None = None


class RawNode(Struct):
    """A Node."""

    metadata: Meta
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class NamespaceStatus(Struct):
    """NamespaceStatus."""

    phase: str | None = None


class RawNamespace(Struct):
    """A Namespace."""

    metadata: Meta
    status: NamespaceStatus | None = None
