"""A GPU pod as the planner and the meter see it."""

from typing import Self

from msgspec import Struct
from msgspec.structs import replace


class Toleration(Struct, frozen=True):
    """One toleration; an empty key with operator Exists tolerates everything."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class Requirement(Struct, frozen=True):
    """One expression of a node selector term: In, NotIn, Exists, DoesNotExist, Gt, Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Term(Struct, frozen=True):
    """One node selector term: all of its requirements must hold. An empty term matches nothing."""

    expressions: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()


class Shape(Struct, frozen=True):
    """What a pod asks for. Pods of one template share one Shape object (observe interns them).

    ``resources`` holds extended resources above zero as the scheduler counts them:
    max(sum(apps) + sum(sidecars), max over init i (init_i + sidecars before i)).
    """

    resources: tuple[tuple[str, int], ...] = ()
    cpu_milli: int = 0
    memory: int = 0
    selector: tuple[tuple[str, str], ...] = ()
    affinity: tuple[Term, ...] = ()  # required node affinity; any term may hold
    tolerations: tuple[Toleration, ...] = ()
    spread: bool = False  # pod (anti-)affinity or topology spread: the scheduler must choose the server
    dra: bool = False  # resourceClaims or deviceclass.resource.kubernetes.io/…

    def amount(self, resource: str) -> int:
        """Return how much of an extended resource the pod asks for."""
        for name, count in self.resources:
            if name == resource:
                return count
        return 0


class Pod(Struct, frozen=True):
    """What of a Pod object decisions and accounts rest on. Times are epoch seconds, 0 = not yet."""

    uid: str
    namespace: str
    name: str
    version: str = ""
    created: int = 0
    shape: Shape = Shape()
    gates: tuple[str, ...] = ()
    node: str = ""
    phase: str = "Pending"
    deleting: int = 0  # metadata.deletionTimestamp
    priority: int = 0
    controller: str = ""  # uid of the controlling owner
    controller_kind: str = ""
    gpu_label: bool = True
    grant: str = ""  # label gpugrant.io/grant
    grant_uid: str = ""  # annotation, written at release
    gang: str = ""
    gang_size: str = ""  # as written; parse_gang_size() judges it
    waiting: str = ""  # annotation, the words written last
    released_at: int = 0
    replacement: bool = False
    finalizer: bool = False  # gpugrant.io/metering is on
    finalizers: int = 0  # how many finalizers there are in all
    finalizer_index: int = 0  # where ours is among them, for the JSON patch that strips it
    annotated: bool = False  # metadata.annotations exists
    grace_seconds: int = 30
    scheduled_at: int = 0  # PodScheduled=True transition
    finished_at: int = 0  # latest container finish
    acknowledged_at: int = 0  # status.startTime: when its kubelet first looked at it, by the node's clock
    admitted: bool = False  # its kubelet took it in: it says something of a container
    disrupted_at: int = 0  # DisruptionTarget=True transition, where that was its end and not the begin of one
    terminal_at: int = 0  # the API server's time of the terminal status, where known
    unwell: int = 0  # devices that its containers' allocatedResourcesStatus calls unhealthy
    reason: str = ""  # status.reason (Evicted, OutOfnvidia.com/gpu, UnexpectedAdmissionError …)

    def still_knowing(self, before: Self | None) -> Self:
        """Return the pod with what its object said before and says no more.

        A kubelet that comes back with its server and rejects the pods it had (no device is registered yet) takes
        all conditions and the containers' statuses off them: they look as if they had never been taken in. Or it
        writes them anew, with PodScheduled dated as of now.
        """
        if before is None:
            return self
        bound = self.scheduled_at
        if before.scheduled_at and not 0 < bound < before.scheduled_at:
            bound = before.scheduled_at
        admitted = self.admitted or before.admitted
        if (admitted, bound) == (self.admitted, self.scheduled_at):
            return self
        return replace(self, admitted=admitted, scheduled_at=bound)

    @property
    def ended(self) -> bool:
        """Say whether the containers have ended: the pod holds nothing any more."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def held(self) -> bool:
        """Say whether the pod holds its seats: bound, and its containers have not ended."""
        return bool(self.node) and not self.ended

    @property
    def key(self) -> str:
        """Return namespace/name."""
        return f"{self.namespace}/{self.name}"
