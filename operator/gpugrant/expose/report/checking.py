"""Is this folder what was signed, and does it add up? Without a cluster, without a ledger.

Anything may be in a folder that was handed over: nothing in it is believed, no link followed, nothing it holds can
make the check fail with an error of its own.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from gpugrant.expose.report import content, rows, signing, tables
from gpugrant.expose.report.amounts import epoch
from gpugrant.expose.report.comparing import compare_tables, place_of_difference, suspects
from gpugrant.expose.report.files import MANIFEST_INDENT, column_sums
from gpugrant.expose.report.reading import FRESH_COPY, FolderUnreadable, Problem, read_folder
from gpugrant.expose.report.rows import MANIFEST, PUBLIC_KEY, SIGNATURE, SUMMED_FILES, USAGE_CSV, USAGE_JSON

ASK_SIGNER = "it was signed like this: ask who signed it for a correct one"
_NOT_SIGNED = "the manifest was changed after it was signed, or signed with another key; get the folder again"
_STEPS = ("reading", "signature", "digests", "tables", "comparing", "adding up")

Tables = dict[str, tuple[Any, ...]]
Told = Callable[[str, int, int], None]  # step, its number, of how many


class Checked(Struct, frozen=True):
    """What a check found. Without problems the manifest and tables are all there."""

    problems: tuple[Problem, ...]
    manifest: rows.Manifest | None = None
    tables: Tables = {}
    manifest_sha256: str = ""


def verify(
    folder: Path, public_key: Ed25519PublicKey | None = None, previous: Path | None = None
) -> list[Problem]:
    """Return everything that is wrong with a month's folder; empty: nothing.

    Without ``public_key`` the folder's own is used: that shows that nothing was changed since, not by whom it was
    signed. ``previous``: the folder of the month before, which this one must be chained to.
    """
    return list(check(folder, [public_key] if public_key else [], previous).problems)


def check(
    folder: Path,
    public_keys: Collection[Ed25519PublicKey] = (),
    previous: Path | None = None,
    told: Told | None = None,
) -> Checked:
    """Check a folder, whose signer must be one of the keys, if any are given; see ``verify``."""
    told = told or _tell_nobody
    told(_STEPS[0], 0, len(_STEPS))
    try:
        files, problems = read_folder(folder)
    except FolderUnreadable as error:
        return Checked((Problem(str(folder), 0, str(error), "name the month's folder"),))
    checked = check_files(files, public_keys, told)
    problems += checked.problems
    if previous is not None and checked.manifest is not None:
        problems += _chained(checked.manifest, previous, pinned=bool(public_keys))
        problems += _taken_back(checked, previous)
    return Checked(tuple(dict.fromkeys(problems)), checked.manifest, checked.tables, checked.manifest_sha256)


def check_files(
    files: Mapping[str, bytes],
    public_keys: Collection[Ed25519PublicKey] = (),
    told: Told | None = None,
) -> Checked:
    """Check a month's files, as many as could be read."""
    told = told or _tell_nobody
    told(_STEPS[1], 1, len(_STEPS))
    try:
        manifest = tables.read_json(rows.Manifest, files.get(MANIFEST, b""), MANIFEST_INDENT)
    except tables.Unreadable as error:
        found = Problem(MANIFEST, 0, str(error), FRESH_COPY)
        return Checked((found,) if MANIFEST in files else ())
    problems = list(_signed(manifest, files, public_keys))
    signed = not any(problem.file in (MANIFEST, SIGNATURE) for problem in problems)
    told(_STEPS[2], 2, len(_STEPS))
    changed = {
        name: fault for name in files if name in SUMMED_FILES and (fault := _fault(manifest, name, files))
    }
    problems += _not_as_listed(manifest, changed, signed)
    told(_STEPS[3], 3, len(_STEPS))
    read, unreadable = _read_tables(files)
    problems += unreadable
    told(_STEPS[4], 4, len(_STEPS))
    usage = None
    if USAGE_JSON in files:
        usage, more = _read_usage(manifest, files[USAGE_JSON], read)
        problems += more
    if usage is not None:
        problems += compare_tables(read, usage, set(changed), manifest)
    told(_STEPS[5], 5, len(_STEPS))
    advice = FRESH_COPY if changed or not signed else ASK_SIGNER
    problems += [Problem(*fault, advice) for fault in content.manifest_faults(manifest)]
    if signed:  # rows are not measured by what nobody signed
        problems += [Problem(*fault, advice) for fault in _content_faults(manifest, read, set(changed))]
    if USAGE_CSV in changed and USAGE_CSV in read and (usage is None or USAGE_JSON in changed):
        problems += suspects(manifest, read[USAGE_CSV])
    told("done", len(_STEPS), len(_STEPS))
    sha256 = hashlib.sha256(files[MANIFEST]).hexdigest()
    return Checked(tuple(problems), manifest, read, sha256)


