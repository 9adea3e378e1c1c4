"""Books that somebody rewrote by hand, in the database itself: verify names what was changed; on both stores."""

import json

import pytest
from sqlalchemy import text

from gpugrant.meter.seals import seal_of_month
from unit.meter.closed_books import (
    DAY,
    FAILED_AS_MAINTENANCE,
    JANUARY_DAYS,
    MARKED_STALE,
    NOW,
    T,
    copy_corrections,
    differences,
    drift,
    rewrite,
)


def account(change, month="2026-11"):
    """Return a change to the account that was kept of a closed month."""

    def do(connection):
        kept = json.loads(
            connection.execute(text(f"SELECT account FROM months WHERE name = '{month}'")).scalar()
        )
        change(kept["account"])
        rewritten = text("UPDATE months SET account = :account WHERE name = :name")
        connection.execute(rewritten, {"account": json.dumps(kept), "name": month})

    return do


def raise_awards(kept):
    for award in kept["awards"]:
        award["held_gpu_seconds"] += 1000


def seal_again(connection):
    """Seal closed months as they are now, as one who knows how would."""
    before = ""
    for row in connection.execute(text("SELECT * FROM months ORDER BY id")).mappings().all():
        before = seal_of_month(row, before)
        connection.execute(
            text("UPDATE months SET seal = :seal WHERE id = :id"), {"seal": before, "id": row["id"]}
        )


def book_in(month):
    """Return a change that moves January's corrections to another month, sums included."""

    def do(connection):
        sums = connection.execute(
            text(
                "SELECT account_id, condition, sum(gpu_seconds) AS n FROM corrections "
                "WHERE booked_in = '2027-01' GROUP BY account_id, condition"
            )
        ).all()
        assert sums
        for number, condition, amount in sums:
            given = {"account": number, "condition": condition, "amount": int(amount), "month": month}
            key = "account_id = :account AND condition = :condition"
            taken = f"UPDATE totals SET gpu_seconds = gpu_seconds - :amount WHERE {key} AND month = '2027-01'"
            connection.execute(text(taken), given)
            added = f"UPDATE totals SET gpu_seconds = gpu_seconds + :amount WHERE {key} AND month = :month"
            if not connection.execute(text(added), given).rowcount:
                row = "(:account, :month, :condition, :amount)"
                connection.execute(text(f"INSERT INTO totals VALUES {row}"), given)
        connection.execute(text(f"UPDATE corrections SET booked_in = '{month}' WHERE booked_in = '2027-01'"))

    return do


LAST_DAYS_GONE = (
    f"DELETE FROM cells WHERE day_id IN {JANUARY_DAYS}",
    f"DELETE FROM day_pools WHERE day_id IN {JANUARY_DAYS}",
    f"DELETE FROM day_digests WHERE day_id IN {JANUARY_DAYS}",
    "DELETE FROM days WHERE month = '2027-01'",
)


def test_books_as_they_were_written_are_right(books):
    assert differences(books) == []
    assert drift(books) == 0


def case(name, words, *changes):
    """Return a case: what was changed in which way, and what the first difference has to say of it."""
    return pytest.param(words, changes, id=name)


