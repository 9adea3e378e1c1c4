"""Options that several commands have, in the same words. Light: --help has to answer at once."""

import os
from pathlib import Path

import click

_LEDGER_VARIABLE = "GPUGRANT_LEDGER"
_LEDGER_HINT = f"--ledger or ${_LEDGER_VARIABLE}"


def ledger_named(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Return the URL without white space around it, which files and Secrets have at their ends; None: none is named.

    Raises click.BadParameter where one is named and empty: a Secret that was filled wrong is no wish for no ledger.
    """
    given = os.environ.get(_LEDGER_VARIABLE) if value is None else value
    if given is not None and not given.strip():
        raise click.BadParameter("is empty: name the ledger, or leave both out for none", param_hint=_LEDGER_HINT)
    return value and value.strip()


LEDGER = click.option(
    "--ledger",
    envvar=_LEDGER_VARIABLE,
    required=True,
    callback=ledger_named,
    metavar="URL",
    show_envvar=True,
    help="Where the ledger is kept: sqlite:////PATH or postgresql://USER@HOST/DATABASE.",
)
PUBLIC_KEYS = click.option(
    "--public-key",
    "key_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="PEM file with the public key that must have signed, as the supplier made it known. May be repeated.",
)
