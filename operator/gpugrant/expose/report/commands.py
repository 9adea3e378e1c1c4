"""``gpugrant report``. Heavy imports wait inside the commands, so that --help answers at once.

``verify`` and ``merge`` need no ledger. The context's object, if there is one, opens the ledger instead of
``meter.reader``: a function, URL -> Reports.
"""

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpugrant.expose.in_words import ledger_in_words
from gpugrant.expose.report.source import MarkKind, MarkRefused, ReportRow, Reports
from gpugrant.options import LEDGER, PUBLIC_KEYS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from gpugrant.expose.report.merging import Summary

_OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="Form of the output.",
)
_LONGEST_WORDS = 256
_FOLDER = click.Path(path_type=Path)


def _current_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


_BY = click.option(
    "--by", default=_current_user, show_default="the current user", metavar="WHO", help="Who asks for it."
)


@click.group()
def report() -> None:
    """Monthly usage reports: look at them, close, sign, hand over, check.

    `verify` and `merge` need nothing but folders; the other commands read the ledger.
    """


@report.command(name="list")
@LEDGER
@_OUTPUT
def list_reports(ledger: str, output: str) -> None:
    """List every month of every programme and provider. Times are in the programme's zone."""
    from gpugrant.expose.report.amounts import local_time
    from gpugrant.expose.report.printing import print_rows

    columns = ("name", "state", "until", "closed_at", "due_at", "signed_off_by", "acknowledged")
    with _opened(ledger) as reports:
        found = sorted(reports.names(), key=lambda row: row.name)
    if not found and output == "table":
        click.echo("No reports found.", err=True)
        return
    print_rows(
        columns,
        [
            (
                *(row.name, row.state),
                *(local_time(at, row.zone) for at in (row.until, row.closed_at, row.due_at)),
                *(row.signed_off_by, row.acknowledged),
            )
            for row in found
        ],
        output,
    )


@report.command()
@LEDGER
@_OUTPUT
@click.argument("name")
def show(ledger: str, output: str, name: str) -> None:
    """Show a month's totals, what holds and what does not.

    With -o json also its identities and its share shortfall; with -o csv the totals alone.
    """
    from gpugrant.expose.report.files import usage_file
    from gpugrant.expose.report.printing import print_rows, print_table, progress
    from gpugrant.expose.report.summary import as_json, headline, verdicts

    with progress(name) as told, _opened(ledger) as reports:
        told("summing", 0, 1)
        _row(reports, name)
        account = reports.account(name)
        usage = usage_file(account)
    columns = ("share", "gpu_type", "owner", "condition", "gpu_hours", "gpu_seconds")
    rows = [tuple(getattr(total, column) for column in columns) for total in usage.totals]
    if output == "json":
        click.echo(as_json(usage))
    elif output == "csv":
        print_rows(columns, rows, output)
    else:
        click.echo(headline(account))
        print_table(columns, rows)
        for line in verdicts(account):
            click.echo(line)


@report.command()
@LEDGER
@click.argument("name")
@click.option(
    "-o", "--output", "folder", type=_FOLDER, metavar="FOLDER", help="Folder to write. Default: ./NAME."
)
@click.option(
    "--signing-key",
    envvar="GPUGRANT_SIGNING_KEY",
    required=True,
    type=_FOLDER,
    metavar="FILE",
    show_envvar=True,
    help="Ed25519 private key, PKCS#8 PEM, mode 0600.",
)
@click.option("--create-key", is_flag=True, help="Make the key where there is none.")
def get(ledger: str, name: str, folder: Path | None, signing_key: Path, create_key: bool) -> None:
    """Write a month's signed folder.

    A closed month that does not pass its own check, or is not as it was closed (such as with another key), is not
    written; a provisional month is, with a warning. A folder of a closed month is never written over; writing the
    same month again gives the same bytes.
    """
    from gpugrant.expose.report import signing
    from gpugrant.expose.report.handing import NotWritten, write_month
    from gpugrant.expose.report.printing import clean, progress

    folder = folder or Path(name)
    problems: tuple[object, ...] = ()
    try:
        key = signing.load_key(signing_key, create_key)
        with progress(name) as told:
            told("summing", 0, 4)
            with _opened(ledger) as reports:
                row, account = _row(reports, name), reports.account(name)
            problems = write_month(account, row.manifest_sha256, key, folder, told)
    except signing.KeyRefused as error:
        raise click.ClickException(str(error)) from None
    except NotWritten as error:
        for problem in error.problems:
            click.echo(clean(str(problem)), err=True)
        raise click.ClickException(str(error)) from None
    for problem in problems:
        click.echo(clean(str(problem)), err=True)
    if not account.closed_at:
        click.echo(f"{name} is provisional: its figures will still change", err=True)
    click.echo(str(folder))


