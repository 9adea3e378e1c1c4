"""How the demo ends: the running month's provisional figures, until when they are counted, and where they lie."""

import asyncio
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console

from devcluster.runfolder import ROOT, RunFolder
from devcluster.screen import new_table
from gpugrant.expose.report.amounts import local_time
from gpugrant.expose.usage_rows import MonthUse, read_month
from gpugrant.meter.facts import Condition

_SOME_USE = 5  # seconds from now on in which everything runs: figures of a demo that has just begun are small
_SECONDS = 60.0
_LOOK_AGAIN = 0.5


async def counted_up_to(run: RunFolder, at: int) -> MonthUse:
    """Return the running month once the ledger is complete up to a moment. Raises TimeoutError."""
    url = f"sqlite:///{run.ledger}"
    try:
        async with asyncio.timeout(_SECONDS):
            while (found := await asyncio.to_thread(read_month, url)).until < at:  # noqa: ASYNC110 (a file)
                await asyncio.sleep(_LOOK_AGAIN)
    except TimeoutError:
        behind = f"{at - found.until} s behind"
        raise TimeoutError(f"the ledger was still {behind} after {_SECONDS:.0f} s: {run.operator_log}") from None
    return found


async def show_month(console: Console, run: RunFolder) -> None:
    """Print the month's GPU-seconds by pool and condition, as the ledger has them."""
    found = await counted_up_to(run, int(time.time()) + _SOME_USE)
    sums: dict[str, dict[Condition, int]] = defaultdict(lambda: defaultdict(int))
    for use in found.uses:
        sums[use.account.pool][use.condition] += use.gpu_seconds
    there = [condition for condition in Condition if any(of_pool[condition] for of_pool in sums.values())]
    month = ", ".join(sorted(set(found.months.values())))
    console.print(f"\n[bold]{month} so far, provisional, in GPU-seconds[/]")
    table = new_table("", "pool", *(f">{one}" for one in there), ">all")
    for pool, of_pool in sorted(sums.items()):
        table.add_row(pool, *(f"{of_pool[one]:,}" for one in there), f"{sum(of_pool.values()):,}")
    totals = [sum(of_pool[one] for of_pool in sums.values()) for one in there]
    table.add_row("all", *(f"{total:,}" for total in totals), f"{sum(totals):,}", style="bold")
    console.print(table)
    console.print(f"counted until {local_time(found.until, found.zone)}; every second of every GPU is in it once")


def show_where(console: Console, run: RunFolder) -> None:
    """Say where the figures lie, and how to see them."""
    ledger, reports = _short(run.ledger), _short(run.path / "reports")
    gpugrant = _short(ROOT / ".venv" / "bin" / "gpugrant")
    console.print(f"ledger: {ledger}   closed months, signed: {reports} (the running month is in the ledger alone)")
    console.print(f"see them: {gpugrant} usage --ledger sqlite:///{run.ledger} --by condition")
    console.print(f"          {gpugrant} report list --ledger sqlite:///{run.ledger}")


def _short(path: Path) -> str:
    """Return a path as it is typed in the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
