"""What tests ask of the ledger's database, from outside."""

import asyncio
from typing import Any

import psycopg

Ledger = psycopg.Connection[tuple[Any, ...]]
Row = tuple[int, int, int | None]  # seats, held from, held until
_ROWS = "select uid, seats, held_from, held_until from holdings"


async def booked(ledger: Ledger, wanted: dict[str, Row], seconds: float = 30) -> dict[str, Row]:
    """Return the rows of some pods, once they are as wanted or after so many seconds."""
    found: dict[str, Row] = {}
    for _ in range(int(seconds / 0.5)):
        found = {row[0]: (row[1], row[2], row[3]) for row in ledger.execute(_ROWS).fetchall() if row[0] in wanted}
        if found == wanted:
            break
        await asyncio.sleep(0.5)  # a database has no watch
    return found


async def row_of(ledger: Ledger, uid: str, seconds: float = 30) -> Row:
    """Return a pod's row, once it has ended or after so many seconds. Raises KeyError where there is none."""
    found: dict[str, Row] = {}
    for _ in range(int(seconds / 0.5)):
        found = {row[0]: (row[1], row[2], row[3]) for row in ledger.execute(_ROWS).fetchall() if row[0] == uid}
        if uid in found and found[uid][2] is not None:
            break
        await asyncio.sleep(0.5)
    return found[uid]
