"""A month as it is reported: values only, all that the files, the object and the metrics are made of.

GPU-seconds are integers. Times are epoch seconds; a day is named as the programme's calendar names it.
"""

from msgspec import Struct

FACTS_CAME_LATE = "facts came late"  # why something is corrected
FEWER_SEATS = "facts came late: the pool had fewer seats then"  # what is taken back is not entered again


class Line(Struct, frozen=True, order=True):
    """GPU-seconds of one day, owner and condition: one row of the month's CSV."""

    programme: str
    provider: str
    pool: str
    fabric: str  # empty where no one fabric can be named: seats on shared servers, what is not delivered
    gpu_type: str
    share: str
    owner: str
    tenant: str
    tenant_display_name: str
    award: str
    grant: str
    condition: str
    reason: str  # why it was Failed, Unobserved …; of Used and Grace only where more is held than there should be
    day: str
    gpu_seconds: int


class Correction(Struct, frozen=True, order=True):
    """What a closed month turns out to have been otherwise: a reversal and a re-entry, in a later month's report."""

    of_month: str
    line: Line  # gpu_seconds below zero: the reversal
    why: str


class AwardRow(Struct, frozen=True, order=True):
    """What one grant was awarded and had in the month."""

    programme: str
    provider: str
    pool: str
    share: str
    gpu_type: str
    tenant: str
    tenant_display_name: str
    award: str
    grant: str
    gpus: int  # agreed, at the month's end or the term's
    term_start: int
    term_end: int  # exclusive
    granted_gpu_seconds: int  # all it owned: every condition but Grace
    held_gpu_seconds: int  # Used
    failed_gpu_seconds: int  # not charged
    grace_gpu_seconds: int  # after the term; not charged


class Incident(Struct, frozen=True, order=True):
    """Seats of one server that failed, in as far as that lies in the month."""

    programme: str
    provider: str
    pool: str
    fabric: str
    server: str
    start: int
    detected: int
    restored: int  # 0: not within the month
    gpus: int
    cause: str


class Identity(Struct, frozen=True, order=True):
    """One sum that must hold: ``expected`` from one side, ``counted`` from the other."""

    name: str  # such as "seats x seconds"
    pool: str
    expected: int
    counted: int

    @property
    def difference(self) -> int:
        """Return by how much it fails; 0: it holds."""
        return self.counted - self.expected


class Shortfall(Struct, frozen=True, order=True):
    """By how much a pool's promise of public GPUs was not met: GPUs promised and not installed x seconds."""

    pool: str
    gpu_seconds: int


class Absence(Struct, frozen=True, order=True):
    """A pool did not exist: nothing of it was counted, contracted or promised."""

    pool: str
    start: int
    end: int  # 0: not within the month
    gpus: int  # what it had, or was to have, before
    promised_gpu_seconds: int  # public GPUs that it had promised before x seconds


class DayDigest(Struct, frozen=True, order=True):
    """A closed day, as a scraper outside could witness it. ``revision`` counts its changes before the month closed."""

    day: str
    sha256: str
    revision: int = 0


class MonthAccount(Struct, frozen=True):
    """Everything a month's files are made of; the same facts give the same value, whenever it is asked for."""

    programme: str
    provider: str
    month: str
    start: int
    end: int
    zone: str
    until: int  # the watermark it is counted to, at most end
    lines: tuple[Line, ...]
    corrections: tuple[Correction, ...]
    awards: tuple[AwardRow, ...]
    incidents: tuple[Incident, ...]
    identities: tuple[Identity, ...]
    days: tuple[DayDigest, ...]
    settings_digest: str  # of the settings in force at the month's end
    owner: str = ""  # who runs the programme
    caps: tuple[tuple[str, int], ...] = ()  # gpu_type -> GPUs per grant
    unobserved_limit: int = 0
    own_use_detail: str = "Total"
    previous_manifest: str = ""  # sha256 of the manifest of the month before; empty: the first one
    closed_at: int = 0  # 0: provisional
    shortfall: tuple[Shortfall, ...] = ()  # of pools that had one
    absences: tuple[Absence, ...] = ()

    @property
    def name(self) -> str:
        """Return the report's name, as its object and folder are called."""
        return f"{self.programme}-{self.provider}-{self.month}"
