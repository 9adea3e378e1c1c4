"""What was rewritten stays seen, whatever is done after it; what is no rewriting; every column is looked at."""

import pytest
from sqlalchemy import BigInteger, Boolean, Integer, text

from gpugrant.meter.database import reading_engine
from gpugrant.meter.seals import adopt
from gpugrant.meter.store import Store
from gpugrant.meter.tables import metadata
from gpugrant.meter.verify import verify_ledger
from meter_kit import ended
from unit.meter.closed_books import (
    DAY,
    FAILED_AS_MAINTENANCE,
    MARKED_STALE,
    NOW,
    T,
    copy_corrections,
    differences,
    drift,
    engine_of,
    rewrite,
    settle,
)


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
