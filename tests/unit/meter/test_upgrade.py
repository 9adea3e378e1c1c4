"""A ledger that an earlier version wrote: what it had summed stays the same, on both stores."""

import pytest
from sqlalchemy import create_engine, inspect, text

from gpugrant.meter.facts import Aspect, Condition, Health, SettingsVersion
from gpugrant.meter.migrations import revision_of, upgrade
from gpugrant.meter.store import Store, StoreAwayError
from gpugrant.meter.verify import verify_ledger
from meter_kit import DECEMBER, NOVEMBER, a_server, an_account, ended

T = NOVEMBER
DAY = 86_400
ROWS = [  # uid, held_from, held_until, seats, reason
    ("before", T - 40 * DAY, T - 39 * DAY, 8, "Finished"),
    ("over-midnight", DECEMBER - 3600, DECEMBER + 1800, 8, "Finished"),
    ("grace", T + 9 * DAY, T + 11 * DAY, 4, "Terminal"),
    ("rejected", T + 5, T + 5, 8, "Rejected"),
    ("unseen", T + 50, T + 80, 2, "Unobserved"),
    ("held", DECEMBER + 600, None, 8, ""),
]
WATERMARK = DECEMBER + 1200
# What the earlier version had in its totals, and showed for the pod that holds.
SUMS = {
    ("2026-09", Condition.USED): 8 * DAY,
    ("2026-11", Condition.USED): 8 * 3600 + 4 * DAY + 2 * 30,
    ("2026-11", Condition.GRACE): 4 * DAY,
    ("2026-12", Condition.USED): 8 * 1200 + 8 * 600,
}


@pytest.fixture
def old_ledger(url):
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    account = an_account()
    with engine.begin() as connection:
        upgrade(connection, "0001")
        assert revision_of(connection) == "0001"
        calendars = '{"zones":[],"period":0}'
        connection.execute(
            text("INSERT INTO ledger VALUES (1, :opened, :mark, 7, :calendars)"),
            {"opened": T - 60 * DAY, "mark": WATERMARK, "calendars": calendars},
        )
        connection.execute(
            text(
                "INSERT INTO accounts VALUES (1, :digest, :programme, :provider, :pool, :gpu_type, 'Public', 'grant', "
                "'hangang', 'hangang-lm', 'pretrain', 'uid-of-pretrain', '')"
            ),
            {
                "digest": "d" * 64,
                "programme": account.programme,
                "provider": account.provider,
                "pool": account.pool,
                "gpu_type": account.gpu_type,
            },
        )
        for number, (uid, start, end, seats, reason) in enumerate(ROWS, 1):
            connection.execute(
                text(
                    "INSERT INTO holdings VALUES (:id, :uid, 1, 'hangang-lm', 'pod', :server, 'fabric-1', "
                    "'nvidia.com/gpu', :seats, 8, :start, :end, :end, false, :reason, :seen, 0, 0, 0, 0, -1)"
                ),
                {
                    "id": number,
                    "uid": uid,
                    "server": f"server-{number}",
                    "seats": seats,
                    "start": start,
                    "end": end,
                    "reason": reason,
                    "seen": end is not None and reason != "Unobserved",
                },
            )
        connection.execute(
            text(
                "INSERT INTO grant_terms VALUES "
                "(1, 'uid-of-pretrain', :since, 'hangang-lm', 'pretrain', 'hangang', '', 8, :since, :end, 3600), "
                "(2, 'uid-of-pretrain', :later, 'hangang-lm', 'pretrain', 'hangang', '', 8, :since, :last, 3600)"
            ),
            {"since": T - 60 * DAY, "end": T + 10 * DAY, "later": T + 20 * DAY, "last": DECEMBER + 90 * DAY},
        )
        connection.execute(
            text("INSERT INTO totals VALUES (1, '2026-11', 'Used', 12345), (1, '2026-11', 'Grace', 1)")
        )
        connection.execute(text("INSERT INTO floors VALUES (1, 'Grace', :shown)"), {"shown": 4 * DAY + 99})
    engine.dispose()
    return url