def _tell_nobody(step: str, number: int, of: int) -> None:
    """Take no note of how far a check is."""


# -- who signed ----------------------------------------------------------------------------------------


def _signed(
    manifest: rows.Manifest, files: Mapping[str, bytes], public_keys: Collection[Ed25519PublicKey]
) -> Iterator[Problem]:
    own = None
    if PUBLIC_KEY in files:
        try:
            own = signing.read_public_key(files[PUBLIC_KEY])
        except ValueError as error:
            yield Problem(PUBLIC_KEY, 0, str(error), FRESH_COPY)
    allowed = {signing.fingerprint(key): key for key in public_keys}
    if own is not None:
        faults = list(_key_faults(own, files[PUBLIC_KEY], manifest, set(allowed)))
        yield from faults
        own = None if faults else own  # by a key that is not the signer's nothing can be told
    signature = files.get(SIGNATURE)
    if signature is None:
        return
    if len(signature) != signing.SIGNATURE_BYTES:
        yield Problem(
            SIGNATURE,
            0,
            f"it has {len(signature)} bytes; an Ed25519 signature has {signing.SIGNATURE_BYTES}",
            FRESH_COPY,
        )
        return
    keys = list(allowed.values()) if allowed else [own] if own is not None else []
    if keys and not any(signing.is_signed(key, files[MANIFEST], signature) for key in keys):
        which = "the key that was named" if allowed else f"the folder's {PUBLIC_KEY}"
        yield Problem(MANIFEST, 0, f"its signature in {SIGNATURE} is not valid under {which}", _NOT_SIGNED)


def _key_faults(
    own: Ed25519PublicKey, data: bytes, manifest: rows.Manifest, allowed: set[str]
) -> Iterator[Problem]:
    found = signing.fingerprint(own)
    if data != signing.public_pem(own):
        yield Problem(PUBLIC_KEY, 0, "it holds more than a public key, or holds it otherwise", FRESH_COPY)
    if found != manifest.signer.public_key_sha256:
        listed = manifest.files.get(PUBLIC_KEY)
        said = manifest.signer.public_key_sha256
        if listed is not None and listed.sha256 == hashlib.sha256(data).hexdigest():
            message = f"it says that the signer is {said}; {PUBLIC_KEY}, which is as it lists it, is {found}"
            yield Problem(MANIFEST, 0, message, FRESH_COPY)
        else:
            yield Problem(PUBLIC_KEY, 0, f"it is the key {found}; the manifest says {said}", FRESH_COPY)
    elif allowed and found not in allowed:
        yield Problem(
            PUBLIC_KEY,
            0,
            f"it is the key {found}, not the one that was named ({', '.join(sorted(allowed))})",
            "ask the supplier whether its key changed, on another way than this folder came",
        )


# -- is it what was signed? ----------------------------------------------------------------------------


def _fault(manifest: rows.Manifest, name: str, files: Mapping[str, bytes]) -> str:
    entry, data = manifest.files.get(name), files[name]
    if entry is None:
        return "the manifest does not list it"
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        size = f", {len(data)} bytes instead of {entry.bytes}" if len(data) != entry.bytes else ""
        return f"its sha256 is {found}; {entry.sha256} was signed{size}"
    return f"it has {len(data)} bytes; {entry.bytes} was signed" if len(data) != entry.bytes else ""


def _not_as_listed(manifest: rows.Manifest, changed: Mapping[str, str], signed: bool) -> Iterator[Problem]:
    for name, fault in changed.items():
        if signed:
            saved = (
                "; a spreadsheet that saves a file changes it: keep the original"
                if name[-4:] == ".csv"
                else ""
            )
            yield Problem(name, 0, fault, FRESH_COPY + saved)
        else:  # which of both was changed cannot be known
            yield Problem(MANIFEST, 0, f"it does not agree with {name}: {fault}", FRESH_COPY)
    for name in sorted(set(manifest.files) - set(SUMMED_FILES)):
        yield Problem(MANIFEST, 0, f"it lists {name[:80]!r}, which is no file of a report", ASK_SIGNER)


