"""The Used sums of a month by DuckDB, from the ledger's rows as Parquet. Needs the package duckdb."""

import csv
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import duckdb  # type: ignore[import-not-found,unused-ignore]

from bench.lifelike import Lifelike

_HOLDS = """
SELECT a.tenant, h.server, h.seats, h.held_from, coalesce(h.held_until, ?), t.term_end
FROM holdings h JOIN accounts a ON a.id = h.account_id JOIN grant_terms t ON t.grant_uid = a.grant_uid
"""
# Held and within the term and the month, less what failed, was in maintenance or unobserved meanwhile.
_USED = """
WITH held AS (
  SELECT tenant, server, seats, greatest(held_from, {start}) AS s, least(held_until, term_end, {end}) AS e
  FROM '{holds}' WHERE least(held_until, term_end, {end}) > greatest(held_from, {start})
), lost AS (
  SELECT h.tenant, sum((least(h.e, l.e) - greatest(h.s, l.s))
                       * CASE WHEN l.whole THEN h.seats WHEN h.seats = 8 THEN 1 ELSE 0 END) AS amount
  FROM held h JOIN '{losses}' l ON l.server = h.server AND l.s < h.e AND h.s < l.e
  GROUP BY h.tenant
)
SELECT h.tenant, (sum((h.e - h.s) * h.seats) - coalesce(any_value(l.amount), 0))::BIGINT
FROM held h LEFT JOIN lost l ON l.tenant = h.tenant GROUP BY h.tenant
"""


def used(work: Path, ledger: Path, lifelike: Lifelike) -> tuple[float, dict[str, int]]:
    """Return the seconds it takes, and Used GPU-seconds by tenant. The rows are written as Parquet first, once."""
    holds, losses = work / "holds.parquet", work / "losses.parquet"
    month = lifelike.month
    with closing(duckdb.connect()) as connection:
        if not holds.exists():
            _export(work, ledger, lifelike)
            for path in (holds, losses):
                read = f"read_csv('{path.with_suffix('.csv')}', header=true)"
                connection.execute(f"COPY (SELECT * FROM {read}) TO '{path}' (FORMAT parquet)")  # noqa: S608
        begun = time.monotonic()
        query = _USED.format(start=month.start, end=month.end, holds=holds, losses=losses)
        sums = dict(connection.execute(query).fetchall())
        return time.monotonic() - begun, {tenant: amount for tenant, amount in sums.items() if amount}


def _export(work: Path, ledger: Path, lifelike: Lifelike) -> None:
    with (work / "holds.csv").open("w", newline="") as file, closing(sqlite3.connect(ledger)) as rows:
        out = csv.writer(file)
        out.writerow(("tenant", "server", "seats", "held_from", "held_until", "term_end"))
        out.writerows(rows.execute(_HOLDS, (1 << 60,)))
    with (work / "losses.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("server", "s", "e", "whole"))
        out.writerows(lifelike.losses())
