"""Reading a folder that somebody handed over: regular files of known names and sane size, and nothing else."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from gpugrant.expose.report.rows import ALL_FILES

MOST_BYTES = 128 * 1024 * 1024  # a month of the largest fleet has a tenth of this
MOST_ENTRIES = 1000
# What file managers of macOS and Windows leave in every folder that somebody looked at.
DESKTOP_FILES = frozenset({".DS_Store", "desktop.ini", "Thumbs.db"})
_MOST_STRANGERS = 10
_LONGEST = 400  # characters of a message


class Problem(Struct, frozen=True, order=True):
    """What is wrong in a folder. ``row`` as a spreadsheet counts (1 is the header); 0: the whole file."""

    file: str
    row: int
    message: str
    advice: str

    def __str__(self) -> str:
        where = f"{self.file}, row {self.row}" if self.row else self.file
        # What a folder says of itself may be of any length.
        message = self.message if len(self.message) <= _LONGEST else f"{self.message[:_LONGEST]}…"
        return f"{where}: {message}; {self.advice}"


FRESH_COPY = "get the folder again from who signed it"


class FolderUnreadable(ValueError):
    """Something that is no folder, or cannot be read."""


def read_folder(folder: Path, wanted: Iterable[str] = ALL_FILES) -> tuple[dict[str, bytes], list[Problem]]:
    """Return the wanted files' bytes by name, and what keeps others from being read. No link is followed.

    Raises FolderUnreadable where there is no such folder, or where nothing in it is a report's.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise FolderUnreadable(f"it cannot be read as a folder: {error.strerror}") from None
    try:
        return _read(descriptor, tuple(wanted))
    finally:
        os.close(descriptor)


def left_by_desktops(folder: Path) -> list[str]:
    """Return what file managers left in a folder: no part of a report, and no fault of it."""
    return sorted(name for name in DESKTOP_FILES if (folder / name).is_file())


def _read(descriptor: int, wanted: tuple[str, ...]) -> tuple[dict[str, bytes], list[Problem]]:
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    present = _names(descriptor)
    if not present & set(ALL_FILES):
        raise FolderUnreadable("it is no report's folder: it has no manifest.json and no other file of a report")
    for name in wanted:
        if name not in present:
            problems.append(Problem(name, 0, "it is missing", FRESH_COPY))
            continue
        try:
            files[name] = _read_file(descriptor, name)
        except _NotRead as error:
            problems.append(Problem(name, 0, str(error), FRESH_COPY))
    if wanted == ALL_FILES:
        problems += _strangers(sorted(present - set(wanted) - DESKTOP_FILES))
    return files, problems


def _strangers(names: list[str]) -> list[Problem]:
    why, advice = "it is no part of a report and nobody signed it", "take it out of the folder"
    found = [Problem(_shown(name), 0, why, advice) for name in names[:_MOST_STRANGERS]]
    if more := len(names) - len(found):
        found.append(Problem("and more", 0, f"{more} others are no part of a report either", advice))
    return found


def _names(descriptor: int) -> set[str]:
    names = set()
    with os.scandir(descriptor) as entries:
        for entry in entries:
            names.add(entry.name)
            if len(names) >= MOST_ENTRIES:
                break
    # Whatever a listing was cut off at, what must be there is asked for by name.
    return names | {name for name in ALL_FILES if _is_there(descriptor, name)}


def _is_there(descriptor: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except OSError:
        return False
    return True


def _shown(name: str) -> str:
    """Return a name as it can be printed: no control characters, no bytes that are no text."""
    return "".join(
        c if c.isprintable() else f"\\x{ord(c):02x}"
        for c in name.encode(errors="surrogateescape").decode(errors="replace")
    )


class _NotRead(ValueError):
    pass


def _read_file(folder: int, name: str) -> bytes:
    # Without O_NONBLOCK a pipe would keep us waiting for somebody to write.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        link = error.errno == errno.ELOOP
        raise _NotRead(
            "it is a link, not a file" if link else f"it cannot be read: {error.strerror}"
        ) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _NotRead("it is not a file")
        if found.st_size > MOST_BYTES:
            raise _NotRead(f"it has {found.st_size} bytes; no month has more than {MOST_BYTES}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _NotRead(f"it cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > MOST_BYTES:
        raise _NotRead(f"it has more than {MOST_BYTES} bytes")
    return data
