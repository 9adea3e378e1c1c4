"""When a pod held its seats (R9). Pure: facts in, an interval in whole seconds out.

The clocks differ: starts, disruptions and terminal statuses are stamped by the API server, container
finishes by the node. That is why every end is clipped to what the API server's own clock allows.
"""

from collections.abc import Iterable

from msgspec import Struct

from gpugrant.meter.facts import EndReason
from gpugrant.model.pod import Pod

# Reasons of a terminal status that the kubelet gives to pods it had admitted; with any other reason a pod of
# whose containers it says nothing was refused at the door ("Pod was rejected: …").
# Source: pkg/kubelet, rejectPod() and its callers.
_ADMITTED_REASONS = frozenset({"DeadlineExceeded", "Terminated", "NodeLost"})

# A kubelet that refuses a pod at the door says in the same breath when it first saw it (status.startTime). One that
# comes back with its server also rejects pods that it had taken in before, and wipes all it said of them but that. A
# node's clock that is behind makes a refusal look older: it is then counted for the moment it took, no more.
# Likewise it dates PodScheduled anew: one that is later than the containers' finish, and this much later than
# status.startTime, is not that of the bind.
AT_THE_DOOR_SECONDS = 10

# How far a node's clock may be ahead of ours where the API server's own stamp is missing.
LARGEST_SKEW = 3600


class NodeFacts(Struct, frozen=True):
    """What is known of a pod's server. ``gone_at``: its object went or it was declared gone; 0: neither."""

    gone_at: int = 0


class Interval(Struct, frozen=True):
    """Half-open [start, end) in epoch seconds; end None: still held."""

    start: int
    end: int | None = None
    reason: EndReason | None = None


def held_interval(pod: Pod, node: NodeFacts, now: int) -> Interval | None:
    """Return when the pod held its seats, or None while it is not known to hold any.

    ``now`` (or when the server went) counts only where a pod has ended and nothing at all says when.
    """
    if not pod.node:
        if pod.ended or pod.deleting:  # the API server refuses to bind a pod that is being deleted
            at = pod.terminal_at or pod.deleting or pod.created or now
            return Interval(at, at, EndReason.NEVER_BOUND)
        return None
    if not _bound_at(pod) and not pod.ended:
        return None  # bound past the scheduler; the kubelet says PodScheduled with its first status
    start = _bound_at(pod) or pod.created
    if not pod.ended:
        return Interval(start)
    end, reason = _end_of(pod, start, min(now, node.gone_at or now))
    latest = pod.terminal_at or now + LARGEST_SKEW
    return Interval(start, max(start, min(end, latest)), reason)


def gone_interval(pod: Pod, node: NodeFacts, at: int, seen: int) -> Interval | None:
    """Return when a pod held whose object is gone; ``seen``: until when it was watched.

    An object that went while it was watched (seen == at) held until then. One that was missed later held for
    certain only until it was last seen; a server that was gone before that ends it earlier.
    """
    found = held_interval(pod, node, at)
    if found is None and pod.node:
        found = Interval(_bound_at(pod) or pod.created)
    if found is None:
        return Interval(at, at, EndReason.NEVER_BOUND) if pod.finalizer else None
    if found.end is not None:
        return found
    last = min(seen, at)
    if node.gone_at:
        last = min(last, node.gone_at)
    reason = EndReason.GONE if seen >= at else EndReason.UNOBSERVED
    return Interval(found.start, max(found.start, last), reason)


def skew_of(pod: Pod, interval: Interval) -> int:
    """Return by how many seconds at least a node's clock is off, as far as a pod that ended shows it.

    Its containers cannot have finished before it was bound, nor after the API server was told.
    """
    if not pod.finished_at or interval.end is None:
        return 0
    late = pod.finished_at - pod.terminal_at if pod.terminal_at else 0
    return max(0, interval.start - pod.finished_at, late)


def _bound_at(pod: Pod) -> int:
    """Return when a pod was bound, as nearly as its object says; 0: it does not."""
    taken_in = max(pod.created, pod.acknowledged_at) if pod.acknowledged_at else 0
    is_anew = taken_in and 0 < pod.finished_at <= pod.scheduled_at and pod.scheduled_at - taken_in > AT_THE_DOOR_SECONDS
    return taken_in if is_anew else pod.scheduled_at or taken_in


def _was_refused(pod: Pod) -> bool:
    """Say whether the kubelet refused an ended pod before it took it in: then it held nothing."""
    if pod.admitted or pod.disrupted_at or not pod.reason or pod.reason in _ADMITTED_REASONS:
        return False
    if not pod.acknowledged_at:
        return True
    return 0 < pod.terminal_at <= pod.acknowledged_at + AT_THE_DOOR_SECONDS


def _end_of(pod: Pod, start: int, seen: int) -> tuple[int, EndReason]:
    """Return the first end that exists, in R9's order."""
    if pod.finished_at:
        return pod.finished_at, EndReason.FINISHED
    if _was_refused(pod):
        return start, EndReason.REJECTED
    if pod.disrupted_at:
        return pod.disrupted_at, EndReason.DISRUPTED
    if pod.terminal_at:
        return pod.terminal_at, EndReason.TERMINAL
    return seen, EndReason.SEEN_ENDED


class Hold(Struct, frozen=True):
    """A pod's hold on one server, as far as overlaps are concerned."""

    uid: str
    start: int
    end: int | None  # by its own evidence; None: still held
    seats: int
    server_seats: int  # what the server had when the pod was bound; 0: not known, it cuts nothing


def cut_overlaps(holds: Iterable[Hold]) -> dict[str, int | None]:
    """Return the end of every hold of one server, cut so that no seat is held twice: the next bind wins.

    Where a bind finds too few seats, the holds that end first give way (their clock ran late), whole pods at
    a time. The answer does not depend on the order of ``holds``.
    """
    ends: dict[str, int | None] = {}
    active: list[Hold] = []
    for hold in sorted(holds, key=lambda hold: (hold.start, hold.uid)):
        ends[hold.uid] = hold.end
        if hold.end is not None and hold.end <= hold.start:
            continue
        active = [other for other in active if _after(ends[other.uid], hold.start)]
        if hold.server_seats:
            taken = sum(other.seats for other in active) + hold.seats
            active.sort(key=lambda other: (_sortable(ends[other.uid]), other.start, other.uid))
            while taken > hold.server_seats and active:
                loser = active.pop(0)
                ends[loser.uid] = hold.start
                taken -= loser.seats
        active.append(hold)
    return ends


def _after(end: int | None, at: int) -> bool:
    return end is None or end > at


def _sortable(end: int | None) -> tuple[bool, int]:
    return (end is None, end or 0)
