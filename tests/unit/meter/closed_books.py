"""Books of two closed months and a running one, rewritten by hand in the database itself; what verify says then."""

import hashlib

from sqlalchemy import create_engine, text

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
from gpugrant.meter.store import Store
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


def copy_corrections(connection):
    """Book all corrections once more, and add them to the sums."""
    values = "day_id, booked_in, why, account_id, fabric, condition, reason, gpu_seconds"
    connection.execute(
        text(f"INSERT INTO corrections ({values}) SELECT {values} FROM corrections ORDER BY id")
    )


FAILED_AS_MAINTENANCE = (
    "UPDATE cells SET condition = 'Maintenance', reason = 'Announced' "
    f"WHERE condition = 'Failed' AND day_id = {NOVEMBER_4}",
    "UPDATE totals SET condition = 'Maintenance' WHERE condition = 'Failed' AND month = '2026-11'",
)
MARKED_STALE = "UPDATE days SET stale = true WHERE name = '2026-11-04'"
