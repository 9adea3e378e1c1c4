"""Options that several commands have, in the same words. Light: --help has to answer at once."""

from pathlib import Path

import click

LEDGER = click.option(
    "--ledger",
    envvar="GPUGRANT_LEDGER",
    required=True,
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
