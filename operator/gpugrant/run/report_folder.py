"""Where closed months lie, and the key they are signed with.

A folder gets its name only once the ledger knows the month as closed; until then it is beside, staged. What lies under
the name is never written over: the ledger's digest of the manifest says whether it is what was closed.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from gpugrant.expose.report import signing
from gpugrant.expose.report.amounts import epoch
from gpugrant.expose.report.files import render, write_folder
from gpugrant.expose.report.rows import MANIFEST, PUBLIC_KEY, SIGNATURE
from gpugrant.meter.month import MonthAccount

log = logging.getLogger(__name__)

REPORTS: Final = "reports"
SIGNING_KEY: Final = "signing-key.pem"
LOST: Final = "it is not there"
_NOT_NAMED = (
    "reports are neither kept nor signed: start the operator with --reports DIR and --signing-key FILE "
    "(an Ed25519 key in PEM, mode 0600), since the ledger is not a file that they could lie beside"
)


_Stats = tuple[tuple[str, int, int, int, int], ...]


class ShelfError(Exception):
    """A month's files cannot be signed, kept or written again; the words say why and what to do."""


class _Entry(Struct):
    sha256: str


class _Manifest(Struct):
    """What is needed of a manifest that says that its month is closed."""

    files: dict[str, _Entry]
    closed_at: str = ""


