"""``gpugrant usage``: a month's GPU-seconds by day, tenant, grant, condition or pool, straight from the ledger."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from gpugrant.expose.in_words import ledger_in_words
from gpugrant.options import LEDGER

if TYPE_CHECKING:
    from gpugrant.expose.usage_rows import MonthUse, Use

_MOST_NAMES = 20
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")  # short months of tests begin like this too
Key = tuple[str, ...]

# What rows are of: their columns, and how a row's is read.
_BY: Mapping[str, tuple[Key, "Callable[[Use], Key]"]] = {
    "day": (("day",), lambda use: (use.day,)),
    "tenant": (("owner", "tenant"), lambda use: (str(use.account.owner), use.account.tenant)),
    "grant": (
        ("owner", "tenant", "namespace", "grant", "award"),
        lambda use: (
            str(use.account.owner),
            use.account.tenant,
            use.account.tenant_namespace,
            use.account.grant,
            use.account.award,
        ),
    ),
    "condition": (("owner", "condition"), lambda use: (str(use.account.owner), str(use.condition))),
    "pool": (
        ("programme", "provider", "pool", "gpu_type", "share"),
        lambda use: (
            use.account.programme,
            use.account.provider,
            use.account.pool,
            use.account.gpu_type,
            use.account.share,
        ),
    ),
}


@click.command()
@LEDGER
@click.option("--tenant", default="", metavar="T", help="Only what is this tenant's.")
@click.option("--grant", default="", metavar="G|NS/G", help="Only what is this grant's, by name or namespace and name.")
@click.option("--month", default="", metavar="YYYY-MM", help="Which month. Default: the running one.")
@click.option("--by", type=click.Choice(list(_BY)), default="tenant", show_default=True, help="One row each.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="Form of the output. Table and json end with the total; csv has rows only, to be summed.",
)
def usage(ledger: str, tenant: str, grant: str, month: str, by: str, output: str) -> None:
    """Show a month's GPU-hours and GPU-seconds.

    used: held by pods within the grant's term. all: whoever owns the GPUs, in whatever condition (Used, Idle,
    Failed …). Reads the ledger and changes nothing; stderr says until when it is counted.
    """
    from gpugrant.expose.report.printing import progress
    from gpugrant.expose.usage_rows import read_month

    if month and not _MONTH.match(month):
        raise click.BadParameter(f"{month!r} is no month: write it as 2026-11", param_hint="--month")
    with ledger_in_words(), progress(month or "the running month") as told:
        told("summing", 0, 1)
        found = read_month(ledger, month)
    uses = _chosen(found, tenant, grant)
    columns, key = _BY[by]
    sums = _summed(uses, key)
    _show(found, by, columns, sums, output)
    click.echo(_until(found), err=True)


# -- what is asked for ---------------------------------------------------------------------------------


def _chosen(found: "MonthUse", tenant: str, grant: str) -> "list[Use]":
    """Return what is of a tenant and a grant; raises ClickException for one the ledger has never had."""
    known = [account for account in found.accounts if not tenant or account.tenant == tenant]
    if tenant and not known:
        raise click.ClickException(
            _not_found("tenant", tenant, {account.tenant for account in found.accounts})
        )
    namespace, slash, name = grant.rpartition("/")
    if grant and not any(
        account.grant == name and (not slash or account.tenant_namespace == namespace) for account in known
    ):
        of_whom = f" of tenant {tenant}" if tenant else ""
        there = {f"{account.tenant_namespace}/{account.grant}" for account in known if account.grant}
        raise click.ClickException(_not_found(f"grant{of_whom}", grant, there))
    return [
        use
        for use in found.uses
        if (not tenant or use.account.tenant == tenant)
        and (not grant or use.account.grant == name)
        and (not slash or use.account.tenant_namespace == namespace)
    ]


def _not_found(what: str, name: str, there: Iterable[str]) -> str:
    names = sorted(there - {""} if isinstance(there, set) else there)
    if not names:
        return f'{what} "{name}" not found in the ledger: it has none yet'
    if len(names) <= _MOST_NAMES:
        return f'{what} "{name}" not found in the ledger; there are: {", ".join(names)}'
    close_ones = difflib.get_close_matches(name, names, n=5)
    hint = f"did you mean {' or '.join(close_ones)}? " if close_ones else ""
    return f'{what} "{name}" not found in the ledger; {hint}there are {len(names)}'


def _summed(uses: "Iterable[Use]", key: "Callable[[Use], Key]") -> dict[Key, tuple[int, int]]:
    """Return Used and all GPU-seconds by key, sorted by it."""
    sums: dict[Key, tuple[int, int]] = {}
    for use in uses:
        used, whole = sums.get(key(use), (0, 0))
        is_used = use.condition == "Used"
        sums[key(use)] = (used + use.gpu_seconds * is_used, whole + use.gpu_seconds)
    return dict(sorted(sums.items()))


# -- showing -------------------------------------------------------------------------------------------


def _show(found: "MonthUse", by: str, columns: Key, sums: Mapping[Key, tuple[int, int]], output: str) -> None:
    from gpugrant.expose.report.amounts import utc_time
    from gpugrant.expose.report.printing import print_rows, print_table

    only_all = by == "condition"
    amounts = (
        ("gpu_hours", "gpu_seconds")
        if only_all
        else ("used_gpu_hours", "used_gpu_seconds", "all_gpu_hours", "all_gpu_seconds")
    )
    heads = (*columns, *amounts)
    rows = [(*key, *_amounts(*both, only_all=only_all)) for key, both in sums.items()]
    total = _amounts(
        sum(used for used, _ in sums.values()), sum(whole for _, whole in sums.values()), only_all=only_all
    )
    if output == "csv":
        print_rows(heads, rows, output)
    elif output == "json":
        document = {
            "months": dict(found.months),
            "counted_until": utc_time(found.until),
            "by": by,
            "rows": [dict(zip(heads, row, strict=True)) for row in rows],
            "total": dict(zip(amounts, total, strict=True)),
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif not rows:
        click.echo("No usage found.", err=True)
    else:
        print_table(heads, [*rows, ("total", *[""] * (len(columns) - 1), *total)])


def _amounts(used: int, whole: int, *, only_all: bool) -> Sequence[str | int]:
    from gpugrant.expose.report.amounts import hours

    return (hours(whole), whole) if only_all else (hours(used), used, hours(whole), whole)


def _until(found: "MonthUse") -> str:
    """Return until when it is counted, and whether that may change."""
    from gpugrant.expose.report.amounts import local_time

    named = " and ".join(sorted(set(found.months.values()))) or "no month"
    until = local_time(found.until, found.zone) or "the ledger's beginning"
    if not found.is_over:
        words = f"{named}, counted until {until}: provisional"
    elif found.closed:
        words = f"{named}: closed" if found.closed > 1 else f"{named}: closed for one report or more"
    else:
        words = f"{named} is over and not closed yet: provisional; the ledger is complete until {until}"
    if found.corrected:
        words += f"; corrections of earlier months ({found.corrected:,} GPU-seconds moved) are not in it"
    return words
