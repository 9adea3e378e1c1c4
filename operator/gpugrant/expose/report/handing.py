"""A month handed over: signed, put through its own check, and only then written."""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpugrant.expose.report.checking import Told, check_files
from gpugrant.expose.report.files import MANIFEST_INDENT, FolderTaken, render, write_folder
from gpugrant.expose.report.reading import FolderUnreadable, Problem, read_folder
from gpugrant.expose.report.rows import MANIFEST, Manifest
from gpugrant.expose.report.tables import Unreadable, read_json
from gpugrant.meter.month import MonthAccount

_STEPS = 4  # the first is the ledger's


class NotWritten(ValueError):
    """A month that was not written; the message says why and what to do, the problems what its check found."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


def write_month(
    account: MonthAccount, manifest_sha256: str, key: Ed25519PrivateKey, folder: Path, told: Told
) -> tuple[Problem, ...]:
    """Write a month's signed folder. Return what its check found, which only a provisional month is written with.

    ``manifest_sha256``: of the month as it closed, as the ledger knows it; empty: it does not. Raises NotWritten.
    """
    told("signing", 1, _STEPS)
    files = render(account, key)
    if account.closed_at and manifest_sha256 not in ("", hashlib.sha256(files[MANIFEST]).hexdigest()):
        raise NotWritten(
            f"{account.name} was closed with the manifest {manifest_sha256}, which these files do not give: sign with "
            "the key that it was closed with; if this is that key, the ledger was changed since"
        )
    told("checking", 2, _STEPS)
    problems = check_files(files).problems
    if problems and account.closed_at:
        raise NotWritten(f"{account.name} is closed and fails its own check; nothing was written", problems)
    told("writing", 3, _STEPS)
    try:
        write_folder(files, folder, replace=_may_replace(folder, account.name))
    except (FolderTaken, OSError) as error:
        raise NotWritten(str(error)) from None
    return problems


def _may_replace(folder: Path, name: str) -> bool:
    """Say whether a folder holds the same month, provisional, and no more: only that may be written over."""
    try:
        files, problems = read_folder(folder)
        if problems:
            return False
        there = read_json(Manifest, files[MANIFEST], MANIFEST_INDENT)
    except (FolderUnreadable, Unreadable):
        return False
    return there.report == name and there.state == "Provisional"