CASES = [
    case(
        "days of a closed month, marked stale",
        "2026-11-04, digest for nhn-cloud",
        *FAILED_AS_MAINTENANCE,
        MARKED_STALE,
    ),
    case(
        "a day marked stale for which no fact came late",
        "table days, purchase-2025, 2026-11-04, stale: to be summed again is stored, the journal says summed",
        MARKED_STALE,
    ),
    case(
        "cells gone",
        "2026-11-04, nhn-cloud/nhn-b200",
        "DELETE FROM cells WHERE reason = 'NotReady'",
    ),
    case(
        "incidents emptied",
        "closed month purchase-2025-nhn-cloud-2026-11: seal over the month",
        account(lambda kept: kept.update(incidents=[])),
    ),
    case(
        "incidents emptied and sealed again",
        "2026-11: seal over the month and the one closed before it",
        account(lambda kept: kept.update(incidents=[])),
        seal_again,
    ),
    case(
        "awards raised",
        "award of nhn-b200/Public/hangang/pretrain, held_gpu_seconds",
        account(raise_awards),
    ),
    case(
        "awards emptied",
        "award of nhn-b200/Public/hangang/pretrain",
        account(lambda kept: kept.update(awards=[])),
    ),
    case(
        "a closed month's corrections emptied",
        "table corrections, booked in closed month purchase-2025-nhn-cloud-2026-12, 2026-11-06",
        account(lambda kept: kept.update(corrections=[]), "2026-12"),
    ),
    case(
        "shortfall emptied",
        f"shortfall of nhn-b200: 0 is stored, its days say {8 * 30 * DAY}",
        account(lambda kept: kept.update(shortfall=[])),
    ),
    case(
        "digests emptied",
        "digest of 2026-11-01",
        account(lambda kept: kept.update(days=[])),
    ),
    case(
        "identities emptied",
        "seats x seconds of nhn-b200, counted",
        account(lambda kept: kept.update(identities=[])),
    ),
    case(
        "owner",
        "seal over the month",
        account(lambda kept: kept.update(owner="somebody")),
    ),
    case(
        "manifest",
        "closed month purchase-2025-nhn-cloud-2026-12: seal over the month",
        f"UPDATE months SET manifest = '{'f' * 64}' WHERE name = '2026-12'",
    ),
    case(
        "closed_at",
        "table months, purchase-2025-nhn-cloud-2026-12, closed_at: 1 is stored",
        "UPDATE months SET closed_at = 1 WHERE name = '2026-12'",
    ),
    case(
        "a closed month opened again",
        "table months, purchase-2025-nhn-cloud-2026-12: none is stored",
        "DELETE FROM months WHERE name = '2026-12'",
    ),
    case(
        "corrections booked twice",
        "2026-11-06, nhn-cloud",
        copy_corrections,
    ),
    case(
        "corrections booked far from the first open month",
        "booked_in: 2027-06 is stored, the first open month is 2027-01",
        book_in("2027-06"),
    ),
    case(
        "settings",
        "table settings_versions, ",
        "UPDATE settings_versions SET text = replace(text, 'GpuSeconds: 0', 'GpuSeconds: 99')",
    ),
    case(
        "settings gone",
        "table settings_versions, ",
        "DELETE FROM settings_versions",
    ),
    case(
        "a revision that skips",
        "digest of 2026-11-03, revision: 9 is stored, the account that was kept as it closed says 0 (+9)",
        "UPDATE day_digests SET revision = 9 WHERE day_id = 3",
    ),
    case(
        "a revision of an open month that skips",
        "table day_digests, purchase-2025, 2027-01-03, nhn-cloud, revision: 9 is stored, the journal says 0 (+9)",
        "UPDATE day_digests SET revision = 9 WHERE day_id = (SELECT id FROM days WHERE name = '2027-01-03')",
    ),
    case(
        "a revision in the journal too",
        "table journal, entry ",
        "UPDATE journal SET revision = 9 WHERE kind = 'digest' AND name = '2026-11-03'",
    ),
    case(
        "a closed day's shortfall",
        f"shortfall of nhn-b200: {8 * 30 * DAY} is stored, its days say {8 * 30 * DAY + 5} (-5)",
        "UPDATE day_pools SET shortfall = shortfall + 5 WHERE day_id = 4",
    ),
    case(
        "an open day's shortfall",
        "2027-01-01, pool nhn-b200, shortfall: 691205 is stored, the facts say 691200 (+5)",
        f"UPDATE day_pools SET shortfall = shortfall + 5 WHERE day_id IN {JANUARY_DAYS}",
    ),
    case(
        "a floor raised",
        "table floors, the sum",
        "UPDATE floors SET gpu_seconds = gpu_seconds + 10000000000",
    ),
    case(
        "a floor lowered",
        "table floors, the sum",
        "UPDATE floors SET gpu_seconds = 1",
    ),
    case(
        "floors gone",
        "table floors, rows: 0 is stored",
        "DELETE FROM floors",
    ),
    case(
        "watermark put back",
        "is stored, the last stored day ends at",
        "UPDATE ledger SET watermark = watermark - 432000",
    ),
    case(
        "watermark put back by a minute",
        f"table ledger, watermark (second): {NOW - 60} is stored, the journal was written at {NOW} (-60)",
        "UPDATE ledger SET watermark = watermark - 60",
    ),
    case(
        "watermark put ahead",
        "table ledger, the seal over its row",
        "UPDATE ledger SET watermark = watermark + 60",
    ),
    case(
        "last days gone",
        "table days, purchase-2025, 2027-01-01: no such day is stored",
        *LAST_DAYS_GONE,
    ),
    case(
        "last days gone, from the journal too",
        "table journal, its last entry",
        *LAST_DAYS_GONE,
        "DELETE FROM journal WHERE name LIKE '2027-01%'",
    ),
    case(
        "a hold cut in its own day",
        "table holdings, pod r, held_until, where no other pod's bind ended it",
        "UPDATE holdings SET held_until = held_from + 10 WHERE uid = 'r'",
    ),
    case(
        "a hold cut by a bind that never was",
        "table holdings, pod r, held_until: a pod bound on server-1",
        "UPDATE holdings SET held_until = held_from + 10, is_cut = true WHERE uid = 'r'",
    ),
    case(
        "a hold cut, its own end too",
        "table holdings, pod r, own_until (Finished; second)",
        "UPDATE holdings SET held_until = held_from + 10, own_until = held_from + 10 WHERE uid = 'r'",
    ),
    case(
        "a hold cut that went while it was watched",
        "table holdings, the sum of the SHA-256",
        "UPDATE holdings SET held_until = held_until - 9, own_until = held_until - 9 WHERE uid = 's'",
    ),
    case(
        "a hold that begins later",
        "table holdings, the sum of the SHA-256",
        "UPDATE holdings SET held_from = held_from + 500 WHERE uid = 'r'",
    ),
    case(
        "a hold of the running day gone",
        "table holdings, rows",
        "DELETE FROM holdings WHERE uid = 'r'",
    ),
    case(
        "another tenant's name on an account",
        "2026-11-01, digest for nhn-cloud",
        "UPDATE accounts SET tenant = 'other' WHERE tenant = 'hangang'",
    ),
    case(
        "terms shortened",
        "2026-11-02, nhn-cloud",
        "UPDATE grant_terms SET term_end = term_start + 86400",
    ),
    case(
        "terms gone",
        "table grant_terms, rows: 0 is stored",
        "DELETE FROM grant_terms",
    ),
    case(
        "a failure gone",
        "2026-11-04, nhn-cloud",
        "DELETE FROM health WHERE value = 0 AND server = 'server-2'",
    ),
    case(
        "a failure of the running day added",
        "table health, rows",
        "INSERT INTO health (server, aspect, since, value, seen) "
        f"VALUES ('server-1', 'Ready', {NOW - 5}, 0, 0)",
    ),
    case(
        "when a failure was seen",
        "table health, the sum",
        "UPDATE health SET seen = seen + 1 WHERE server = 'server-2'",
    ),
    case(
        "a server gone",
        "2026-11-01, nhn-cloud",
        "DELETE FROM placements WHERE server = 'server-2'",
    ),
    case(
        "a server that came later",
        "2026-11-01, nhn-cloud",
        f"UPDATE placements SET since = {T + DAY} WHERE server = 'server-2'",
    ),
]


@pytest.mark.parametrize(("words", "changes"), CASES)
def test_what_was_rewritten_is_named(books, words, changes):
    rewrite(books, *changes)
    found = differences(books)
    assert found, "nothing was found"
    assert words in found[0], found[:3]
