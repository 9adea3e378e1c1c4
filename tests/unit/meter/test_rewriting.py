"""Books that somebody rewrote by hand, in the database itself: verify names what was changed; on both stores."""

import hashlib
import json
import shutil
from itertools import count

import pytest
from sqlalchemy import BigInteger, Boolean, Integer, create_engine, text

from gpugrant.meter.database import reading_engine
from gpugrant.meter.facts import (
    Announced,
    Aspect,
    Claimed,
    Contracted,
    Ended,
    EndReason,
    Failure,
    Gap,
    GrantTerms,
    Health,
    Named,
    Seated,
    SettingsVersion,
    Unwell,
)
from gpugrant.meter.reported import name_of
from gpugrant.meter.seals import adopt, seal_of_month
from gpugrant.meter.store import Store
from gpugrant.meter.tables import metadata
from gpugrant.meter.verify import verify_ledger
from meter_kit import DECEMBER, NOVEMBER, a_server, ended, held

T = NOVEMBER
DAY = 86_400
JANUARY = DECEMBER + 31 * DAY
NOW = JANUARY + 9 * DAY + 7200
TERMS = GrantTerms(
    "uid-of-pretrain", "hangang-lm", "pretrain", T, T + 200 * DAY, tenant="hangang", gpus=8, since=T
)
SETTINGS = "programmes: {purchase-2025: {report: {unobservedLimitGpuSeconds: 0}}}"
NOVEMBER_4 = "(SELECT id FROM days WHERE name = '2026-11-04')"
JANUARY_DAYS = "(SELECT id FROM days WHERE month = '2027-01')"
_POOL = ("purchase-2025", "nhn-cloud", "nhn-b200", "NVIDIA-B200", "Public")
FACTS_OF_NO_ACCOUNT = [  # in the running day; they change no GPU-second, and no table is without rows
    Claimed("server-2", "uid-of-nobody", NOW - 100, False),
    Seated("uid-of-nobody", NOW - 100, *_POOL, seats=0),
    Announced("server-2", NOW - 100, NOW + DAY, NOW + 2 * DAY),
    Unwell("r", "server-1", NOW - 100, 0),
    Named("hangang", NOW - 100, "Hangang LM"),
    Gap(NOW - 50, NOW - 40),
    Failure(*_POOL, "server-2", "NotReady", NOW - 100, 8),
]
_numbers = count(1)


def settle(store):
    while store.settle():
        pass


def close(store, month):
    found = next(one for one in store.reported() if one[2].name == month)
    store.month_account(*found)
    store.close_month(name_of(*found), hashlib.sha256(month.encode()).hexdigest(), found[2].end + 10)


def write_books(url):
    """Write November and December, closed, with corrections of November in December and in January, which runs."""
    store = Store(url, now=lambda: T)
    store.open()
    contract = Contracted("nhn-b200", T, "purchase-2025", "nhn-cloud", "NVIDIA-B200", (), 24)
    settings = SettingsVersion(hashlib.sha256(SETTINGS.encode()).hexdigest(), T, SETTINGS)
    store.commit([settings, TERMS, contract, a_server("server-1"), a_server("server-2")])
    down = [
        Health("server-2", Aspect.READY, T + 3 * DAY, 0),
        Health("server-2", Aspect.READY, T + 4 * DAY, 1),
    ]
    store.commit([*down, ended("a", T + 100, T + 2 * DAY)], DECEMBER + 100)
    settle(store)
    close(store, "2026-11")
    store.commit([ended("late", T + 5 * DAY, T + 5 * DAY + 3600), held("b", T + 45 * DAY)], JANUARY + 100)
    settle(store)
    close(store, "2026-12")
    store.tally.read()
    store.commit(
        [
            Health("server-1", Aspect.READY, T + 5 * DAY, 0),
            Health("server-1", Aspect.READY, T + 5 * DAY + 60, 1),
        ]
    )
    settle(store)
    seen = NOW - 60
    running = Ended(held("r", NOW - 3600), seen, EndReason.FINISHED, finished_at=seen, terminal_at=seen)
    skew = Ended(held("s", NOW - 5000), NOW - 4000, EndReason.GONE, gone_at=NOW - 4000)
    store.commit(
        [Ended(held("b", T + 45 * DAY), NOW - 7000, EndReason.FINISHED, NOW - 7000), skew, running], NOW
    )
    store.commit(FACTS_OF_NO_ACCOUNT)
    settle(store)
    store.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory, request):
    """Return a function that gives the URL of a fresh copy of the books."""
    file = tmp_path_factory.mktemp("books") / "ledger.db"
    write_books(f"sqlite:///{file}")
    kept = {}

    def copy(kind, folder):
        if kind == "sqlite":
            shutil.copy(file, folder)
            return f"sqlite:///{folder / 'ledger.db'}"
        postgres = request.getfixturevalue("postgres")
        if not kept:
            kept["url"] = postgres.database()
            write_books(kept["url"])
        name, template = f"copy_{next(_numbers)}", kept["url"].split("@/")[1].split("?")[0]
        postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return kept["url"].replace(template, name)

    return copy


@pytest.fixture(params=["sqlite", "postgresql"])
def books(request, written, tmp_path):
    return written(request.param, tmp_path)


def engine_of(url):
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def rewrite(url, *changes):
    """Change the books behind the operator's back; each change must find something."""
    engine = engine_of(url)
    with engine.begin() as connection:
        for change in changes:
            if isinstance(change, str):
                assert connection.execute(text(change)).rowcount > 0, change
            else:
                change(connection)
    engine.dispose()


def differences(url):
    engine = reading_engine(url)
    with engine.begin() as connection:
        found = [str(one) for one in verify_ledger(connection)]
    engine.dispose()
    return found


