"""python -m bench [PART ...] [--runs N] [--json FILE]: what `make bench` runs."""

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import burst, event, figures, lists, memory, month, policies, writes
from bench.figures import Figure
from devcluster.runfolder import ROOT

PARTS = ("event", "plan_50k", "memory", "month", "policies", "writes", "burst", "start")


def _policies(runs: int) -> list[Figure]:
    cases = [policies.run(300) for _ in range(runs)]
    found = []
    for name in cases[0]:
        added = tuple(float(case[name]["added_ms"]) for case in cases)
        case = cases[-1][name]
        note = f"p50 without: {case['without_ms']:.1f} ms; added to the fastest tenth: {case['added_p10_ms']:.2f} ms"
        found.append(Figure("policies", f"added to a create: {name}", added, "ms", 1.0, note=note))
    return found


def measure(
    parts: list[str], runs: int, work: Path, console: Console
) -> tuple[list[Figure], dict[str, object]]:
    """Measure the parts, one after the other."""
    stored = work / "lists"
    does: dict[str, Callable[[], list[Figure]]] = {
        "event": lambda: event.run(runs),
        "plan_50k": lambda: lists.run(runs, stored),
        "memory": lambda: memory.run(max(1, runs - 1), stored, work),
        "month": lambda: month.run(runs, work, console),
        "policies": lambda: _policies(runs),
        "writes": lambda: asyncio.run(writes.run(runs, work)),
        "burst": lambda: asyncio.run(burst.run(runs, work, with_bursts=True, with_start="start" in parts)),
        "start": lambda: asyncio.run(burst.run(runs, work, with_bursts=False, with_start=True)),
    }
    found: list[Figure] = []
    load: dict[str, object] = {}
    for part in parts:
        if part == "start" and "burst" in parts:
            continue  # it was measured on burst's control plane
        console.print(f"{part} …")
        begun, before = time.monotonic(), os.getloadavg()[0]
        found += does[part]()
        load[part] = {
            "load_before": before,
            "load_after": os.getloadavg()[0],
            "seconds": round(time.monotonic() - begun),
        }
        console.print(
            f"  done in {time.monotonic() - begun:.0f} s, load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
        )
    return found, load


def main() -> int:
    """Read the command line, measure, show, write."""
    parser = argparse.ArgumentParser(
        prog="bench", description="How fast, how flat, how large. See docs/benchmarks.md."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which: {', '.join(PARTS)}; default: all")
    parser.add_argument("--runs", type=int, default=3, help="runs of each figure; the median counts")
    parser.add_argument("--json", type=Path, default=ROOT / ".run" / "bench.json", help="where the JSON goes")
    given = parser.parse_args()
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    parts = [part for part in PARTS if part in (given.parts or PARTS)]
    console = Console(highlight=False, width=None if os.isatty(1) else 170)
    work = Path(tempfile.mkdtemp(prefix="gpugrant-bench-"))
    begun = datetime.now(UTC)
    try:
        found, load = measure(parts, given.runs, work, console)
    except BaseException:
        console.print(f"logs are in {work}")
        raise
    shutil.rmtree(work, ignore_errors=True)
    figures.show(found, console)
    about = {"at": begun.strftime("%Y-%m-%dT%H:%M:%SZ"), "runs": given.runs, "parts": load}
    figures.write(given.json, found, about)
    console.print(f"written to {given.json}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
