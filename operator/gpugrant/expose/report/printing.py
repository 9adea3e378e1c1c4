"""Tables for people and for pipes: on a terminal as rich shows them, else plain columns as kubectl prints them."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Cells = Sequence[str | int]


def clean(text: str) -> str:
    """Return a text that may come from anybody so that it moves no cursor and fakes no line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_rows(columns: Sequence[str], rows: Sequence[Cells], output: str) -> None:
    """Print rows under their columns, which are named as in JSON, as ``table``, ``json`` or ``csv``."""
    if output == "json":
        click.echo(
            json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2, ensure_ascii=False)
        )
    elif output == "csv":
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        click.echo(text.getvalue(), nl=False)
    else:
        print_table(columns, rows)


def print_table(columns: Sequence[str], rows: Sequence[Cells]) -> None:
    """Print columns; numbers to the right, with thousands apart."""
    heads = [column.upper().replace("_", "-") for column in columns]
    shown = [[f"{cell:,}" if isinstance(cell, int) else clean(cell) for cell in row] for row in rows]
    right = [column.endswith(("_seconds", "_hours")) for column in columns]
    console = Console()
    if not console.is_terminal:
        for line in _plain([heads, *shown], right):
            click.echo(line)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, to_right in zip(heads, right, strict=True):
        table.add_column(head, justify="right" if to_right else "left", overflow="fold")
    for row in shown:
        table.add_row(*map(Text, row))
    console.print(table)


def _plain(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> Iterator[str]:
    widths = [max(cell_len(line[number]) for line in lines) for number in range(len(right))]
    for line in lines:
        cells = []
        for cell, width, to_right in zip(line, widths, right, strict=True):
            space = " " * (width - cell_len(cell))
            cells.append(space + cell if to_right else cell + space)
        yield "   ".join(cells).rstrip()


@contextmanager
def progress(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show how far a long step is, on stderr and only on a terminal; tell it the step, its number, of how many."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[step]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(clean(what).replace("[", r"\["), total=None, step="")
        yield lambda step, number, of: bar.update(task, completed=number, total=of, step=step)