def drift(url):
    """Return what the metric shows after a round over all days."""
    store = Store(url, now=lambda: T)
    store.open()
    found = [store.check_day() for _ in range(75)][-1]
    store.close()
    return found


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


def copy_corrections(connection):
    """Book all corrections once more, and add them to the sums."""
    values = "day_id, booked_in, why, account_id, fabric, condition, reason, gpu_seconds"
    connection.execute(
        text(f"INSERT INTO corrections ({values}) SELECT {values} FROM corrections ORDER BY id")
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


FAILED_AS_MAINTENANCE = (
    "UPDATE cells SET condition = 'Maintenance', reason = 'Announced' "
    f"WHERE condition = 'Failed' AND day_id = {NOVEMBER_4}",
    "UPDATE totals SET condition = 'Maintenance' WHERE condition = 'Failed' AND month = '2026-11'",
)
MARKED_STALE = "UPDATE days SET stale = true WHERE name = '2026-11-04'"
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


def test_a_correction_that_takes_back_what_was_not_counted_breaks_a_rule_of_its_own(books):
    rewrite(books, copy_corrections)
    assert any(
        "table corrections, row " in one and "the reversal of what was counted" in one
        for one in differences(books)
    )


def test_a_rewritten_day_stays_seen_after_the_operator_has_summed_it_again(books):
    rewrite(books, *FAILED_AS_MAINTENANCE, MARKED_STALE)
    store = Store(books, now=lambda: T)
    store.open()
    settle(store)
    store.close()
    found = differences(books)
    assert any("2026-11-04, as it was found when it was written again" in one for one in found)
    assert any("purchase-2025, 2026-11-04, digest for nhn-cloud" in one for one in found)
    assert drift(books) > 0


def test_a_rewritten_row_of_the_ledger_stays_seen_after_the_operator_has_written_to_it(books):
    rewrite(books, "UPDATE ledger SET watermark = watermark - 60")
    store = Store(books, now=lambda: T)
    store.open()
    store.commit([], NOW + 60)
    store.close()
    assert any("the ledger's own row, as it was found" in one for one in differences(books))


def test_a_fact_that_comes_late_for_a_closed_month_is_no_rewriting(books):
    store = Store(books, now=lambda: T)
    store.open()
    store.commit([ended("later", T + 8 * DAY, T + 8 * DAY + 60)])
    assert differences(books) == []  # its day is yet to be summed again
    settle(store)
    assert differences(books) == []
    store.close()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE day_pools SET shortfall = shortfall + 5 WHERE day_id = 4", 1),
        ("UPDATE day_digests SET revision = 3 WHERE day_id = 5", 1),
        ("UPDATE cells SET gpu_seconds = gpu_seconds - 7 WHERE condition = 'Used' AND day_id = 1", 7),
    ],
)
def test_the_drift_is_not_0_where_a_day_was_rewritten(books, change, found):
    rewrite(books, change)
    assert drift(books) == found


def test_a_chain_that_was_noted_is_gone_after_all_was_sealed_anew(books):
    engine = reading_engine(books)

    def chain():
        with engine.begin() as connection:
            return connection.execute(text("SELECT chain FROM journal WHERE id = 20")).scalar()

    def found(noted):
        with engine.begin() as connection:
            return [str(one) for one in verify_ledger(connection, noted=[noted])]

    noted = chain()
    assert found(noted) == []
    rewrite(books, "UPDATE settings_versions SET text = ''", adopt)
    assert chain() != noted
    assert [one for one in found(noted) if "the chain: none is stored, somebody has noted" in one]
    engine.dispose()


@pytest.mark.parametrize("aspect", ["placements", "health", "grant_terms"])
def test_days_show_what_was_taken_out_of_histories_though_their_sums_were_made_right(books, aspect):
    """Even if the ledger's own row is written anew: the cells of closed days are what the facts said then."""
    change = {
        "placements": "DELETE FROM placements WHERE server = 'server-2'",
        "health": "DELETE FROM health WHERE server = 'server-2'",
        "grant_terms": "UPDATE grant_terms SET term_end = term_start + 86400",
    }[aspect]
    rewrite(books, change, adopt)
    assert differences(books)[0].startswith("purchase-2025, 2026-11-")


def other_value(column):
    """Return an SQL expression for another value of a column's type."""
    if isinstance(column.type, Boolean):
        return f'NOT "{column.name}"'
    if isinstance(column.type, (Integer, BigInteger)):
        return f'COALESCE("{column.name}", 0) + 1000003'
    return f"\"{column.name}\" || 'x'"


@pytest.mark.parametrize("table", [one for one in metadata.sorted_tables if one.name != "marks"], ids=str)
def test_every_column_of_every_table_is_looked_at(written, tmp_path, table):
    """One row at a time, in a transaction that is taken back; what cannot be read is said, not thrown."""
    engine = engine_of(written("sqlite", tmp_path))
    row = f"FROM {table.name} ORDER BY rowid DESC LIMIT 1"
    changes = [f"DELETE FROM {table.name} WHERE rowid = (SELECT rowid {row})"]
    for column in table.columns:
        if column.name != "id" or table.name in ("journal", "days", "accounts"):
            set_to = f'"{column.name}" = {other_value(column)}'
            changes.append(f"UPDATE {table.name} SET {set_to} WHERE rowid = (SELECT rowid {row})")
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT count(*) FROM {table.name}")).scalar()
        connection.rollback()
        missed = []
        for change in changes:
            with connection.begin() as transaction:
                connection.execute(text(change))
                if not list(verify_ledger(connection)):
                    missed.append(change)
                transaction.rollback()
    engine.dispose()
    assert missed == []