def _read_tables(files: Mapping[str, bytes]) -> tuple[Tables, list[Problem]]:
    read: Tables = {}
    problems = []
    for name, kind in rows.TABLES.items():
        if name not in files:
            continue
        try:
            read[name] = tuple(tables.read_csv(kind, files[name]))
        except tables.Unreadable as error:
            problems.append(Problem(name, error.row, str(error), FRESH_COPY))
    return read, problems


def _read_usage(
    manifest: rows.Manifest, data: bytes, read: Tables
) -> tuple[rows.UsageFile | None, list[Problem]]:
    try:
        return tables.read_json(rows.UsageFile, data), []
    except tables.Unreadable as error:
        row, where = place_of_difference(manifest, data, read)
        return None, [Problem(USAGE_JSON, row, f"{where}{error}", FRESH_COPY)]


def _content_faults(manifest: rows.Manifest, read: Tables, changed: set[str]) -> Iterator[content.Fault]:
    for name, table in read.items():
        yield from content.row_faults(manifest, name, table)
        if name not in changed:
            yield from _sum_faults(manifest, name, table)
    if not changed and len(read) == len(rows.TABLES):
        yield from content.sum_faults(manifest, read)


def _sum_faults(manifest: rows.Manifest, name: str, table: tuple[Any, ...]) -> Iterator[content.Fault]:
    entry = manifest.files.get(name)
    if entry is None:
        return
    if entry.rows != len(table):
        yield MANIFEST, 0, f"it says that {name} has {entry.rows} rows; it has {len(table)}"
    if (found := column_sums(table)) != entry.sums:
        yield MANIFEST, 0, f"it says that the sums of {name} are {entry.sums}; they are {found}"


# -- the month before ----------------------------------------------------------------------------------


def _chained(manifest: rows.Manifest, previous: Path, pinned: bool) -> Iterator[Problem]:
    try:
        files, problems = read_folder(previous, (MANIFEST,))
        if problems:
            raise FolderUnreadable(str(problems[0]))
        before = tables.read_json(rows.Manifest, files[MANIFEST], MANIFEST_INDENT)
    except (FolderUnreadable, tables.Unreadable) as error:
        yield Problem(MANIFEST, 0, f"the month before ({previous}): {error}", "name its folder")
        return
    found = hashlib.sha256(files[MANIFEST]).hexdigest()
    if found != manifest.previous_manifest_sha256:
        if not _follows(before, manifest):
            advice = "name the folder of the month before, of the same programme and provider"
            yield Problem(MANIFEST, 0, f"{before.report} is not the month before {manifest.report}", advice)
            return
        chained = manifest.previous_manifest_sha256 or "no month before"
        message = f"it is chained to {chained}; the manifest of {before.report} is {found}"
        advice = "one of both was made anew after it was handed over: ask the supplier"
        yield Problem(MANIFEST, 0, message, advice)
    if not pinned and before.signer != manifest.signer:
        message = f"it is signed by another key ({manifest.signer.public_key_sha256}) than the month before"
        yield Problem(MANIFEST, 0, message, "if the supplier announced a new key, name it with --public-key")


def _taken_back(checked: Checked, previous: Path) -> Iterator[Problem]:
    """Yield corrections of the month before that are more than its rows are."""
    if rows.CORRECTIONS_CSV not in checked.tables:
        return
    try:
        files, _ = read_folder(previous, (MANIFEST, USAGE_CSV))
        before = tables.read_json(rows.Manifest, files.get(MANIFEST, b""), MANIFEST_INDENT)
        lines = tuple(tables.read_csv(rows.UsageRow, files.get(USAGE_CSV, b"")))
    except FolderUnreadable:
        return  # said already
    except tables.Unreadable as error:
        yield Problem(USAGE_CSV, error.row, f"the month before ({previous}): {error}", FRESH_COPY)
        return
    for fault in content.reversal_faults(lines, checked.tables[rows.CORRECTIONS_CSV], before.month):
        yield Problem(*fault, ASK_SIGNER)


def _follows(before: rows.Manifest, manifest: rows.Manifest) -> bool:
    if (before.programme, before.provider) != (manifest.programme, manifest.provider):
        return False
    try:
        return epoch(before.end) == epoch(manifest.start)
    except ValueError:
        return False
