"""``gpugrant ledger``. Heavy imports wait inside the commands, so that --help answers at once."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpugrant.options import LEDGER, PUBLIC_KEYS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from sqlalchemy import Connection

_MOST_SHOWN = 20
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def ledger() -> None:
    """Check the ledger itself, back it up, restore it, say how it stands.

    All but `restore` may run beside the operator.
    """


@ledger.command()
@LEDGER
@click.option("--all", "every", is_flag=True, help=f"Show all differences, not the first {_MOST_SHOWN}.")
@click.option(
    "--reports",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Compare closed months with signed reports too: a month's folder, or one of such folders.",
)
@PUBLIC_KEYS
@click.option(
    "--noted",
    multiple=True,
    metavar="CHAIN",
    help="A chain of the journal that `ledger show` had said and somebody noted: it must be there. May be repeated.",
)
def verify(
    ledger: str, every: bool, reports: Path | None, key_files: tuple[Path, ...], noted: tuple[str, ...]
) -> None:
    """Work every sum out again from the raw facts and print the first differences. Exit code 1 if there are any.

    Rows are compared with what the ledger noted as it wrote them. Who owns the database can rewrite that as well: only
    what is kept elsewhere, such as signed reports or a noted chain of the journal, shows it.
    """
    from gpugrant.expose.report.printing import clean, progress
    from gpugrant.meter.verify import verify_ledger
    from gpugrant.meter.verify_reports import verify_reports

    folders, keys = _reports(reports, key_files)
    found = 0
    with (
        progress("verify") as told,
        _reading(ledger) as connection,
        closing(verify_ledger(connection, told, noted)) as differences,
    ):
        for difference in chain(verify_reports(connection, folders, keys, told), differences):
            found += 1
            click.echo(clean(str(difference)))
            if found == _MOST_SHOWN and not every:
                click.echo("… and perhaps more: --all shows them", err=True)
                break
    if found:
        raise SystemExit(1)
    click.echo("ok: every day, digest and sum is what the facts say, and no seat is held twice")
    if folders:
        words = "1 signed report says" if len(folders) == 1 else f"{len(folders)} signed reports say"
        click.echo(f"{words} the same")
        if not keys:
            click.echo("by its own key: name the supplier's with --public-key to know who signed", err=True)


def _reports(folder: Path | None, key_files: tuple[Path, ...]) -> "tuple[list[Path], list[Ed25519PublicKey]]":
    """Return the reports to compare with and the keys that must have signed them."""
    from gpugrant.expose.report.signing import KeyRefused, load_public_key
    from gpugrant.meter.verify_reports import NoReports, report_folders

    try:
        return report_folders(folder) if folder else [], [load_public_key(file) for file in key_files]
    except (NoReports, KeyRefused, OSError) as error:
        raise click.ClickException(str(error)) from None


@ledger.command()
@LEDGER
@click.argument("file", type=_FILE)
def backup(ledger: str, file: Path) -> None:
    """Write the whole ledger, as of one moment, to FILE. The operator may go on writing."""
    from gpugrant.expose.report.printing import progress
    from gpugrant.meter.backup import back_up

    if not file.parent.is_dir():
        raise click.ClickException(f"{file.parent} is no folder: make it first")
    with progress("backup") as told, _reading(ledger) as connection:
        count = back_up(connection, file, told)
    click.echo(f"{count} rows in {file}")


@ledger.command()
@LEDGER
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(ledger: str, file: Path) -> None:
    """Fill an empty database with the ledger in FILE, whichever kind of database it came from."""
    from gpugrant.expose.report.printing import progress
    from gpugrant.meter.backup import BackupError
    from gpugrant.meter.backup import restore as fill
    from gpugrant.meter.database import writing_engine

    with _in_words():
        engine = writing_engine(ledger, lock_wait=5.0)
        try:
            with progress("restore") as told, engine.begin() as connection:
                count = fill(connection, file, told)
        except BackupError as error:
            raise click.ClickException(str(error)) from error
        finally:
            engine.dispose()
    click.echo(f"{count} rows restored; the operator goes on from there")


@ledger.command()
@LEDGER
def show(ledger: str) -> None:
    """Say how far the ledger is and what is in it."""
    from gpugrant.meter.overview import overview

    with _reading(ledger) as connection:
        for line in overview(connection):
            click.echo(line)


@contextmanager
def _reading(url: str) -> Iterator["Connection"]:
    """Look at one moment of a ledger."""
    from gpugrant.meter.database import check_shape, reading_engine
    from gpugrant.meter.reading import read_state

    with _in_words():
        engine = reading_engine(url)
        try:
            with engine.begin() as connection:
                check_shape(connection)
                read_state(connection)
                yield connection
        finally:
            engine.dispose()


@contextmanager
def _in_words() -> Iterator[None]:
    """Return errors of the database in words."""
    from msgspec import MsgspecError
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    from gpugrant.meter.database import LedgerUrlError

    try:
        yield
    except LedgerUrlError as error:
        raise click.UsageError(str(error)) from None
    except (SQLAlchemyError, LookupError, ImportError, OSError, MsgspecError) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        raise click.ClickException(f"the ledger cannot be used: {' '.join(str(cause).split())}") from error
