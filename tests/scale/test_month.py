"""A lifelike month, small: what an operator kept of it closes, adds up, and is what its pods say. Both reports."""

from collections import Counter

import pytest

from bench.filling import fill
from bench.lifelike import SEATS, Lifelike, Pod
from gpugrant.meter.facts import Condition, Owner
from gpugrant.meter.month import MonthAccount
from gpugrant.meter.store import Store
from gpugrant.run.report_rules import figures_of

SCALE = 0.02


@pytest.fixture(scope="module")
def lifelike() -> Lifelike:
    return Lifelike(SCALE)


@pytest.fixture(scope="module")
def accounts(lifelike: Lifelike, tmp_path_factory: pytest.TempPathFactory) -> list[MonthAccount]:
    folder = tmp_path_factory.mktemp("month")
    store = Store(f"sqlite:///{folder / 'ledger.sqlite'}")
    fill(f"sqlite:///{folder / 'ledger.sqlite'}", lifelike)
    store.open()
    while store.settle():
        pass
    found = [
        store.month_account(programme, provider, month)
        for programme, provider, month in store.reported()
        if month == lifelike.month
    ]
    store.close()
    return found


def test_every_identity_holds_and_nothing_keeps_the_month_from_closing(
    accounts: list[MonthAccount],
) -> None:
    assert {account.provider for account in accounts} == {"naver-cloud", "kakao"}
    for account in accounts:
        figures = figures_of(account)
        assert figures.failing == () and figures.missing_days == ()
        assert figures.expected == figures.counted > 0
        assert sum(amount for _, amount in figures.unobserved) <= account.unobserved_limit


def test_the_parts_add_up_to_what_is_contracted_or_installed(
    lifelike: Lifelike, accounts: list[MonthAccount]
) -> None:
    """Every server is contracted all month: also the seconds before the late ones came."""
    seconds = lifelike.month.end - lifelike.month.start
    found = Counter[str]()
    for account in accounts:
        for line in account.lines:
            found[line.pool] += line.gpu_seconds
    assert sorted(found.values()) == sorted(len(pool) * SEATS * seconds for pool in lifelike.servers)


def test_it_has_all_that_goes_wrong_in_a_month(accounts: list[MonthAccount]) -> None:
    conditions = {line.condition for account in accounts for line in account.lines}
    assert conditions >= {Condition.FAILED, Condition.USED, Condition.IDLE}
    assert any(account.incidents for account in accounts)


def test_used_is_what_the_pods_say_less_what_failed_under_them(
    lifelike: Lifelike, accounts: list[MonthAccount]
) -> None:
    """Count second by second, pod by pod: no code of the ledger's."""
    used = Counter[str]()
    for account in accounts:
        for line in account.lines:
            if line.owner == Owner.GRANT and line.condition == Condition.USED:
                used[line.tenant] += line.gpu_seconds
    assert used == _by_pods(lifelike)


def _by_pods(lifelike: Lifelike) -> Counter[str]:
    ends = {p.terms.tenant: p.terms.end for p in (*lifelike.projects, *lifelike.shared)}
    losses: dict[str, list[tuple[int, int, bool]]] = {}
    for server, start, end, whole in lifelike.losses():
        losses.setdefault(server, []).append((start, end, whole))
    used = Counter[str]()
    for pod in lifelike.pods():
        start, end = _within(lifelike, pod, ends[pod.account.tenant])
        if start >= end:
            continue
        used[pod.account.tenant] += pod.seats * (end - start)
        for down, up, whole in losses.get(pod.server, ()):
            seats = pod.seats if whole else pod.seats // SEATS
            used[pod.account.tenant] -= seats * max(0, min(end, up) - max(start, down))
    return +used


def _within(lifelike: Lifelike, pod: Pod, term_end: int) -> tuple[int, int]:
    ends = [lifelike.month.end, term_end, *([] if pod.end is None else [pod.end])]
    return max(pod.start, lifelike.month.start), min(ends)