class Shelf:
    """The reports' folder and the signing key. Blocking.

    ``reports`` and ``key_file`` empty: beside the ledger where that is a file of SQLite's; a key is made there on
    first use. ``on_step`` is called with a name between the steps; tests kill the process there.
    """

    def __init__(
        self, ledger: str, reports: str = "", key_file: str = "", on_step: Callable[[str], None] | None = None
    ) -> None:
        beside = _folder_of(ledger)
        self.reports = Path(reports) if reports else beside / REPORTS if beside else None
        self._key_file = Path(key_file) if key_file else beside / SIGNING_KEY if beside else None
        self._may_make_key = not key_file
        self._key: Ed25519PrivateKey | None = None
        self._good: dict[str, tuple[str, _Stats]] = {}
        self._step = on_step or (lambda _: None)

    def unable(self) -> str:
        """Return, in words, why nothing can be signed or kept; '' where all is there."""
        try:
            self._ready()
        except ShelfError as error:
            return str(error)
        return ""

    def _ready(self) -> tuple[Path, Ed25519PrivateKey]:
        if self.reports is None or self._key_file is None:
            raise ShelfError(_NOT_NAMED)
        try:
            self.reports.mkdir(parents=True, exist_ok=True)
            if self._key is None:
                self._key = signing.load_key(self._key_file, create=self._may_make_key)
                fingerprint = signing.fingerprint(self._key.public_key())
                log.info("reports are signed with %s: public key sha256 %s", self._key_file, fingerprint)
        except signing.KeyRefused as error:
            raise ShelfError(str(error)) from None
        except OSError as error:
            raise ShelfError(f"reports cannot be kept in {self.reports}: {error.strerror or error}") from None
        return self.reports, self._key

    def folder(self, name: str) -> Path | None:
        """Return where a month's files are, or will be."""
        return self.reports / name if self.reports else None

    # -- closing -----------------------------------------------------------------------------------

    def stage(self, account: MonthAccount, now: int) -> tuple[MonthAccount, str]:
        """Write the files of a month that is about to close beside their place.

        Return the account as closed (now, or when an earlier try with the same bytes was) and its manifest's digest.
        Raises ShelfError where they cannot be written, or others lie there already.
        """
        reports, key = self._ready()
        place, beside = reports / account.name, _staged(reports, account.name)
        for folder in (place, beside):
            before = _closed_before(folder)
            if before is not None and before >= account.end:
                same = msgspec.structs.replace(account, closed_at=before)
                files = render(same, key)
                if not fault(folder, sha256(files[MANIFEST])):
                    return same, self._put_beside(files, place, beside)
        closed = msgspec.structs.replace(account, closed_at=now)
        return closed, self._put_beside(render(closed, key), place, beside)

    def _put_beside(self, files: Mapping[str, bytes], place: Path, beside: Path) -> str:
        digest = sha256(files[MANIFEST])
        if place.exists() and (wrong := fault(place, digest)):
            raise ShelfError(
                f"{place} is there already and is not this month as the ledger has it ({wrong}): where an older ledger "
                "was restored, restore a newer one; else move the folder away"
            )
        self._step("rendered")
        try:
            write_folder(files, beside, replace=True)
        except OSError as error:
            raise ShelfError(f"{beside} cannot be written: {error.strerror or error}") from None
        self._step("staged")
        return digest

    def publish(self, name: str, manifest_sha256: str) -> None:
        """Give the staged files of a month that is closed now their name. Raises ShelfError."""
        reports = self.reports
        if reports is None:
            return
        place, beside = reports / name, _staged(reports, name)
        try:
            if not beside.exists():
                return
            if not place.exists() and not fault(beside, manifest_sha256):
                beside.rename(place)
                self._step("published")
            else:
                shutil.rmtree(beside)
            for left in reports.glob(f".{beside.name}.*"):  # by a process that was killed as it wrote
                shutil.rmtree(left)
        except OSError as error:
            raise ShelfError(f"{place} cannot be written: {error.strerror or error}") from None

    def write_again(self, account: MonthAccount, manifest_sha256: str) -> None:
        """Write the folder of a closed month that was lost, with the same bytes. Raises ShelfError."""
        reports, key = self._ready()
        files = render(account, key)
        if sha256(files[MANIFEST]) != manifest_sha256:
            raise ShelfError(
                f"{reports / account.name} was lost and cannot be written again as it was closed: it was signed with "
                f"another key than {self._key_file}, or the ledger was changed; restore the folder, or the key"
            )
        try:
            write_folder(files, reports / account.name)
        except (OSError, ValueError) as error:
            raise ShelfError(f"{reports / account.name} cannot be written: {error}") from None

    # -- what lies there ---------------------------------------------------------------------------

    def fault(self, name: str, manifest_sha256: str) -> str:
        """Return what keeps a month's folder from being the one with this manifest; '' where it is.

        Files that have not been touched since they were found good are not read again.
        """
        folder = self.folder(name)
        if folder is None:
            return _NOT_NAMED
        stats = _stats(folder)
        if stats and self._good.get(name) == (manifest_sha256, stats):
            return ""
        wrong = fault(folder, manifest_sha256)
        if not wrong:
            self._good[name] = (manifest_sha256, stats)
        return wrong

    def digests(self, name: str, manifest_sha256: str) -> tuple[tuple[str, str], ...]:
        """Return the digest of every file of a month; of a folder with a fault, the manifest's alone."""
        folder = self.folder(name)
        if folder is None or self.fault(name, manifest_sha256):
            return ((MANIFEST, manifest_sha256),)
        manifest = _read_manifest((folder / MANIFEST).read_bytes())
        found = {file: entry.sha256 for file, entry in manifest.files.items()}
        found |= {MANIFEST: manifest_sha256, SIGNATURE: sha256((folder / SIGNATURE).read_bytes())}
        return tuple(sorted(found.items()))


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def fault(folder: Path, manifest_sha256: str) -> str:
    """Return what keeps a folder from being the month whose manifest has this digest; '' where it is."""
    if not folder.exists():
        return LOST
    try:
        data = (folder / MANIFEST).read_bytes()
        if sha256(data) != manifest_sha256:
            return f"{MANIFEST} has another digest"
        for file, entry in _read_manifest(data).files.items():
            if sha256((folder / file).read_bytes()) != entry.sha256:
                return f"{file} was changed"
        key = signing.read_public_key((folder / PUBLIC_KEY).read_bytes())
        if not signing.is_signed(key, data, (folder / SIGNATURE).read_bytes()):
            return f"{SIGNATURE} was changed"
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror or error}"
    except ValueError as error:
        return str(error)
    return ""


def _stats(folder: Path) -> _Stats:
    """Return what tells whether a file of a folder was touched; empty where it cannot be read."""
    try:
        found = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    except OSError:
        return ()
    return tuple(
        (name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in found
    )


def _closed_before(folder: Path) -> int | None:
    """Return when the month in a folder says that it was closed; None where it does not."""
    try:
        return epoch(_read_manifest((folder / MANIFEST).read_bytes()).closed_at) or None
    except (OSError, ValueError):
        return None


def _read_manifest(data: bytes) -> _Manifest:
    return msgspec.json.decode(data, type=_Manifest)


def _staged(reports: Path, name: str) -> Path:
    return reports / f".{name}.closing"


def _folder_of(ledger: str) -> Path | None:
    """Return the folder that a SQLite ledger's file is in."""
    try:
        url = make_url(ledger)
    except ArgumentError:
        return None
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database)).absolute().parent
