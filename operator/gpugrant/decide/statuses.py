"""The documents that statuses are written as, and what their parts have in common.

Absent optional fields are None, which removes them in a merge patch.
"""

from typing import Any

from gpugrant.decide import reasons
from gpugrant.decide.reasons import rfc3339

Doc = dict[str, Any]


def condition(old: Doc, kind: str, ok: bool, reason: str, message: str, generation: int, now: int) -> Doc:
    """Return a condition; its transition time moves only when its status does."""
    status = "True" if ok else "False"
    since = rfc3339(now)
    for known in old.get("conditions") or ():
        if known.get("type") == kind and known.get("status") == status:
            since = known.get("lastTransitionTime") or since
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message[:1024],
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


def not_enforced(old: Doc, kind: str, words: str, generation: int, now: int) -> Doc:
    """Return the condition for what is accepted and kept, and not enforced yet."""
    return condition(old, kind, True, reasons.NOT_ENFORCED, words, generation, now)


def differs(wanted: Doc, written: Doc) -> bool:
    """Say whether a merge patch of ``wanted`` would change ``written``."""
    for key, value in wanted.items():
        have = written.get(key)
        if isinstance(value, dict) and isinstance(have, dict):
            if differs(value, have):
                return True
        elif isinstance(value, dict):
            if have is not None or any(v is not None for v in value.values()):
                return True
        elif value != have:
            return True
    return False