@report.command()
@LEDGER
@click.argument("name")
@_BY
def build(ledger: str, name: str, by: str) -> None:
    """Ask the running operator to count an open month anew."""
    _mark(ledger, name, "build", by)
    click.echo(f"{name}: build requested")


@report.command()
@LEDGER
@click.argument("name")
@_BY
def close(ledger: str, name: str, by: str) -> None:
    """Ask the running operator to close a month that is over, before its closing day if need be.

    It does so once the month reconciles. Refused while the month runs. Sign-off comes after.
    """
    _mark(ledger, name, "close", by)
    click.echo(f"{name}: close requested")


@report.command(name="sign-off")
@LEDGER
@click.argument("name")
@click.option("--by", required=True, metavar="WHO", help="Who answers for the figures.")
def sign_off(ledger: str, name: str, by: str) -> None:
    """Note who answers for a closed month on the supplier's side."""
    _mark(ledger, name, "sign-off", by)
    click.echo(f"{name}: signed off by {by}")


@report.command()
@LEDGER
@click.argument("name")
@click.option(
    "--reference", required=True, metavar="TEXT", help="The programme's receipt, such as a file number."
)
@_BY
def ack(ledger: str, name: str, reference: str, by: str) -> None:
    """Note that the programme received a month, and under which reference."""
    _mark(ledger, name, "acknowledge", by, reference)
    click.echo(f"{name}: acknowledged under {reference}")


@report.command()
@click.argument("folder", type=_FOLDER)
@PUBLIC_KEYS
@click.option(
    "--previous", type=_FOLDER, metavar="FOLDER", help="The month before, which this must be chained to."
)
def verify(folder: Path, key_files: tuple[Path, ...], previous: Path | None) -> None:
    """Check a month's folder: signature, digests, every row, every sum. Needs no cluster.

    Prints what is wrong, with file and row, and ends with status 1; else says what the folder is.
    """
    from gpugrant.expose.report.checking import check
    from gpugrant.expose.report.printing import clean, progress
    from gpugrant.expose.report.reading import left_by_desktops

    keys = _public_keys(key_files)
    with progress(str(folder)) as told:
        checked = check(folder, keys, previous, told)
    for problem in checked.problems:
        click.echo(clean(str(problem)))
    for name in left_by_desktops(folder):
        click.echo(f"note: {name} is no part of the report; a file manager left it there", err=True)
    manifest = checked.manifest
    if checked.problems or manifest is None:
        count = len(checked.problems)
        click.echo(f"{clean(str(folder))}: {count} problem{'s' * (count != 1)}", err=True)
        sys.exit(1)
    closed = (
        f"closed {manifest.closed_at}" if manifest.closed_at else f"provisional, counted to {manifest.until}"
    )
    click.echo(clean(f"{manifest.report}: {closed}; reconciles; signature valid"))
    if not keys:
        click.echo(
            f"signed with the folder's own key {manifest.signer.public_key_sha256}: compare it with what the supplier "
            "made known, or name that key with --public-key",
            err=True,
        )


