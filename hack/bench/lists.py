"""Observe + plan alone at 6,250 servers and 50,000 held GPUs: LISTs decoded and taken in, the first plan, memory.

The LISTs are made once and lie in files; each run is a process of its own that reads them page by page, as an
operator does from the network, so that its memory is the operator's caches and world and nothing else.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from bench.figures import Figure

SERVERS = 6_250


def store(folder: Path, servers: int) -> Path:
    """Write the LISTs of a fleet whose every seat is held into ``folder``; return it."""
    from bench.inprocess import PATHS, held_operator

    gc.disable()
    operator = held_operator(servers)
    for path in PATHS:
        for number, page in enumerate(operator.cluster.pages(path)):
            (folder / f"{path.strip('/').replace('/', '~')}.{number:04}.json").write_bytes(page)
    gc.enable()
    return folder


def pages(folder: Path, path: str) -> list[Path]:
    """Return the files of a LIST's pages, in order."""
    return sorted(folder.glob(f"{path.strip('/').replace('/', '~')}.[0-9]*.json"))


def stored(folder: Path, servers: int = SERVERS) -> Path:
    """Return the folder with the LISTs; they are made, in a process of its own, where they are not there yet."""
    if not folder.exists():
        folder.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "bench.lists", "store", str(folder), str(servers)], check=True)
    return folder


def resident_mb(pid: int | str = "self", field: str = "VmRSS") -> float:
    """Return a process's resident memory (VmHWM: at its highest) in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(field)


def look_and_plan(folder: Path) -> dict[str, float]:
    """Take everything in and plan once; return seconds and MB."""
    import asyncio

    from prometheus_client import CollectorRegistry

    from bench.inprocess import SETTINGS, START, page_of
    from gpugrant.config import Settings, load_settings
    from gpugrant.decide.plan import make_plan
    from gpugrant.decide.world import World
    from gpugrant.observe.client import Page
    from gpugrant.observe.observer import Observer

    class FromFiles:
        async def pages(
            self, path: str, _params: Mapping[str, str] | None = None, *_: int, **__: int
        ) -> AsyncGenerator[Page, None]:
            for file in pages(folder, path):
                yield page_of(file.read_bytes())

    begun_mb = resident_mb()
    gc.disable()  # as the operator does until its first plan
    world = World(Settings())
    world.set_settings(load_settings(SETTINGS))
    observer = Observer(FromFiles(), world, CollectorRegistry(), lambda: START)  # type: ignore[arg-type]
    begun = time.process_time()  # not the clock on the wall: the machine is shared
    asyncio.run(observer.look_once())
    seen = time.process_time()
    plan = make_plan(world, START + 600)
    planned = time.process_time()
    held = sum(usage.held for usage in world.usage.values())
    return {
        "look_s": seen - begun,
        "plan_s": planned - seen,
        "mb": resident_mb() - begun_mb,
        "held": held,
        "actions": len([a for a in plan.actions if type(a).__name__ != "SetPolicies"]),
    }


def run(runs: int, folder: Path) -> list[Figure]:
    """Measure in fresh processes."""
    stored(folder)
    found = [
        json.loads(subprocess.check_output([sys.executable, "-m", "bench.lists", "look", str(folder)]))
        for _ in range(runs)
    ]
    if any(one["held"] != SERVERS * 8 or one["actions"] for one in found):
        raise RuntimeError(f"not everything was held, or the plan was not empty: {found}")
    words = f"{SERVERS:,} servers, {SERVERS * 8:,} held pods"

    def figure(name: str, key: str, unit: str, digits: int, note: str) -> Figure:
        return Figure(
            "plan_50k", f"{name}: {words}", tuple(one[key] for one in found), unit, digits=digits, note=note
        )

    return [
        figure(
            "LISTs decoded and taken in",
            "look_s",
            "CPU s",
            2,
            "pods listed twice, as at start: labelled ones and all",
        ),
        figure("first plan", "plan_s", "CPU s", 2, "everything is judged; nothing is left to do"),
        figure(
            "memory of caches and world", "mb", "MB", 0, "growth of resident memory, garbage collector off"
        ),
    ]


if __name__ == "__main__":
    if sys.argv[1] == "store":
        store(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(look_and_plan(Path(sys.argv[2]))))
