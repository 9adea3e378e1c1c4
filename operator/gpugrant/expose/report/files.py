"""A month's signed folder: every file's bytes from the month's account, and the folder written whole or not at all."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from msgspec.structs import asdict

from gpugrant.expose.report import rows, signing, tables
from gpugrant.expose.report.amounts import hours, local_time, percent, utc_time
from gpugrant.expose.report.rows import (
    AbsenceRow,
    AwardFileRow,
    CorrectionRow,
    DayRow,
    FileEntry,
    IdentityRow,
    IncidentRow,
    Manifest,
    ShortfallRow,
    Signer,
    TotalRow,
    UsageFile,
    UsageRow,
)
from gpugrant.meter.digests import summed, without_own_use_detail
from gpugrant.meter.month import Absence, AwardRow, Correction, Incident, Line, MonthAccount

MANIFEST_INDENT = 2  # read by people, and by grep


class FolderTaken(ValueError):
    """A folder that must not be written over; the message says what to do."""


def render(account: MonthAccount, key: Ed25519PrivateKey) -> dict[str, bytes]:
    """Return every file of a month by name; the same account and key give the same bytes.

    Raises ValueError for text that is not Unicode and for zones that do not exist.
    """
    usage = usage_file(account)
    public_key = signing.public_pem(key.public_key())
    files = {
        rows.USAGE_CSV: tables.to_csv(UsageRow, usage.lines),
        rows.USAGE_JSON: tables.to_json(usage),
        rows.AWARDS_CSV: tables.to_csv(AwardFileRow, usage.awards),
        rows.INCIDENTS_CSV: tables.to_csv(IncidentRow, usage.incidents),
        rows.CORRECTIONS_CSV: tables.to_csv(CorrectionRow, usage.corrections),
        rows.PUBLIC_KEY: public_key,
    }
    content = {
        rows.USAGE_CSV: usage.lines,
        rows.USAGE_JSON: usage.lines,
        rows.AWARDS_CSV: usage.awards,
        rows.INCIDENTS_CSV: usage.incidents,
        rows.CORRECTIONS_CSV: usage.corrections,
        rows.PUBLIC_KEY: (),
    }
    manifest = Manifest(
        **_header(account),
        format="gpugrant-month-1",
        owner=account.owner,
        own_use_detail="Tenant" if account.own_use_detail == "Tenant" else "Total",
        unobserved_limit_gpu_seconds=account.unobserved_limit,
        caps=dict(account.caps),
        settings_sha256=account.settings_digest,
        previous_manifest_sha256=account.previous_manifest,
        files={name: file_entry(data, content[name]) for name, data in files.items()},
        totals=usage.totals,
        identities=usage.identities,
        share_shortfall=usage.share_shortfall,
        pool_absences=usage.pool_absences,
        days=tuple(sorted(DayRow(day.day, day.sha256, day.revision) for day in account.days)),
        signer=Signer("Ed25519", signing.fingerprint(key.public_key())),
    )
    files[rows.MANIFEST] = tables.to_json(manifest, MANIFEST_INDENT)
    files[rows.SIGNATURE] = signing.sign(key, files[rows.MANIFEST])
    return files


def file_entry(data: bytes, content: Sequence[Struct]) -> FileEntry:
    """Return what the manifest says of a file."""
    return FileEntry(hashlib.sha256(data).hexdigest(), len(data), len(content), column_sums(content))


def column_sums(content: Sequence[Struct]) -> dict[str, int]:
    """Return the sum of every column of whole numbers; of no rows, nothing."""
    if not content:
        return {}
    numbers = [name for name in content[0].__struct_fields__ if isinstance(getattr(content[0], name), int)]
    return {name: sum(getattr(row, name) for row in content) for name in numbers}


def total_rows(lines: Iterable[UsageRow]) -> tuple[TotalRow, ...]:
    """Return the sums by share, GPU type, owner and condition."""
    sums: Counter[tuple[str, str, str, str]] = Counter()
    for line in lines:
        sums[line.share, line.gpu_type, line.owner, line.condition] += line.gpu_seconds
    return tuple(TotalRow(*key, amount, hours(amount)) for key, amount in sorted(sums.items()))


def _header(account: MonthAccount) -> dict[str, Any]:
    return {
        "report": account.name,
        "programme": account.programme,
        "provider": account.provider,
        "month": account.month,
        "zone": account.zone,
        "start": local_time(account.start, account.zone),
        "end": local_time(account.end, account.zone),
        "until": local_time(account.until, account.zone),
        "state": "Closed" if account.closed_at else "Provisional",
        "closed_at": local_time(account.closed_at, account.zone),
    }


def usage_file(account: MonthAccount) -> UsageFile:
    """Return what usage.json holds."""
    in_detail = account.own_use_detail == "Tenant"
    lines = tuple(sorted(_usage_row(line) for line in _shown(account.lines, in_detail)))
    return UsageFile(
        **_header(account),
        lines=lines,
        awards=tuple(sorted(_award_row(award, account.zone) for award in account.awards)),
        incidents=tuple(sorted(_incident_row(incident, account.zone) for incident in account.incidents)),
        corrections=_correction_rows(account.corrections, in_detail),
        totals=total_rows(lines),
        identities=tuple(
            sorted(
                IdentityRow(
                    one.name, one.pool, one.expected, one.counted, one.difference, one.difference == 0
                )
                for one in account.identities
            )
        ),
        share_shortfall=tuple(
            sorted(
                ShortfallRow(one.pool, one.gpu_seconds, hours(one.gpu_seconds)) for one in account.shortfall
            )
        ),
        pool_absences=tuple(sorted(_absence_row(one, account.zone) for one in account.absences)),
    )


def _shown(lines: Iterable[Line], in_detail: bool) -> tuple[Line, ...]:
    return summed(lines if in_detail else map(without_own_use_detail, lines))


def _usage_row(line: Line) -> UsageRow:
    return UsageRow(**asdict(line), gpu_hours=hours(line.gpu_seconds))


def _correction_rows(corrections: Iterable[Correction], in_detail: bool) -> tuple[CorrectionRow, ...]:
    # Each stays as it is: a reversal and its re-entry must not cancel out before they are shown.
    return tuple(
        sorted(
            CorrectionRow(
                **asdict(line), gpu_hours=hours(line.gpu_seconds), of_month=one.of_month, why=one.why
            )
            for one in corrections
            for line in [one.line if in_detail else without_own_use_detail(one.line)]
        )
    )


def _award_row(award: AwardRow, zone: str) -> AwardFileRow:
    return AwardFileRow(
        programme=award.programme,
        provider=award.provider,
        pool=award.pool,
        share=award.share,
        gpu_type=award.gpu_type,
        tenant=award.tenant,
        tenant_display_name=award.tenant_display_name,
        award=award.award,
        grant=award.grant,
        gpus=award.gpus,
        term_start=local_time(award.term_start, zone),
        term_end=local_time(award.term_end, zone),
        granted_gpu_seconds=award.granted_gpu_seconds,
        held_gpu_seconds=award.held_gpu_seconds,
        failed_gpu_seconds=award.failed_gpu_seconds,
        grace_gpu_seconds=award.grace_gpu_seconds,
        granted_gpu_hours=hours(award.granted_gpu_seconds),
        held_gpu_hours=hours(award.held_gpu_seconds),
        failed_gpu_hours=hours(award.failed_gpu_seconds),
        grace_gpu_hours=hours(award.grace_gpu_seconds),
        held_percent_of_granted=percent(award.held_gpu_seconds, award.granted_gpu_seconds),
    )


def _absence_row(absence: Absence, zone: str) -> AbsenceRow:
    start, end = (local_time(at, zone) for at in (absence.start, absence.end))
    promised = absence.promised_gpu_seconds
    return AbsenceRow(absence.pool, start, end, absence.gpus, promised, hours(promised))


def _incident_row(incident: Incident, zone: str) -> IncidentRow:
    times = (incident.start, incident.detected, incident.restored)
    start, detected, restored = (local_time(at, zone) for at in times)
    start_utc, detected_utc, restored_utc = map(utc_time, times)
    return IncidentRow(
        incident.programme,
        incident.provider,
        incident.pool,
        incident.fabric,
        incident.server,
        start,
        detected,
        restored,
        incident.gpus,
        incident.cause,
        start_utc,
        detected_utc,
        restored_utc,
    )


# -- the folder ----------------------------------------------------------------------------------------


def write_folder(files: Mapping[str, bytes], folder: Path, replace: bool = False) -> None:
    """Write a folder of files: beside its place first, onto the disk, then under its name.

    One that is there with the same bytes is left. One that is not is replaced if ``replace``, else FolderTaken is
    raised. Raises OSError where the disk says no; then nothing of it stays.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink() or folder.exists():
        if _holds(folder, files):
            return
        if not replace:
            raise FolderTaken(
                f"{folder} is there already and holds something else: move it away, or name another folder"
            )
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")
    try:
        _write(files, beside)
        if folder.exists():
            _swap(beside, folder)
        else:
            beside.rename(folder)
    finally:
        if beside.exists():
            shutil.rmtree(beside)
    _sync(folder.parent)


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Say whether a folder has exactly these files, as files of its own."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        if {entry.name for entry in entries} != set(files):
            return False
    return all(
        not (path := folder / name).is_symlink()
        and path.is_file()
        and path.stat().st_size == len(data)
        and path.read_bytes() == data
        for name, data in files.items()
    )


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for name, data in sorted(files.items()):
        with (folder / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _sync(folder)


def _swap(new: Path, folder: Path) -> None:
    """Put a folder in another's place. A crash in between leaves both, whole, and neither half."""
    old = new.with_suffix(".old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # file systems that cannot sync a folder keep it anyway
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