@report.command()
@click.argument("folders", nargs=-1, required=True, type=_FOLDER)
@PUBLIC_KEYS
@click.option(
    "--partial",
    multiple=True,
    metavar="PROVIDER/POOL",
    help="A pool that was not there all month, so that its missing days are no fault. May be repeated.",
)
@click.option("-o", "--output", "target", type=_FOLDER, metavar="FOLDER", help="Write the sum as a folder.")
def merge(
    folders: tuple[Path, ...], key_files: tuple[Path, ...], partial: tuple[str, ...], target: Path | None
) -> None:
    """Add the folders of a programme's month: of several clusters, of several providers.

    Each is verified first. Refused: the same pool and day twice, missing days, another programme or month. Flags go
    to stderr: settings that differ, tenants over the programme's caps across providers.
    """
    from gpugrant.expose.report.files import FolderTaken, write_folder
    from gpugrant.expose.report.merging import MergeRefused
    from gpugrant.expose.report.merging import merge as add
    from gpugrant.expose.report.printing import clean, print_table, progress

    keys = _public_keys(key_files)
    try:
        with progress("merge") as told:
            merged = add(folders, keys, partial, told)
        _must_have(partial, merged.summary)
        if target is not None:
            write_folder(merged.files, target)
    except MergeRefused as error:
        for problem in error.problems:
            click.echo(clean(problem), err=True)
        raise click.ClickException("these folders cannot be added") from None
    except (FolderTaken, OSError) as error:
        raise click.ClickException(str(error)) from None
    columns = ("share", "gpu_type", "owner", "condition", "gpu_hours", "gpu_seconds")
    print_table(
        columns, [tuple(getattr(total, column) for column in columns) for total in merged.summary.totals]
    )
    for flag in merged.summary.flags:
        click.echo(f"flag: {clean(flag)}", err=True)


def _must_have(partial: tuple[str, ...], summary: "Summary") -> None:
    """Refuse a --partial that names no pool of the folders: it would excuse nothing, or the wrong one."""
    known = {
        f"{source.report.removeprefix(summary.programme + '-').removesuffix('-' + summary.month)}/{pool}"
        for source in summary.sources
        for pool in source.pools
    }
    for name in partial:
        if name not in known:
            raise click.BadParameter(
                f"no folder has the pool {name!r}; there are: {', '.join(sorted(known)) or 'none'}",
                param_hint="--partial",
            )


# -- the ledger ----------------------------------------------------------------------------------------


@contextmanager
def _opened(ledger: str) -> Iterator[Reports]:
    """Open a ledger, and say in words what keeps it from being read."""
    from gpugrant.meter.reader import open_reader

    opener: Callable[[str], Reports] = click.get_current_context().find_root().obj or open_reader
    with ledger_in_words():
        yield opener(ledger)


def _row(reports: Reports, name: str) -> ReportRow:
    rows = {row.name: row for row in reports.names()}
    if name not in rows:
        import difflib

        close_ones = difflib.get_close_matches(name, sorted(rows), n=1)
        hint = (
            f"did you mean {close_ones[0]}?" if close_ones else "`gpugrant report list` names those there are"
        )
        raise click.ClickException(f'report "{name}" not found; {hint}')
    return rows[name]


def _mark(ledger: str, name: str, kind: MarkKind, by: str, reference: str | None = None) -> None:
    for option, text in (("--by", by), ("--reference", reference)):
        if text is not None and not (text.strip() and len(text) <= _LONGEST_WORDS and text.isprintable()):
            raise click.BadParameter(
                f"must be one line of 1 to {_LONGEST_WORDS} characters", param_hint=option
            )
    with _opened(ledger) as reports:
        _row(reports, name)
        try:
            reports.mark(name, kind, by, reference or "")
        except MarkRefused as error:
            raise click.ClickException(str(error)) from None


def _public_keys(files: tuple[Path, ...]) -> "list[Ed25519PublicKey]":
    from gpugrant.expose.report import signing

    try:
        return [signing.load_public_key(file) for file in files]
    except signing.KeyRefused as error:
        raise click.ClickException(str(error)) from None
