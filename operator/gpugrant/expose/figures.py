"""What the planner's world amounts to right now: the figures behind the gauges.

``gpugrant.decide.world.World.figures()`` fills them; ``gpugrant.expose.metrics`` renders them. Counts are
seats at one moment, times epoch seconds.
"""

from msgspec import Struct

from gpugrant.meter.facts import Failure


class ShareFigures(Struct, frozen=True):
    """One share of one pool. The states are disjoint: their sum is what is installed.

    ``granted`` are seats of grants that nothing holds or reserves.
    """

    programme: str
    provider: str
    pool: str
    gpu_type: str
    share: str  # Public, OwnUse
    promised: int | None = None  # Public: spec.publicShare.gpus; None: nothing was promised
    free: int = 0
    granted: int = 0
    held: int = 0
    reserved: int = 0
    failed: int = 0
    maintenance: int = 0


class GrantFigures(Struct, frozen=True):
    """One grant. The states are disjoint: their sum is what is allocated to it."""

    programme: str
    gpu_type: str
    share: str
    tenant: str
    tenant_namespace: str  # the grant's own namespace
    grant: str
    uid: str
    provider: str = ""  # these two are empty until it is allocated
    pool: str = ""
    award: str = ""
    track: str = ""
    state: str = ""  # the reason of Ready: Active, Waitlisted, Rejected …
    wanted: int = 0  # spec.gpus
    granted: int = 0  # allocated, and neither held nor reserved nor failed
    held: int = 0
    reserved: int = 0
    failed: int = 0
    end: int = 0  # term.end
    budget_gpu_seconds: int | None = None


class QuotaFigures(Struct, frozen=True):
    """One limit of one TenantQuota; ``limit`` None: only the programme's caps hold."""

    programme: str
    gpu_type: str
    share: str
    tenant: str
    limit: int | None = None
    granted: int = 0
    held: int = 0


class WaitingFigures(Struct, frozen=True):
    """GPUs that pods of one tenant wait for, by the reason of ``gpugrant.decide.reasons``."""

    programme: str
    gpu_type: str
    tenant: str
    reason: str
    gpus: int


class Figures(Struct, frozen=True):
    """All figures of one moment. ``failures`` lists what is failed now, for the ledger to count once."""

    shares: tuple[ShareFigures, ...] = ()
    grants: tuple[GrantFigures, ...] = ()
    quotas: tuple[QuotaFigures, ...] = ()
    waiting: tuple[WaitingFigures, ...] = ()
    failures: tuple[Failure, ...] = ()


class ReportFigures(Struct, frozen=True):
    """One month's report. ``due_at`` (epoch seconds) is 0 once it is acknowledged."""

    programme: str
    provider: str
    month: str
    closed: bool
    due_at: int
