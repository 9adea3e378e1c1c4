"""What a plan asks to be done. act/ is the only reader that writes to the API."""

from typing import Any

from msgspec import Struct


class WriteServer(Struct, frozen=True):
    """Bring a server's labels and taint of ours to what is wanted; None removes a label."""

    node: str
    labels: tuple[tuple[str, str | None], ...] = ()
    add_taints: tuple[str, ...] = ()  # keys; value and effect are names.TAINT_VALUE, TAINT_EFFECT
    drop_taints: tuple[str, ...] = ()


class ReleasePod(Struct, frozen=True):
    """Take the gate off and say where the pod may run, in one PATCH."""

    uid: str
    namespace: str
    name: str
    grant: str  # name, for the label
    grant_uid: str
    server: str  # where the seats are reserved
    selector: tuple[tuple[str, str], ...]
    resource: str  # the taint to tolerate
    finalizer: bool
    replacement: bool
    at: int
    message: str  # of the Event; empty: none is written


class EvictPod(Struct, frozen=True):
    """End a pod: the Eviction API first; with ``force`` a DELETE follows a refusal by a PDB."""

    uid: str
    namespace: str
    name: str
    grace_seconds: int
    force: bool
    reason: str  # Event reason: TakenBack, Evicting
    message: str
    unbound: str = ""  # uid of the pod that had no server: if it has one by now, nobody is evicted


class ExplainPod(Struct, frozen=True):
    """Say on the pod why it waits: annotation and one Event, written once per change of reason."""

    uid: str
    namespace: str
    name: str
    message: str


class LabelPod(Struct, frozen=True):
    """Put the gpu label on a GPU pod older than the install."""

    uid: str
    namespace: str
    name: str


class SetStatus(Struct, frozen=True):
    """Bring the status of one of our objects to ``status`` (merge patch of the status subresource).

    ``urgent`` is False for figures that may be coalesced over some seconds.
    """

    kind: str  # GpuPool, GpuGrant, TenantQuota
    namespace: str
    name: str
    uid: str
    status: dict[str, Any]
    urgent: bool = True


class SetPolicies(Struct, frozen=True):
    """Bring the literal lists in the admission policies to these names (sorted)."""

    resources: tuple[str, ...]
    exempt: tuple[str, ...]


Action = WriteServer | ReleasePod | EvictPod | ExplainPod | LabelPod | SetStatus | SetPolicies


class Plan(Struct, frozen=True):
    """What to do now, and when to plan again though nothing happens (epoch seconds, None: never)."""

    actions: tuple[Action, ...] = ()
    wake_at: int | None = None
