"""Checks against signed reports: what was handed over is the witness that whoever owns the database cannot rewrite."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, select

from gpugrant.expose.report import rows
from gpugrant.expose.report.checking import Checked, check
from gpugrant.expose.report.files import usage_file
from gpugrant.expose.report.reading import Problem
from gpugrant.meter.day_tables import months
from gpugrant.meter.difference import Difference, Told
from gpugrant.meter.month import MonthAccount
from gpugrant.meter.monthly import month_account
from gpugrant.meter.months import Month

SIGNED = "the signed report says"
_MOST_ROWS = 5  # of one table that are named


class NoReports(ValueError):
    """A folder that holds no month; the words say what to give."""


def report_folders(folder: Path) -> list[Path]:
    """Return the months' folders in a folder, or itself if it is one. Raises NoReports, OSError."""
    if (folder / rows.MANIFEST).is_file():
        return [folder]
    found = sorted(one for one in folder.iterdir() if (one / rows.MANIFEST).is_file())
    if not found:
        raise NoReports(
            f"{folder} holds no month's report: give the folder of one, or one whose folders are months' reports"
        )
    return found


def verify_reports(
    connection: Connection,
    folders: Sequence[Path],
    public_keys: Collection[Ed25519PublicKey] = (),
    told: Told = lambda *_: None,
) -> Iterator[Difference | Problem]:
    """Yield where closed months of the ledger are not what signed reports say they were, and what is wrong with those.

    Without ``public_keys`` the key in each folder is used: then nobody says that it is the supplier's. A report that
    is provisional witnesses nothing, and is passed over.
    """
    for number, folder in enumerate(folders):
        told("reports", number, len(folders))
        checked = check(folder, public_keys)
        manifest = checked.manifest
        if checked.problems or manifest is None:
            yield from checked.problems
        elif manifest.state == "Closed":
            yield from _month(connection, checked, manifest)


def _month(connection: Connection, checked: Checked, manifest: rows.Manifest) -> Iterator[Difference]:
    who = {"programme": manifest.programme, "provider": manifest.provider, "name": manifest.month}
    row = connection.execute(select(months).filter_by(**who)).first()
    where = f"table months, {manifest.report}"
    if row is None:
        yield Difference(
            where, f"closed with the manifest {checked.manifest_sha256}", "no such month", SIGNED
        )
        return
    month = Month(row.name, row.start_at, row.end_at)
    account = month_account(connection, row.programme, row.provider, month)
    yield from _tables(account, checked)
    yield from _header(account, manifest)
    if row.manifest != checked.manifest_sha256:
        yield Difference(f"{where}, manifest", checked.manifest_sha256, row.manifest, SIGNED)


def _header(account: MonthAccount, manifest: rows.Manifest) -> Iterator[Difference]:
    """Yield what the manifest has beside tables, and the ledger otherwise."""
    usage = usage_file(account)
    wanted = {name: getattr(manifest, name) for name in rows.Header.__struct_fields__}
    found = {name: getattr(usage, name) for name in rows.Header.__struct_fields__}
    for name in ("identities", "share_shortfall", "totals"):
        wanted[name], found[name] = getattr(manifest, name), getattr(usage, name)
    wanted |= {
        "days": {one.day: (one.sha256, one.revision) for one in manifest.days},
        "owner": manifest.owner,
        "caps": manifest.caps,
        "settings_sha256": manifest.settings_sha256,
        "unobserved_limit_gpu_seconds": manifest.unobserved_limit_gpu_seconds,
        "previous_manifest_sha256": manifest.previous_manifest_sha256,
    }
    found |= {
        "days": {one.day: (one.sha256, one.revision) for one in account.days},
        "owner": account.owner,
        "caps": dict(account.caps),
        "settings_sha256": account.settings_digest,
        "unobserved_limit_gpu_seconds": account.unobserved_limit,
        "previous_manifest_sha256": account.previous_manifest,
    }
    for name, value in wanted.items():
        if found[name] != value:
            yield Difference(
                f"closed month {account.name}, {name}", _brief(value), _brief(found[name]), SIGNED
            )


def _tables(account: MonthAccount, checked: Checked) -> Iterator[Difference]:
    """Yield rows that only one of the two has."""
    usage = usage_file(account)
    stored = {
        rows.USAGE_CSV: usage.lines,
        rows.AWARDS_CSV: usage.awards,
        rows.INCIDENTS_CSV: usage.incidents,
        rows.CORRECTIONS_CSV: usage.corrections,
    }
    for name, table in stored.items():
        signed = checked.tables[name]
        missing, more = Counter(signed) - Counter(table), Counter(table) - Counter(signed)
        left = {_key(row): row for row in more}
        for row in list(missing)[:_MOST_ROWS]:
            where = f"closed month {account.name}, row {signed.index(row) + 2} of {name}"
            yield from _row(where, row, left.pop(_key(row), None))
        for row in list(left.values())[:_MOST_ROWS]:
            where = f"closed month {account.name}, one row more than {name} has"
            yield Difference(where, "none", _brief(row), SIGNED)


def _row(where: str, signed: Any, stored: Any) -> Iterator[Difference]:
    if stored is None:
        yield Difference(where, _brief(signed), "no such row", SIGNED)
        return
    for field in signed.__struct_fields__:
        wanted, found = getattr(signed, field), getattr(stored, field)
        if isinstance(wanted, int) and wanted != found:
            yield Difference(f"{where}, {field}", f"{wanted}", f"{found}", SIGNED)


def _key(row: Any) -> tuple[str, ...]:
    """Return what a row is of: all but its figures."""
    figures = ("_hours", "_of_granted")
    return tuple(
        getattr(row, field)
        for field in row.__struct_fields__
        if not isinstance(getattr(row, field), int) and not field.endswith(figures)
    )


def _brief(value: Any) -> str:
    return str(value) if len(str(value)) <= 300 else f"{str(value)[:300]}…"
