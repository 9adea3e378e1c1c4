"""Pods released per second in a burst, beside what the API server can do at all; start with everything held.

Each run has two halves on the same control plane, with scheduler and kwok at work behind both: the operator is
down while the pods are created, so all are gated. Then either a bare loop sends the PATCHes that the operator
would send, or the operator is started and sends them. Both are timed by the same watch, from the first pod
released to the last.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench.figures import Figure
from bench.lists import resident_mb
from bench.plane import Plane, granted_plane

SIZES = (32, 1_962)
BURSTS = (1_000, 10_000)
AIM = 0.8


async def ceiling(plane: Plane, pods: int) -> float:
    """Return the releases per second of a bare loop."""
    await plane.create(plane.spread(pods))
    work = await plane.planned_releases()
    expected = min(pods, plane.seats)
    if len(work) != expected:
        raise RuntimeError(f"{len(work)} releases planned, {expected} expected")
    rate = await _timed(plane, expected, lambda: plane.start_sending(work).communicate())
    await plane.wait_running(but=pods - expected)
    await asyncio.to_thread(plane.strip, await plane.pods())
    await plane.remove_pods()
    return rate


async def released_by_operator(plane: Plane, pods: int) -> tuple[float, float, float]:
    """Return the operator's releases per second, the seconds from its start to the first, its CPU ms per pod."""
    await plane.create(plane.spread(pods))
    expected = min(pods, plane.seats)
    started = asyncio.Event()
    watching = asyncio.create_task(plane.watch_releases(expected, started))
    await started.wait()
    begun = time.monotonic()
    with plane.operator() as operator:
        seen = await watching
        cpu = operator.cpu_seconds() * 1000 / expected
        await plane.wait_running(but=pods - expected)
        await plane.quiet(operator)
        await plane.remove_pods()
        await plane.quiet(operator)
    return (len(seen) - 1) / (seen[-1] - seen[0]), seen[0] - begun, cpu


async def _timed(plane: Plane, count: int, send: Callable[[], object]) -> float:
    started = asyncio.Event()
    watching = asyncio.create_task(plane.watch_releases(count, started))
    await started.wait()
    await asyncio.to_thread(send)
    seen = await watching
    return (len(seen) - 1) / (seen[-1] - seen[0])


async def bursts(plane: Plane, servers: int, runs: int, sizes: tuple[int, ...] = BURSTS) -> list[Figure]:
    """Measure bursts on a plane that is up."""
    figures = []
    for pods in sizes:
        ours: list[float] = []
        bare: list[float] = []
        first: list[float] = []
        cpu: list[float] = []
        for number in range(runs if pods <= min(BURSTS) else max(1, runs // 3)):
            # In turn, so that neither half always meets the younger control plane.
            for half in ("bare", "ours") if number % 2 == 0 else ("ours", "bare"):
                if half == "bare":
                    bare.append(await ceiling(plane, pods))
                else:
                    rate, delay, spent = await released_by_operator(plane, pods)
                    ours.append(rate)
                    first.append(delay)
                    cpu.append(spent)
            print(
                f"  burst, {servers} servers, {pods} pods: {ours[-1]:.0f}/s, bare loop {bare[-1]:.0f}/s",
                flush=True,
            )
        fitting = min(pods, plane.seats)
        words = f"{servers:,} servers, {pods:,} pods" + (f" ({fitting} fit)" if fitting < pods else "")
        ratios = tuple(a / b for a, b in zip(ours, bare, strict=True))
        figures += [
            Figure("burst", f"released, ratio to the ceiling: {words}", ratios, "", AIM, at_least=True),
            Figure("burst", f"released by the operator: {words}", tuple(ours), "pods/s", digits=0,
                   note=f"{median(cpu):.1f} CPU ms a pod, start included; first after {median(first):.1f} s",
                   more={"seconds_to_first": first, "cpu_ms_a_pod": cpu}),
            Figure("burst", f"ceiling, a bare loop: {words}", tuple(bare), "pods/s", digits=0),
        ]  # fmt: skip
    return figures


async def start_held(plane: Plane, servers: int, runs: int) -> list[Figure]:
    """Hold every seat, then measure process start to first plan."""
    await plane.create(plane.spread(plane.seats))
    with plane.operator() as operator:
        await asyncio.to_thread(operator.wait_ready)
        # Not by LISTs of so many pods: they are work for the API server too.
        await asyncio.to_thread(
            operator.wait_for,
            "all is in the ledger",
            lambda one: one.metric("gpugrant_ledger_held_pods") >= plane.seats,
            900.0,
        )
        await plane.quiet(operator)
    seconds, cpu, resident, wrong = [], [], [], 0.0
    for _ in range(runs):
        with plane.operator() as operator:
            seconds.append(await asyncio.to_thread(operator.wait_ready))
            cpu.append(operator.cpu_seconds())
            held = operator.metric("gpugrant_gpus", state="held")
            if held != plane.seats:
                raise RuntimeError(f"the first plan saw {held:.0f} GPUs held, not {plane.seats}")
            await plane.quiet(operator)
            wrong += operator.metric("gpugrant_writes_total")
            resident.append(resident_mb(operator.pid))
    words = f"{servers:,} servers, {plane.seats:,} held pods"
    note = f"{median(cpu):.1f} s of it CPU; real control plane, ledger kept; correct: all seats seen held"
    note += "; nothing was written" if not wrong else f"; {wrong / runs:.0f} writes followed"
    return [
        Figure(
            "start",
            f"process start to first correct plan: {words}",
            tuple(seconds),
            "s",
            15,
            digits=1,
            note=note,
        ),
        Figure("start", f"resident: {words}", tuple(resident), "MB", digits=0),
    ]


async def run(
    runs: int, work: Path, *, with_bursts: bool, with_start: bool, sizes: tuple[int, ...] = SIZES
) -> list[Figure]:
    """Measure bursts at each size, and the start at the largest."""
    figures: list[Figure] = []
    for servers in sizes if with_bursts else sizes[-1:]:
        async with granted_plane(servers, work / f"burst-{servers}") as plane:
            if with_bursts:
                figures += await bursts(plane, servers, runs)
            if with_start and servers == sizes[-1]:
                figures += await start_held(plane, servers, runs)
    return figures
