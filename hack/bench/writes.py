"""Writes to the API server, by its own count: per pod from release to end, and in a minute in which nothing happens."""

import asyncio
from collections import Counter
from pathlib import Path

from bench.figures import Figure
from bench.plane import Plane, granted_plane

SERVERS = 32
IDLE_SECONDS = 60
_RUN_SECONDS = 3
_TOO_MANY = 20  # pods that wait while every seat is held
# Who else writes pods without a subresource? Nobody here: scheduler binds, kwok patches status and deletes.
POD_WRITES = ("PATCH pods",)
EVENTS = ("POST events",)
RELEASE_AND_END = "the release, the finalizer's removal"


def _ours(writes: Counter[str]) -> Counter[str]:
    """Return the writes that are the operator's, the Lease left out."""
    return Counter(
        {
            what: count
            for what, count in writes.items()
            if what in (*POD_WRITES, *EVENTS, "PATCH nodes")
            or "gpugrant.io" in what
            or "admissionregistration" in what
        }
    )


async def _lives(plane: Plane) -> tuple[Counter[str], int]:
    """Let pods be created, released, run, end and go; return the writes."""
    pods = plane.seats
    with plane.operator() as operator:
        operator.wait_ready()
        await plane.quiet(operator)
        before = await plane.writes()
        await plane.create(plane.spread(pods), _RUN_SECONDS)
        await plane.wait_ended(pods)
        await plane.quiet(operator)
        after = await plane.writes()
        await plane.remove_pods()
    return _ours(after - before), pods


async def _idle(plane: Plane) -> Counter[str]:
    """Hold every seat and let a minute pass; return the writes."""
    await plane.create(plane.spread(plane.seats + _TOO_MANY))
    with plane.operator() as operator:
        await plane.wait_running(but=_TOO_MANY)
        await plane.quiet(operator, 10)
        before = await plane.writes()
        await asyncio.sleep(IDLE_SECONDS)
        after = await plane.writes()
        await plane.remove_pods()
    return after - before


async def run(runs: int, work: Path) -> list[Figure]:
    """Measure both."""
    per_pod, events, other, idle = [], [], [], []
    last: Counter[str] = Counter()
    quiet: Counter[str] = Counter()
    async with granted_plane(SERVERS, work / "writes") as plane:
        for _ in range(runs):
            last, pods = await _lives(plane)
            per_pod.append(sum(last[each] for each in POD_WRITES) / pods)
            events.append(sum(last[each] for each in EVENTS) / pods)
            other.append((last.total() - sum(last[each] for each in POD_WRITES + EVENTS)) / pods)
        quiet = await _idle(plane)
        idle.append(float(_ours(quiet).total()))
    in_all = dict(sorted(quiet.items()))
    return [
        Figure("writes", "of a pod, from release to end", tuple(per_pod), "a pod", 2, note=RELEASE_AND_END),
        Figure("writes", "Events, beside them", tuple(events), "a pod", note="for pods that had to wait (R6)"),
        Figure("writes", "statuses", tuple(other), "a pod", note="figures every 2 s at most", more=dict(last)),
        Figure(
            "writes", "in an idle minute, Lease left out", tuple(idle), "", 0, digits=0,
            note=f"{plane.seats} held, {_TOO_MANY} wait; everybody's writes in that minute: {in_all}",
        ),
    ]  # fmt: skip
