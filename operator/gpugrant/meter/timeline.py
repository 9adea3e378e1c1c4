"""From facts to cells: who owned every seat of a programme in every second, and in what condition (R10). Pure.

One window at a time, normally a day of the programme: ``build`` takes the facts that touch it and returns integer
GPU-seconds. The same function serves the running day, a day that closes, a late fact, and the check of a ledger.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from gpugrant.meter.facts import (
    Account,
    Announced,
    Aspect,
    Claimed,
    Condition,
    Contracted,
    GrantTerms,
    Health,
    Placed,
    Seated,
    Unwell,
)


class Stay(Struct, frozen=True, gc=False):
    """A pod's hold as the timeline needs it: [start, end) held, [end, gone) Unobserved."""

    uid: str
    server: str
    account: Account
    fabric: str
    seats: int
    start: int
    end: int  # where it holds still: any number past the window
    gone: int = 0  # 0, or not after end: nothing is Unobserved


class Facts(Struct, frozen=True):
    """What is known that touches a window. Histories are sorted by ``since``, and begin before the window with
    what was in force at its start; what is missing is as a new server's: ready, not cordoned, all seats offered."""

    stays: Sequence[Stay] = ()
    placed: Mapping[str, Sequence[Placed]] = {}  # by server
    health: Mapping[tuple[str, Aspect], Sequence[Health]] = {}
    unwell: Mapping[str, Sequence[Unwell]] = {}  # by pod uid
    announced: Mapping[str, Sequence[Announced]] = {}  # by server
    claimed: Mapping[str, Sequence[Claimed]] = {}  # by server
    seated: Mapping[str, Sequence[Seated]] = {}  # by grant uid
    contracted: Mapping[str, Sequence[Contracted]] = {}  # by pool
    terms: Mapping[str, Sequence[GrantTerms]] = {}  # by grant uid


class Cell(Struct, frozen=True):
    """What GPU-seconds are summed by. The account of a free seat names its place and nobody."""

    account: Account
    fabric: str
    condition: Condition
    reason: str = ""


class Built(Struct, frozen=True):
    """A window's sums. ``expected`` is worked out another way: max(contracted, installed) seats x seconds."""

    cells: Mapping[Cell, int]
    expected: Mapping[str, int]  # by pool
    shortfall: Mapping[str, int]  # by pool: public GPUs promised and not installed x seconds


def build(facts: Facts, programme: str, start: int, end: int) -> Built:
    """Return the sums of a programme's pools over [start, end). Stays on servers of no pool are left out."""
    raise NotImplementedError
