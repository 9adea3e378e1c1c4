"""The planner's mutable records: one per server, grant, gang. Only world.py and the steps of a plan touch them."""

from __future__ import annotations

from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from gpugrant.config import Programme
from gpugrant.decide.reasons import Verdict
from gpugrant.model.node import Node
from gpugrant.model.objects import Grant, Pool
from gpugrant.model.pod import Pod

# namespace (where a grant is named), grant, resource, product: pods of one lane have the same candidate grants
LaneKey = tuple[str, str, str, str]

PUBLIC = "Public"
OWN_USE = "OwnUse"


@dataclass(slots=True)
class Booking:
    """A grant's claim to a server over [start, end)."""

    start: int
    end: int
    grant: str


@dataclass(slots=True)
class Server:
    """A node, what is on it, and what it is meant for."""

    name: str
    node: Node | None = None  # None: pods name it, the node object is not known (yet, or any more)
    pool: str = ""
    claims: tuple[str, ...] = ()
    fabric: str = ""
    share: str = ""  # as decided; the label follows
    bookings: list[Booking] = field(default_factory=list)
    pods: dict[str, Pod] = field(default_factory=dict)  # held here, or reserved here
    seats_used: int = 0  # of the pool's resource, held and reserved
    seats_held: int = 0
    tallied: tuple[str, str, int, int, int] = ("", "", 0, 0, 0)  # as counted into pool and share
    cpu_used: int = 0
    memory_used: int = 0
    overhead_cpu: int = 0
    overhead_memory: int = 0
    bucket: tuple[str, ...] = ()  # the FreeSeats this server stands in
    emptied_at: int = 0

    def label(self, name: str) -> str:
        """Return a label of the node as last observed."""
        return self.node.labels.get(name, "") if self.node else ""


@dataclass(slots=True)
class PoolState:
    """A pool and its servers."""

    pool: Pool
    servers: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    oversized: set[str] = field(default_factory=set)  # servers with more seats than the pool says
    shares_pending: bool = False  # servers that should change share are in use

    @property
    def resource(self) -> str:
        """Return the resource name of the pool's seats."""
        assert self.pool.spec
        return self.pool.spec.resource_name

    @property
    def size(self) -> int:
        """Return how many seats a whole server has."""
        assert self.pool.spec
        return self.pool.spec.gpus_per_server


@dataclass(slots=True)
class GrantState:
    """A grant, the judgement on it, and where its seats are."""

    grant: Grant
    tenant: str = ""
    programme: str = ""
    rules: Programme | None = None
    zone: ZoneInfo | None = None
    start: int = 0
    end: int = 0
    grace_end: int = 0
    accepted: Verdict = Verdict(False, "Unknown")
    allocated: Verdict = Verdict(False, "Unknown")
    pool: str = ""
    fabric: str = ""
    servers: tuple[str, ...] = ()
    seats: int = 0  # allocated; what may be held
    position: int = 0
    line: tuple[str, str, str] = ("", "", "")
    edges: tuple[int, ...] = ()  # the instants of the term that world.edges knows
    cut_at: int = 0  # its term was made longer, and from here on a server is another grant's
    surplus: bool = False  # it shrank, and servers it should give back are in use
    seen: tuple[object, ...] = ()  # what the tenant's waiting pods were last judged by

    @property
    def shared(self) -> bool:
        """Say whether the grant lives on shared servers."""
        return self.grant.spec is not None and self.grant.spec.placement == "SharedServers"


@dataclass(slots=True)
class Usage:
    """What the pods of one grant hold; kept by uid, so that it outlives the grant object."""

    held: int = 0
    reserved: int = 0
    pods: dict[str, int] = field(default_factory=dict)  # uid -> seats, held or reserved
    unbound: set[str] = field(default_factory=set)  # released, no server yet
    placeless: set[str] = field(default_factory=set)  # of these: where their seats are reserved nobody knows
    tenant: str = ""
    line: tuple[str, str, str] = ("", "", "")  # programme, type, share: what limits are about

    @property
    def taken(self) -> int:
        """Return held + reserved: what limits count."""
        return self.held + self.reserved


@dataclass(slots=True)
class Tally:
    """Seats of one share of a pool."""

    installed: int = 0
    failed: int = 0
    held: int = 0


@dataclass(slots=True)
class Gang:
    """Pods that run together or not at all."""

    key: tuple[str, str]
    size: int
    waiting: set[str] = field(default_factory=set)
    living: set[str] = field(default_factory=set)  # released, held
    bound_once: dict[str, int] = field(default_factory=dict)  # uid -> when it ended, 0 while it lives
    succeeded: dict[str, int] = field(default_factory=dict)  # of these: uid -> when it was released
    whole: bool = False
    released_here: bool = False  # by this process, which saw whether it became whole


@dataclass(slots=True)
class Lane:
    """Waiting pods with the same candidate grants, first come first served."""

    key: LaneKey
    told: str = ""  # why those behind the head wait, as they were told last
    queue: list[tuple[int, int, str, str]] = field(default_factory=list)  # (-priority, created, name, uid)


class Entry:
    """What a pod was counted as, so that it can be counted back exactly."""

    __slots__ = ("gang", "grant", "kind", "lane", "seats", "server", "tenant")

    def __init__(self, kind: str, seats: int) -> None:
        self.kind = kind  # waiting, reserved, held, fenced, loose
        self.seats = seats
        self.server = ""
        self.grant = ""
        self.tenant = ""
        self.lane: LaneKey | None = None
        self.gang: tuple[str, str] | None = None