def test_what_was_summed_stays_the_same_before_and_after_its_days_close(old_ledger):
    store = Store(old_ledger)
    assert store.open() == {"held": DECEMBER + 600}
    for _ in range(2):
        assert store.tally.sums(an_account()) == SUMS
        assert store.tally.read().counters[an_account()] == {
            Condition.USED: sum(
                amount for (_, condition), amount in SUMS.items() if condition is Condition.USED
            ),
            Condition.GRACE: 4 * DAY + 99,
        }
        while store.settle():
            pass
    store.close()
    again = Store(old_ledger)
    again.open()
    assert again.tally.sums(an_account()) == SUMS
    again.close()


def take_back_to_0002(url):
    """Give a ledger the shape that it had before there was a journal, with all its rows."""
    before = create_engine("sqlite://")
    with before.begin() as connection:
        upgrade(connection, "0002")
        tables = set(inspect(connection).get_table_names())
    before.dispose()
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        later = sorted(set(inspect(connection).get_table_names()) - tables)
        assert "journal" in later
        for statement in (
            *(f"DROP TABLE {name}" for name in later),
            "CREATE TABLE kept AS SELECT day_id, pool, expected, shortfall, held FROM day_pools",
            "DROP TABLE day_pools",
            "ALTER TABLE kept RENAME TO day_pools",
            "ALTER TABLE ledger DROP COLUMN contents",
            "ALTER TABLE ledger DROP COLUMN seal",
            "ALTER TABLE months DROP COLUMN seal",
            "UPDATE alembic_version SET version_num = '0002'",
        ):
            connection.execute(text(statement))
    engine.dispose()


def test_days_and_months_of_before_the_journal_are_taken_as_they_are(url):
    store = Store(url, now=lambda: T)
    store.open()
    store.commit([a_server("server-1"), ended("a", T + 100, T + 2 * DAY)], DECEMBER + 100)
    while store.settle():
        pass
    found = next(one for one in store.reported() if one[2].name == "2026-11")
    store.close_month("purchase-2025-nhn-cloud-2026-11", "f" * 64, DECEMBER + 500)
    account = store.month_account(*found)
    store.commit([Health("server-1", Aspect.READY, T + 5 * DAY, 0)], DECEMBER + 600)
    store.close()
    take_back_to_0002(url)
    again = Store(url)
    for _ in range(2):
        again.open()
        assert again._read(lambda connection: list(verify_ledger(connection))) == []
        while again.settle():
            pass
    assert again.month_account(*found) == account
    again.close()


def test_its_days_are_what_its_rows_say(old_ledger):
    store = Store(old_ledger)
    store.open()
    while store.settle():
        pass
    month = next(month for _, _, month in store.reported() if month.name == "2026-11")
    account = store.month_account("purchase-2025", "nhn-cloud", month)
    assert sum(line.gpu_seconds for line in account.lines) == sum(
        amount for (name, _), amount in SUMS.items() if name == "2026-11"
    )
    assert [one.difference for one in account.identities] == [0, 0]
    assert store._read(lambda connection: list(verify_ledger(connection))) == []
    store.close()


def test_a_ledger_that_a_newer_version_has_shaped_is_left_alone_and_says_what_to_do(url):
    store = Store(url, now=lambda: T)
    store.open()
    store.commit([SettingsVersion("a" * 64, T, "whatever the newer one makes of it")])
    store.close()
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    older = Store(url)
    with pytest.raises(StoreAwayError, match="the shape 0999, which a newer gpugrant gave it: use that version"):
        older.open()
    assert not older.is_open
    assert older.newest_settings() == ""
    older.close()
    with engine.begin() as connection:
        assert revision_of(connection) == "0999"
    engine.dispose()
