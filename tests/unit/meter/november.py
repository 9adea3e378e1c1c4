"""A ledger in November, and what it says of the month: for tests of days and months."""

from contextlib import contextmanager

from gpugrant.meter.facts import (
    GrantTerms,
    Named,
)
from gpugrant.meter.store import Store
from meter_kit import DECEMBER, NOVEMBER, a_place, a_server, ended, held

T = NOVEMBER
DAY = 86_400
PROVIDER = ("purchase-2025", "nhn-cloud")
NAME = "purchase-2025-nhn-cloud-2026-11"
TERMS = GrantTerms(
    "uid-of-pretrain", "hangang-lm", "pretrain", T, T + 90 * DAY, tenant="hangang", gpus=8, since=T
)


def open_store(url, now=T, **given):
    store = Store(url, now=lambda: now, **given)
    store.open()
    return store


@contextmanager
def opened(url):
    """Return a store with two servers and the terms of a grant, all there from November's first second on."""
    store = open_store(url)
    store.commit([TERMS, a_server("server-1"), a_server("server-2"), Named("hangang", T, "Hangang LM")])
    try:
        yield store
    finally:
        store.close()


def settle(store):
    while store.settle():
        pass


def month(store, name="2026-11"):
    return next(one for *who, one in store.reported() if tuple(who) == PROVIDER and one.name == name)


def account(store, name="2026-11"):
    return store.month_account(*PROVIDER, month(store, name))


def by_condition(account):
    sums = {}
    for line in account.lines:
        sums[line.condition] = sums.get(line.condition, 0) + line.gpu_seconds
    return sums


def through_november(store):
    store.commit(
        [ended("a", T + 100, T + 2 * DAY), held("b", T + 3 * DAY, a_place(server="server-2"))], T + 5 * DAY
    )
    store.commit([ended("b", T + 3 * DAY, T + 4 * DAY, a_place(server="server-2"))], DECEMBER + 100)
    settle(store)
