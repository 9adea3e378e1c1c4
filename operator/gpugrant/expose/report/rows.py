"""What the files of a month hold. The fields of a table's row are its columns, in this order.

GPU-seconds are integers, GPU-hours exact decimals with six places, times RFC 3339.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

FORMAT: Final = "gpugrant-month-1"
SEATS_IDENTITY: Final = "seats x seconds"  # its counted side is the sum of the pool's rows

USAGE_CSV: Final = "usage.csv"
USAGE_JSON: Final = "usage.json"
AWARDS_CSV: Final = "awards.csv"
INCIDENTS_CSV: Final = "incidents.csv"
CORRECTIONS_CSV: Final = "corrections.csv"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.json.sig"
PUBLIC_KEY: Final = "public-key.pem"
SUMMED_FILES: Final = (USAGE_CSV, USAGE_JSON, AWARDS_CSV, INCIDENTS_CSV, CORRECTIONS_CSV, PUBLIC_KEY)
ALL_FILES: Final = (*SUMMED_FILES, MANIFEST, SIGNATURE)

# What 64 bits hold: more GPU-seconds than there will ever be, and no way to make a reader compute for hours.
Seconds = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Decimal = Annotated[str, Meta(pattern=r"^(-?(0|[1-9][0-9]{0,18})\.[0-9]{6})?$")]  # a number in a spreadsheet


class _Row(Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """One row of a table."""


class UsageRow(_Row, frozen=True, order=True, forbid_unknown_fields=True):
    """GPU-seconds of one day, owner and condition."""

    programme: str
    provider: str
    pool: str
    fabric: str
    gpu_type: str
    share: str
    owner: str
    tenant: str
    tenant_display_name: str
    award: str
    grant: str
    condition: str
    reason: str
    day: str
    gpu_seconds: Seconds
    gpu_hours: Decimal


class CorrectionRow(UsageRow, frozen=True, order=True, forbid_unknown_fields=True):
    """A line of an earlier, closed month that is taken back (below zero) or entered again."""

    of_month: str
    why: str


class AwardFileRow(_Row, frozen=True, order=True, forbid_unknown_fields=True):
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
    gpus: Count
    term_start: str
    term_end: str
    granted_gpu_seconds: Count
    held_gpu_seconds: Count
    failed_gpu_seconds: Count
    grace_gpu_seconds: Count
    granted_gpu_hours: Decimal
    held_gpu_hours: Decimal
    failed_gpu_hours: Decimal
    grace_gpu_hours: Decimal
    held_percent_of_granted: Decimal


class IncidentRow(_Row, frozen=True, order=True, forbid_unknown_fields=True):
    """GPUs of one server that failed, in as far as that lies in the month."""

    programme: str
    provider: str
    pool: str
    fabric: str
    server: str
    start: str
    detected: str
    restored: str
    gpus: Count
    cause: str
    start_utc: str
    detected_utc: str
    restored_utc: str


class TotalRow(_Row, frozen=True, order=True, forbid_unknown_fields=True):
    """The month's GPU-seconds of one share, GPU type, owner and condition."""

    share: str
    gpu_type: str
    owner: str
    condition: str
    gpu_seconds: Seconds
    gpu_hours: Decimal


class IdentityRow(_Row, frozen=True, order=True, forbid_unknown_fields=True):
    """Two sums that must be equal."""

    name: str
    pool: str
    expected_gpu_seconds: Seconds
    counted_gpu_seconds: Seconds
    difference_gpu_seconds: Seconds
    holds: bool


class ShortfallRow(_Row, frozen=True, order=True, forbid_unknown_fields=True):
    """Public GPUs of a pool that were promised and not installed, x seconds."""

    pool: str
    gpu_seconds: Count
    gpu_hours: Decimal


class AbsenceRow(_Row, frozen=True, order=True, forbid_unknown_fields=True):
    """A time in which a pool did not exist, so that nothing of it is in any sum; with what it had had before."""

    pool: str
    start: str
    end: str  # empty: not within the month
    gpus: Count
    promised_gpu_seconds: Count
    promised_gpu_hours: Decimal


class DayRow(_Row, frozen=True, order=True, forbid_unknown_fields=True):
    """A day's digest, as meter.digests.day_digest defines it, and how often it changed before the month closed."""

    day: str
    sha256: str
    revision: Count


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """Which month of whom, and how far it is counted."""

    report: str
    programme: str
    provider: str
    month: str
    zone: str
    start: str
    end: str
    until: str
    state: Literal["Closed", "Provisional"]
    closed_at: str  # empty while provisional


class UsageFile(Header, frozen=True, forbid_unknown_fields=True):
    """usage.json: all tables once more, and their sums."""

    lines: tuple[UsageRow, ...]
    awards: tuple[AwardFileRow, ...]
    incidents: tuple[IncidentRow, ...]
    corrections: tuple[CorrectionRow, ...]
    totals: tuple[TotalRow, ...]
    identities: tuple[IdentityRow, ...]
    share_shortfall: tuple[ShortfallRow, ...]
    pool_absences: tuple[AbsenceRow, ...]


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the folder: its digest, its length, how many rows it has and what each column sums to."""

    sha256: str
    bytes: Count
    rows: Count
    sums: dict[str, Seconds]


class Signer(Struct, frozen=True, forbid_unknown_fields=True):
    """With which key the manifest is signed."""

    algorithm: Literal["Ed25519"]
    public_key_sha256: str  # of the 32 bytes of the raw public key


class Manifest(Header, frozen=True, forbid_unknown_fields=True):
    """manifest.json: what the signature is over."""

    format: Literal["gpugrant-month-1"]
    owner: str
    own_use_detail: Literal["Total", "Tenant"]
    unobserved_limit_gpu_seconds: Count
    caps: dict[str, Count]
    settings_sha256: str
    previous_manifest_sha256: str  # empty: the first month
    files: dict[str, FileEntry]
    totals: tuple[TotalRow, ...]
    identities: tuple[IdentityRow, ...]
    share_shortfall: tuple[ShortfallRow, ...]
    pool_absences: tuple[AbsenceRow, ...]
    days: tuple[DayRow, ...]
    signer: Signer


TABLES: Final[dict[str, type[_Row]]] = {
    USAGE_CSV: UsageRow,
    AWARDS_CSV: AwardFileRow,
    INCIDENTS_CSV: IncidentRow,
    CORRECTIONS_CSV: CorrectionRow,
}
