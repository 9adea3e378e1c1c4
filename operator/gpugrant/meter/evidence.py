"""A hold's end, worked out again from what its row keeps of the pod (R9). Pure."""

from gpugrant.meter.facts import EndReason

_LATEST = 1 << 60


def end_of(
    reason: str, start: int, finished_at: int, disrupted_at: int, terminal_at: int, gone_at: int
) -> tuple[int, int] | None:
    """Return the first and last second that the evidence allows as a pod's own end; None where it does not say.

    The two differ where the operator's own clock had a say that is not kept: a finish without the API server's
    stamp is cut to what the node's clock may be ahead, an object that went is bounded by when that was noticed.
    """
    if reason == EndReason.FINISHED and finished_at:
        end = max(start, min(finished_at, terminal_at or _LATEST))
        return (end if terminal_at else start), end
    if reason == EndReason.REJECTED:
        return start, start
    if reason == EndReason.DISRUPTED and disrupted_at:
        end = max(start, min(disrupted_at, terminal_at or _LATEST))
        return (end if terminal_at else start), end
    if reason == EndReason.TERMINAL and terminal_at:
        return max(start, terminal_at), max(start, terminal_at)
    if reason in (EndReason.GONE, EndReason.UNOBSERVED) and gone_at:
        return start, max(start, gone_at)
    return None
