"""What was measured: figures with their aims, as a table for people and JSON for machines."""

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One figure: the median of ``runs``. ``aim`` is a bound (``at_least`` or at most), None where there is none."""

    part: str
    name: str
    runs: tuple[float, ...]
    unit: str = ""
    aim: float | None = None
    at_least: bool = False
    digits: int = 2
    note: str = ""  # what binds, or how it was made
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Return the median of the runs."""
        return statistics.median(self.runs)

    @property
    def met(self) -> bool | None:
        """Say whether the aim is met; None where there is none."""
        if self.aim is None:
            return None
        return self.median >= self.aim if self.at_least else self.median <= self.aim

    def aim_words(self) -> str:
        """Return the aim as people read it."""
        if self.aim is None:
            return ""
        return f"{'at least' if self.at_least else 'at most'} {self.aim:g} {self.unit}".rstrip()

    def measured_words(self) -> str:
        """Return the median, and the runs' range where there were several."""
        words = f"{self.median:,.{self.digits}f} {self.unit}".rstrip()
        if len(self.runs) > 1:
            words += f" ({min(self.runs):,.{self.digits}f} to {max(self.runs):,.{self.digits}f})"
        return words


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def show(figures: Sequence[Figure], console: Console) -> None:
    """Print the table."""
    table = Table(title="gpugrant benchmarks", title_justify="left")
    for heading in ("part", "figure", "aim", "measured", "", "what binds, how it was made"):
        table.add_column(heading, overflow="fold")
    verdicts = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}
    part = ""
    for figure in figures:
        if part and figure.part != part:
            table.add_section()
        table.add_row(
            figure.part if figure.part != part else "",
            figure.name,
            figure.aim_words(),
            figure.measured_words(),
            verdicts[figure.met],
            figure.note,
        )
        part = figure.part
    console.print(table)


def write(path: Path, figures: Iterable[Figure], about: dict[str, Any]) -> None:
    """Write everything as JSON; what an earlier run of other parts left there goes."""
    rows = [{**asdict(each), "median": each.median, "met": each.met} for each in figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "machine": machine(), "figures": rows}, indent=1) + "\n")
