"""``gpugrant status``: the cluster on one screen, as lines of text. Pure."""

from collections import defaultdict
from datetime import UTC, datetime

from gpugrant.expose.figures import Figures, ShareFigures

_CELLS = 10
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(part: int, whole: int) -> str:
    """Return a bar of ten cells and the percentage, to an eighth of a cell."""
    if whole <= 0:
        return "-"
    share = min(1.0, part / whole)
    eighths = round(share * _CELLS * 8)
    cells = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return f"{cells:░<{_CELLS}} {100 * share:3.0f} %"


def screen(figures: Figures, leader: str, now: int) -> list[str]:
    """Return the lines: per programme its pools and what is held of each share, what failed, what waits."""
    programmes: dict[str, dict[str, list[ShareFigures]]] = defaultdict(lambda: defaultdict(list))
    for share in figures.shares:
        programmes[share.programme][share.pool].append(share)
    lines = []
    for programme, pools in sorted(programmes.items()):
        seats = sum(_seats(share) for shares in pools.values() for share in shares)
        when = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(f"{programme} · {when} · {seats:,} GPUs")
        width = max(len("held of"), *(len(pool) for pool in pools))
        lines.append(f"{'held of':<{width}}  {'public':<18}{'own use':<18}{'failed':>6}  notes")
        lines += [_pool(pool, shares, width) for pool, shares in sorted(pools.items())]
    return [*lines, *_waiting(figures), leader]


def _seats(share: ShareFigures) -> int:
    return share.free + share.granted + share.held + share.reserved + share.failed + share.maintenance


def _pool(pool: str, shares: list[ShareFigures], width: int) -> str:
    by_name = {share.share: share for share in shares}
    bars = []
    for name in ("Public", "OwnUse"):
        share = by_name.get(name)
        bars.append(bar(share.held, _seats(share)) if share else "-")
    failed = sum(share.failed for share in shares)
    public = by_name.get("Public")
    note = ""
    if public and public.promised is not None and _seats(public) < public.promised:
        note = f"public share {public.promised - _seats(public)} GPUs short of the promise"
    return f"{pool:<{width}}  {bars[0]:<18}{bars[1]:<18}{failed:>6}  {note}".rstrip()


def _waiting(figures: Figures) -> list[str]:
    lines = []
    grants = [grant for grant in figures.grants if grant.state == "Waitlisted"]
    if grants:
        gpus = sum(grant.wanted - grant.granted - grant.held for grant in grants)
        lines.append(f"{len(grants)} grants wait in line for {gpus:,} GPUs")
    lines.extend(
        f"pods of {waiting.tenant or 'no tenant'} wait for {waiting.gpus:,} GPUs"
        f"{f' ({waiting.gpu_type})' if waiting.gpu_type else ''}: {waiting.reason}"
        for waiting in figures.waiting
    )
    return lines
