"""Every reason a user may read, each with the sentence that explains it.

A verdict's reason becomes the reason of a condition, its message the words on the condition, the pod and the
Event, unchanged. Nothing outside this module invents a reason.
"""

import re
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct


class Verdict(Struct, frozen=True):
    """A judgement: ``ok``, or why not. ``lasting`` verdicts do not change by waiting."""

    ok: bool
    reason: str
    message: str = ""
    lasting: bool = False


# -- Accepted --------------------------------------------------------------------------------------
ACCEPTED: Final = "Accepted"
INVALID_SPEC: Final = "InvalidSpec"
NAMESPACE_HAS_NO_TENANT: Final = "NamespaceHasNoTenant"
NO_SUCH_PROGRAMME: Final = "NoSuchProgramme"
NO_TENANT_QUOTA: Final = "NoTenantQuota"
CONFLICT_OF_INTEREST: Final = "ConflictOfInterest"
INVALID_TERM: Final = "InvalidTerm"
EXCEEDS_PROGRAMME_CAP: Final = "ExceedsProgrammeCap"
EXCEEDS_TENANT_QUOTA: Final = "ExceedsTenantQuota"
NO_SUCH_POOL: Final = "NoSuchPool"
NOT_WHOLE_SERVERS: Final = "NotWholeServers"
NEVER_FITS: Final = "NeverFits"

# -- Allocated -------------------------------------------------------------------------------------
ALLOCATED: Final = "Allocated"
NOT_ACCEPTED: Final = "NotAccepted"
WAITLISTED: Final = "Waitlisted"
NO_FABRIC_LARGE_ENOUGH: Final = "NoFabricLargeEnough"
BEHIND_IN_LINE: Final = "BehindInLine"
GROWTH_WAITLISTED: Final = "GrowthWaitlisted"
TERM_OVER: Final = "TermOver"

# -- Ready -----------------------------------------------------------------------------------------
ACTIVE: Final = "Active"
SCHEDULED: Final = "Scheduled"
GRACE: Final = "Grace"
ENDED: Final = "Ended"
REJECTED: Final = "Rejected"
SUSPENDED: Final = "Suspended"
PREDECESSOR_IN_GRACE: Final = "PredecessorInGrace"
SERVERS_BUSY: Final = "ServersBusy"

# -- what is accepted and not enforced yet ---------------------------------------------------------
NOT_ENFORCED: Final = "NotEnforced"

# -- Degraded, tenants -----------------------------------------------------------------------------
SEATS_FAILED: Final = "SeatsFailed"
ALL_HEALTHY: Final = "AllHealthy"
NO_NAMESPACE: Final = "NoNamespace"

# -- pools -----------------------------------------------------------------------------------------
READY: Final = "Ready"
SHARE_SHORT: Final = "ShareShort"
SHARE_MET: Final = "ShareMet"
NO_SERVERS: Final = "NoServers"
SERVERS_IN_USE: Final = "ServersInUse"
CLAIMED_TWICE: Final = "ClaimedTwice"
TOO_MANY_SEATS: Final = "TooManySeats"
ALL_VALID: Final = "AllValid"

# -- pods ------------------------------------------------------------------------------------------
DRA_NOT_SERVED: Final = "DraNotServed"
TWO_RESOURCES: Final = "TwoResources"
NO_POOL_OFFERS: Final = "NoPoolOffers"
NO_GRANT: Final = "NoGrant"
GRANT_NOT_ACTIVE: Final = "GrantNotActive"
GRANT_FULL: Final = "GrantFull"
LIMIT_REACHED: Final = "LimitReached"
NO_ROOM: Final = "NoRoom"
NO_SERVER_MATCHES: Final = "NoServerMatches"
TOO_LARGE: Final = "TooLarge"
GANG_INCOMPLETE: Final = "GangIncomplete"
GANG_INVALID: Final = "GangInvalid"
BACKING_OFF: Final = "BackingOff"
OTHER_GATES: Final = "OtherGates"

# What moves by itself while the reason stays: free seats, places, counts. Names, dates and sizes are no figures.
_FIGURES = re.compile(
    r"\b\d+(st|nd|rd|th)(?= in line)"
    r"|\b\d+(?= free\b| so far| more\b| of \d| on one server)"
    r"|\b\d+ (time|server|pod)s?\b"
)
_PLACE = re.compile(r"; (it is next|\d+ pods? (is|are) ahead)$")


def same_reason(written: str, message: str) -> bool:
    """Say whether two texts give the same reason, figures apart.

    What a pod was told is compared without its numbers, so that a moving queue or a seat freed elsewhere does
    not write to thousands of waiting pods, and a restarted operator repeats nothing.
    """
    return plain(written) == plain(message)


def plain(message: str) -> str:
    """Return a message without its figures and its place in line."""
    return _FIGURES.sub("#", _PLACE.sub("", message))


def place_in_line(ahead: int) -> str:
    """Return how many pods come before one, as the end of its message."""
    if not ahead:
        return "; it is next"
    return f"; {counted(ahead, 'pod')} {'is' if ahead == 1 else 'are'} ahead"


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd and so on."""
    if 10 <= number % 100 <= 20:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def counted(number: int, noun: str) -> str:
    """Return '1 pod' or '2 pods'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def rfc3339(instant: int) -> str:
    """Return an instant as Kubernetes writes it."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
