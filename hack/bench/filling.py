"""Writes a lifelike month into a ledger in bulk, as if an operator had kept it all along but summed nothing yet."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, create_engine, insert, update

from bench.lifelike import PROGRAMME, Lifelike, Pod
from gpugrant.meter.days import add_day
from gpugrant.meter.facts import EndReason, Failure, SettingsVersion
from gpugrant.meter.histories import KINDS
from gpugrant.meter.months import Calendar
from gpugrant.meter.rows import Accounts
from gpugrant.meter.seals import adopt
from gpugrant.meter.store import Store
from gpugrant.meter.tables import failures, holdings, ledger, settings_versions

_T = TypeVar("_T")
_ROWS = 20_000


def fill(url: str, lifelike: Lifelike) -> int:
    """Write the month's facts; its days are there, to be summed. Return the number of pods."""
    store = Store(url, now=lambda: lifelike.month.start)
    store.open()
    store.close()
    engine = create_engine(url)
    pods = 0
    with engine.begin() as connection:
        for pragma in ("journal_mode=MEMORY", "synchronous=OFF") if engine.name == "sqlite" else ():
            connection.exec_driver_sql(f"PRAGMA {pragma}")
    with engine.begin() as connection:
        _write_facts(connection, lifelike)
        known = Accounts()
        everybody = [project.account for project in (*lifelike.projects, *lifelike.shared)]
        numbers = known.ids(connection, everybody)
        # As they were bound: rows that are read together lie together.
        for some in _batches(sorted(lifelike.pods(), key=lambda pod: pod.start)):
            connection.execute(insert(holdings), [_row(pod, numbers[pod.account]) for pod in some])
            pods += len(some)
        connection.execute(update(ledger).values(watermark=lifelike.month.end + 300))
        day = Calendar().day_of(lifelike.month.start)
        while day.start < lifelike.month.end:
            add_day(connection, PROGRAMME, day, stale=True)
            day = Calendar().day_of(day.end)
        adopt(connection)
    engine.dispose()
    return pods


def _write_facts(connection: Connection, lifelike: Lifelike) -> None:
    rows: dict[Any, list[dict[str, Any]]] = {}
    for fact in lifelike.facts:
        if isinstance(fact, Failure):
            rows.setdefault(failures, []).append(msgspec.structs.asdict(fact))
        elif isinstance(fact, SettingsVersion):
            rows.setdefault(settings_versions, []).append(msgspec.structs.asdict(fact))
        else:
            kind = KINDS[type(fact)]
            rows.setdefault(kind.table, []).append(kind.values(fact))
    for table, values in rows.items():
        connection.execute(insert(table), values)


def _row(pod: Pod, account: int) -> dict[str, Any]:
    unseen = pod.reason is EndReason.UNOBSERVED
    end = pod.end or 0
    return {
        "uid": pod.uid,
        "account_id": account,
        "namespace": pod.account.tenant_namespace,
        "name": pod.name,
        "server": pod.server,
        "fabric": pod.fabric,
        "resource": "nvidia.com/gpu",
        "seats": pod.seats,
        "server_seats": 8,
        "held_from": pod.start,
        "held_until": pod.end,
        "own_until": pod.end,
        "is_cut": False,
        "end_reason": pod.reason or "",
        "observed": pod.end is not None and not unseen,
        "finished_at": 0 if unseen else end,
        "disrupted_at": end if pod.reason is EndReason.DISRUPTED else 0,
        "terminal_at": 0 if unseen else end,
        "gone_at": pod.gone,
        "waited": 3,
    }


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    them = iter(items)
    while some := list(islice(them, _ROWS)):
        yield some
