"""Builders for the meter's tests: pods, where they are, and a ledger in a folder."""

from pathlib import Path
from typing import Any

from gpugrant.meter.facts import Account, Dimensions, Ended, EndReason, Held, Owner, Placed
from gpugrant.meter.months import Calendars
from gpugrant.meter.store import Store
from gpugrant.model.pod import Pod, Shape

NOVEMBER = 1_793_458_800  # 2026-11-01 00:00 in Seoul
DECEMBER = 1_796_050_800  # 2026-12-01 00:00 in Seoul


def a_pod(uid: str = "a", **given: Any) -> Pod:
    """Return a pod that was bound to server-1 at 1000 and holds 8 GPUs, unless told otherwise."""
    values: dict[str, Any] = {
        "namespace": "hangang-lm",
        "name": f"pod-{uid}",
        "node": "server-1",
        "created": 900,
        "scheduled_at": 1000,
        "phase": "Running",
        "admitted": True,
        "finalizer": True,
        "shape": Shape(resources=(("nvidia.com/gpu", 8),)),
    }
    return Pod(uid=uid, **(values | given))


def an_account(grant: str = "pretrain", **given: Any) -> Account:
    """Return the account of a grant."""
    values: dict[str, Any] = {
        "programme": "purchase-2025",
        "provider": "nhn-cloud",
        "pool": "nhn-b200",
        "gpu_type": "NVIDIA-B200",
        "share": "Public",
        "owner": Owner.GRANT,
        "tenant": "hangang",
        "tenant_namespace": "hangang-lm",
        "grant": grant,
        "grant_uid": f"uid-of-{grant}" if grant else "",
    }
    return Account(**(values | given))


def a_place(
    account: Account | None = None, server: str = "server-1", seats: int = 8, of: int = 8
) -> Dimensions:
    """Return where a pod's seats are."""
    return Dimensions(account or an_account(), server, "fabric-1", "nvidia.com/gpu", seats, of)


def a_server(server: str, since: int = NOVEMBER, **given: Any) -> Placed:
    """Return the fact that a server is part of the pool that the builders' accounts name."""
    account = an_account()
    values: dict[str, Any] = {
        "programme": account.programme,
        "provider": account.provider,
        "pool": account.pool,
        "gpu_type": account.gpu_type,
        "share": account.share,
        "fabric": "fabric-1",
        "seats": 8,
    }
    return Placed(server, since, **(values | given))


def held(uid: str, start: int, place: Dimensions | None = None) -> Held:
    """Return the fact that a pod was bound."""
    return Held(uid, "hangang-lm", f"pod-{uid}", place or a_place(), start)


def ended(
    uid: str, start: int, end: int, place: Dimensions | None = None, reason: EndReason = EndReason.FINISHED
) -> Ended:
    """Return the fact that a pod stopped holding."""
    return Ended(held(uid, start, place), end, reason, finished_at=end)


def a_store(folder: Path, now: int = 0, calendars: Calendars | None = None, **given: Any) -> Store:
    """Return a store on a SQLite file in a folder, not opened yet."""
    return Store(f"sqlite:///{folder / 'ledger.db'}", calendars, now=lambda: now, **given)
