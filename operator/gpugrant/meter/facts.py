"""The facts the ledger is made of: what was seen, once each, as frozen values.

Everything else (sums, months, figures) is worked out from these. Times are epoch seconds, GPU-seconds are
integers. A fact is written under a key of its own, so writing it twice changes nothing.
"""

from enum import StrEnum

from msgspec import Struct


class Owner(StrEnum):
    """Who owns a seat-second (R10)."""

    FREE = "free"
    OWN_USE = "own-use"
    UNMANAGED = "unmanaged"
    EXEMPT = "exempt"
    GRANT = "grant"


class Condition(StrEnum):
    """In what condition a seat-second was, in order of precedence (R10)."""

    FAILED = "Failed"
    UNDELIVERED = "Undelivered"
    MAINTENANCE = "Maintenance"
    UNOBSERVED = "Unobserved"
    LENT = "Lent"
    GRACE = "Grace"
    USED = "Used"
    IDLE = "Idle"


class EndReason(StrEnum):
    """What says when a pod stopped holding its seats (R9), strongest evidence first."""

    FINISHED = "Finished"  # the latest container finish
    REJECTED = "Rejected"  # refused by the kubelet before it ran: it held nothing
    DISRUPTED = "Disrupted"  # ended by others without a finish: the DisruptionTarget transition
    TERMINAL = "Terminal"  # the API server's time of the terminal status
    SEEN_ENDED = "SeenEnded"  # ended, and nothing says when: the moment that was seen
    NEVER_BOUND = "NeverBound"  # it went without having had a server: it held nothing
    GONE = "Gone"  # the object went while the watch was live: until then it held
    UNOBSERVED = "Unobserved"  # the object went unseen: bounded by the last time it was seen to hold


class Account(Struct, frozen=True, cache_hash=True):
    """On whose name seat-seconds are booked. Many pods share one account."""

    programme: str = ""
    provider: str = ""
    pool: str = ""
    gpu_type: str = ""
    share: str = ""  # Public, OwnUse
    owner: Owner = Owner.UNMANAGED
    tenant: str = ""
    tenant_namespace: str = ""  # the grant's namespace; without a grant, the pod's
    grant: str = ""  # name
    grant_uid: str = ""
    award: str = ""  # award.id, which outlives the grant object


class Dimensions(Struct, frozen=True):
    """All that is fixed about a pod's hold when it is bound."""

    account: Account
    server: str = ""
    fabric: str = ""
    resource: str = ""
    seats: int = 0  # what the pod holds
    server_seats: int = 0  # what the server has; 0: not known, nothing is cut


class Held(Struct, frozen=True):
    """A pod was bound: it holds its seats from ``start`` on."""

    uid: str
    namespace: str
    name: str
    dimensions: Dimensions
    start: int
    waited: int = -1  # seconds from creation to release, for pods that went through the gate


class Ended(Struct, frozen=True):
    """A pod stopped holding. ``hold`` repeats its start, so that an end alone is enough."""

    hold: Held
    end: int
    reason: EndReason
    finished_at: int = 0  # as the node said, unclipped: the skew of its clock is terminal_at less this
    disrupted_at: int = 0
    terminal_at: int = 0
    gone_at: int = 0  # when an object that went unseen was missed: [end, gone_at) is Unobserved


class GrantTerms(Struct, frozen=True):
    """What a grant was from ``since`` on. The next one of the same uid ends it."""

    grant_uid: str
    namespace: str
    name: str
    start: int
    end: int  # exclusive; held from then on is Grace
    grace_seconds: int = 3600
    tenant: str = ""
    award: str = ""
    gpus: int = 0
    since: int = 0  # set by the meter


class SettingsVersion(Struct, frozen=True):
    """A version of the settings that was in force from ``since`` on."""

    digest: str  # sha256, hex
    since: int
    text: str


class Failure(Struct, frozen=True):
    """Seats of a server failed. The same (server, cause, since) is the same failure."""

    programme: str
    provider: str
    pool: str
    gpu_type: str
    share: str
    server: str
    cause: str  # NotReady, Cordoned, MissingSeats, Unhealthy
    since: int
    seats: int = 0


class Gap(Struct, frozen=True):
    """Nobody watched from ``start`` to ``end``."""

    start: int
    end: int


class Placed(Struct, frozen=True):
    """What a server is part of from ``since`` on. The next one of the same server ends it.

    ``seats`` is the pool's gpusPerServer, whatever the device plugin says; 0: the server is of no pool, or its
    object is gone. ``idle_owner`` owns its seats that no grant has: own-use on own-use servers of a pool with
    ``ownUse: Open``, else free.
    """

    server: str
    since: int
    programme: str = ""
    provider: str = ""
    pool: str = ""
    gpu_type: str = ""
    share: str = ""
    fabric: str = ""
    seats: int = 0
    idle_owner: Owner = Owner.FREE


class Aspect(StrEnum):
    """One side of a server's health. Each has a history of its own."""

    PRESENT = "Present"  # 1, 0: there is a Node object
    READY = "Ready"  # 1, 0: the Ready condition, since its transition
    CORDONED = "Cordoned"  # 1, 0: spec.unschedulable
    CAPACITY = "Capacity"  # seats of the pool's resource that the device plugin knows
    OFFERED = "Offered"  # those of them that are healthy: allocatable
    DOUBTED = "Doubted"  # seats whose condition cannot be known: nobody watched when it changed


class Health(Struct, frozen=True):
    """One aspect of a server from ``since`` on; ``seen`` is when that was noticed."""

    server: str
    aspect: Aspect
    since: int
    value: int
    seen: int = 0


class Unwell(Struct, frozen=True):
    """So many of a pod's seats are called unhealthy by its node (allocatedResourcesStatus) from ``since`` on."""

    uid: str
    server: str
    since: int
    seats: int


class Announced(Struct, frozen=True):
    """A maintenance window was announced for a server; start = end: there is none.

    It counts from its start, or ``notice`` seconds after ``since``, whichever is later. The next one of the same
    server replaces it for what lies ahead of its own ``since``.
    """

    server: str
    since: int
    start: int
    end: int
    notice: int = 0


class Claimed(Struct, frozen=True):
    """A server is (``has``) or is no more one of a grant's own servers, from ``since`` on.

    The grant owns its seats only within its term: a claim may be made long before.
    """

    server: str
    grant_uid: str
    since: int
    has: bool = True


class Seated(Struct, frozen=True):
    """A grant on shared servers has so many seats of a pool's share from ``since`` on, within its term."""

    grant_uid: str
    since: int
    programme: str = ""
    provider: str = ""
    pool: str = ""
    gpu_type: str = ""
    share: str = ""
    seats: int = 0


class Instalment(Struct, frozen=True):
    """GPUs that are contracted from ``due`` on, beside what was due before."""

    due: int
    gpus: int
    public_gpus: int


class Contracted(Struct, frozen=True):
    """A pool's delivery plan and promise as they read from ``since`` on.

    No instalments: what is installed is what is contracted. ``promised`` public GPUs; -1: nothing was promised.
    """

    pool: str
    since: int
    programme: str = ""
    provider: str = ""
    gpu_type: str = ""
    instalments: tuple[Instalment, ...] = ()
    promised: int = -1


class Named(Struct, frozen=True):
    """A tenant's display name from ``since`` on."""

    tenant: str
    since: int
    display_name: str


ServerFact = Placed | Health | Unwell | Announced | Claimed
PoolFact = Seated | Contracted
Fact = Held | Ended | GrantTerms | SettingsVersion | Failure | Gap | ServerFact | PoolFact | Named
