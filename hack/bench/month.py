"""A month of the whole first call, closed: every day summed from its facts, both reports built, signed, kept.

The ledger is filled in bulk beforehand (``bench.filling``); a fresh process then does what the operator does when it
closes a month, with every day to be made anew. Beside it DuckDB works out the same Used sums from the same rows.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.figures import Figure
from bench.filling import fill
from bench.lifelike import Lifelike
from bench.lists import resident_mb
from devcluster.runfolder import ROOT
from gpugrant.expose.report.signing import load_key
from gpugrant.meter.facts import Condition, Owner
from gpugrant.meter.store import Store
from gpugrant.run.report_folder import Shelf
from gpugrant.run.report_rules import figures_of


def run(runs: int, work: Path, console: Console, scale: float = 1.0) -> list[Figure]:
    """Fill a ledger, close its month at least twice in fresh processes, compare; raises AssertionError."""
    lifelike, ledger = Lifelike(scale), work / "filled.sqlite"
    pods = fill(f"sqlite:///{ledger}", lifelike)
    load_key(work / "key.pem", create=True)
    closings = [_close_in_a_process(work, ledger, number) for number in range(max(2, runs))]
    assert len({one["files"] for one in closings}) == 1, "the same ledger gave other files"
    gpus = sum(len(pool) for pool in lifelike.servers) * 8
    words = f"{pods:,} pods, {len(lifelike.projects)} projects, {gpus:,} GPUs"
    found = [
        Figure("month", f"days summed, built, signed, closed: {words}", tuple(one["seconds"] for one in closings), "s",
               10, note="the files of all runs are the same bytes"),
        Figure("month", "processor time, the start of Python included", tuple(one["cpu"] for one in closings),
               "CPU s"),
        Figure("month", "of it: every day summed from its facts", tuple(one["days"] for one in closings), "s"),
        Figure("month", "of it: reports built, signed and written", tuple(one["reports"] for one in closings), "s"),
        Figure("month", "resident, at its highest", tuple(one["peak_mb"] for one in closings), "MB", 500, digits=0),
    ]  # fmt: skip
    try:
        from bench import duck
    except ImportError:
        console.print(
            "  DuckDB is not installed, so its line is left out: .venv/bin/python -m pip install duckdb\n"
            "  (it is no dependency: 100 MB for one comparison)"
        )
        return found
    asked = [duck.used(work, ledger, lifelike) for _ in range(max(2, runs))]
    assert all(sums == closings[0]["used"] for _, sums in asked), "DuckDB sums otherwise"
    note = "Parquet, all cores; the same integers, grant by grant; neither conditions of idle seats nor days"
    return [
        *found,
        Figure(
            "month",
            "DuckDB: Used by grant from the same rows",
            tuple(one for one, _ in asked),
            "s",
            note=note,
        ),
    ]


def _close_in_a_process(work: Path, filled: Path, number: int) -> dict[str, Any]:
    folder = work / f"month-{number}"
    folder.mkdir()
    shutil.copy(filled, folder / "ledger.sqlite")
    paths = os.pathsep.join([str(ROOT / "operator"), str(ROOT / "hack")])
    done = subprocess.run(
        [sys.executable, "-m", "bench.month", str(folder), str(work / "key.pem")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"closing the month failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def close(folder: Path, key: Path) -> dict[str, Any]:
    """Sum, build, sign and close the month of a filled ledger; return seconds, memory, sums, a digest of all files."""
    begun = time.monotonic()
    url = f"sqlite:///{folder / 'ledger.sqlite'}"
    store = Store(url)
    store.open()
    while store.settle():
        pass
    summed = time.monotonic()
    shelf = Shelf(url, str(folder / "reports"), str(key))
    used: dict[str, int] = {}
    digest = hashlib.sha256()
    for programme, provider, month in store.reported():
        if month.end > store.tally.watermark:
            continue
        account = store.month_account(programme, provider, month)
        figures = figures_of(account)
        assert not figures.failing and not figures.missing_days, figures
        account, manifest = shelf.stage(account, month.end + 4 * 86_400)
        store.close_month(account.name, manifest, account.closed_at)
        shelf.publish(account.name, manifest)
        for line in account.lines:
            if line.owner == Owner.GRANT and line.condition == Condition.USED:
                used[line.tenant] = used.get(line.tenant, 0) + line.gpu_seconds
    done = time.monotonic()
    for path in sorted((folder / "reports").rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": done - begun,
        "days": summed - begun,
        "reports": done - summed,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_mb": resident_mb(field="VmHWM"),  # ru_maxrss would be the parent's before this was started
        "files": digest.hexdigest(),
        "used": used,
    }


if __name__ == "__main__":
    print(json.dumps(close(Path(sys.argv[1]), Path(sys.argv[2]))))
