"""Never more than granted, seen by a witness of its own, while clients press and the operator is killed.

50 clients create and delete pods and gangs against 28 GPUs of two grants; the operator is killed at random
moments, also while it starts; the scheduler goes away once, so that releases do not bind.
"""

import asyncio
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field

from cluster_kit.operator import OperatorProcess
from cluster_kit.pressing import Client, holds_of
from cluster_kit.site import Grant, Site
from cluster_kit.witness import Unbound, Witness
from devcluster.controlplane import ControlPlane
from gpugrant import names

CLIENTS = 50
KILLS = 20
BIND_TIMEOUT = 5
# Release times are whole seconds, and an eviction takes a round trip or two on a busy machine.
SLACK = 4.0
DRAIN_SECONDS = 120.0


@dataclass
class Absence:
    """When the operator was away, by the test's own clock."""

    stretches: list[tuple[float, float]] = field(default_factory=list)
    since: float | None = None

    def begins(self) -> None:
        if self.since is None:
            self.since = time.monotonic()

    def ends(self) -> None:
        assert self.since is not None
        self.stretches.append((self.since, time.monotonic()))
        self.since = None

    def within(self, stretch: Unbound) -> float:
        """Return how long of a stretch the operator was away."""
        return sum(max(0.0, min(until, stretch.until) - max(since, stretch.since)) for since, until in self.stretches)


async def test_kills_at_any_moment_never_give_more_than_granted(
    site: Site, operator: OperatorProcess, installed: ControlPlane
) -> None:
    pool = await site.pool([3, 2])
    tenants = [await site.tenant(pool), await site.tenant(pool)]
    own = await site.grant(tenants[0], pool, 16)
    shared = await site.grant(tenants[1], pool, 12, placement="SharedServers")
    witness = Witness(site.admin, frozenset(each.namespace for each in tenants), {own.uid: 16, shared.uid: 12},
                      dict.fromkeys(pool.servers, 8))
    absence, enough = Absence(), asyncio.Event()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    async with witness:
        clients = [Client(site.admin, witness, tenants[number % 2], number, random.Random(dice.random()))
                   for number in range(CLIENTS)]
        pressing = [asyncio.create_task(each.press(enough)) for each in clients]
        await _kill_again_and_again(operator, installed, absence, dice, pressing)
        enough.set()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.gather(*pressing)
                await witness.until_all_over()
        except TimeoutError:
            raise AssertionError(f"after {DRAIN_SECONDS:g} s not over:\n" + "\n".join(witness.left())) from None

    assert witness.breaches == []
    assert _unbound_too_long(witness, absence) == []
    ran = [each for each in witness.seen.values() if each.pod["spec"].get("nodeName")]
    print(f"{witness.events} events, {len(witness.seen)} pods, {len(ran)} ran, most held {dict(witness.most_held)}; "
          f"longest unbound {max((u.until - u.since for u in witness.unbound), default=0):.1f} s; "
          f"operator away {sum(b - a for a, b in absence.stretches):.0f} s")
    assert witness.most_held[own.uid] == 16, "the test pressed too little"
    assert any(each.until - each.since > BIND_TIMEOUT - 1 for each in witness.unbound), "nothing was taken back"
    await _ledger_equals(operator, witness)
    await _metrics_equal(operator, witness, {own.uid: own, shared.uid: shared})
    await operator.restart()
    await _metrics_equal(operator, witness, {own.uid: own, shared.uid: shared})


async def _kill_again_and_again(
    operator: OperatorProcess, plane: ControlPlane, absence: Absence, dice: random.Random,
    pressing: list[asyncio.Task[None]],
) -> None:
    scheduler_was_away = False
    for number in range(KILLS):
        killed = operator.kill()
        absence.begins()
        await operator.back(killed)
        if dice.random() < 0.3:
            await asyncio.sleep(dice.uniform(0, 2))  # while it starts, or has hardly started
        else:
            await operator.ready()
            absence.ends()
            if number >= KILLS // 2 and not scheduler_was_away:
                scheduler_was_away = True
                await _without_scheduler(plane)
            await asyncio.sleep(dice.uniform(0, 3))
        for each in pressing:
            if each.done():
                each.result()
    if absence.since is not None:
        await operator.ready()
        absence.ends()


async def _without_scheduler(plane: ControlPlane) -> None:
    await asyncio.to_thread(plane.stop_component, "kube-scheduler")
    await asyncio.sleep(BIND_TIMEOUT + 3)
    plane.start_component("kube-scheduler")


def _unbound_too_long(witness: Witness, absence: Absence) -> list[str]:
    return [
        f"{each.name}: {each.until - each.since:.1f} s unbound, operator away {absence.within(each):.1f} s of it"
        for each in witness.unbound
        if each.until - each.since - absence.within(each) > BIND_TIMEOUT + SLACK
    ]


async def _ledger_equals(operator: OperatorProcess, witness: Witness) -> None:
    """Every pod once, from the second it was bound to the second its containers ended."""
    query = "select uid, seats, held_from, held_until from holdings where held_until is null or held_until > held_from"
    expected = holds_of(witness)
    booked: dict[str, tuple[int, int, int]] = {}
    deadline = time.monotonic() + 20
    while booked != expected and time.monotonic() < deadline:
        await asyncio.sleep(0.2)  # a database has no watch
        with closing(sqlite3.connect(f"file:{operator.ledger}?mode=ro", uri=True)) as ledger:
            booked = {row[0]: row[1:] for row in ledger.execute(query) if row[0] in witness.seen}
    names_of = {uid: each.pod["metadata"]["name"] for uid, each in witness.seen.items()}
    wrong = {names_of[uid]: (booked.get(uid), expected.get(uid)) for uid in booked.keys() | expected.keys()
             if booked.get(uid) != expected.get(uid)}
    assert wrong == {}, "pod: (ledger, witness)"


async def _metrics_equal(operator: OperatorProcess, witness: Witness, grants: dict[str, Grant]) -> None:
    expected: Counter[str] = Counter()
    for uid, (gpus, start, end) in holds_of(witness).items():
        annotations = witness.seen[uid].pod["metadata"]["annotations"]
        expected[grants[annotations[names.GRANT_UID_ANNOTATION]].name] += gpus * (end - start)
    deadline, sums = time.monotonic() + 20, Counter()
    while sums != expected and time.monotonic() < deadline:
        sums = Counter()
        # The month's sum is exact; a counter stands still where an end was learnt late.
        used = await operator.samples("gpugrant_month_gpu_seconds", owner="grant", condition="Used")
        for labels, value in used.items():
            if dict(labels)["grant"] in expected:
                sums[dict(labels)["grant"]] += int(value)
        await asyncio.sleep(0.2)
    assert sums == expected
