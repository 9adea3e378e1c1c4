"""A node as the planner sees it."""

from msgspec import Struct


class Taint(Struct, frozen=True):
    """One taint of a node's spec."""

    key: str
    value: str = ""
    effect: str = ""


class Node(Struct, frozen=True):
    """What of a Node object decisions rest on. Times are epoch seconds of the API server's stamps."""

    name: str
    uid: str
    version: str = ""
    created: int = 0
    labels: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = True
    ready_since: int = 0  # last transition of the Ready condition
    capacity: tuple[tuple[str, int], ...] = ()  # extended resources only, sorted by name
    allocatable: tuple[tuple[str, int], ...] = ()
    cpu_milli: int = 0  # allocatable
    memory: int = 0  # allocatable, bytes
    pods: int = 110  # allocatable
    maintenance: str = ""  # the annotation, START/END

    def seats_installed(self, resource: str) -> int:
        """Return the capacity of ``resource``."""
        return _of(self.capacity, resource)

    def seats_allocatable(self, resource: str) -> int:
        """Return what the kubelet offers of ``resource`` now: capacity less unhealthy devices."""
        return _of(self.allocatable, resource)


def _of(resources: tuple[tuple[str, int], ...], name: str) -> int:
    for resource, count in resources:
        if resource == name:
            return count
    return 0
