"""Tables as CSV that spreadsheets open, and documents as canonical JSON: one way to write, and strict to read.

CSV: UTF-8 with a byte order mark, lines ended by CR LF, a cell quoted only where it must be. A text that a spreadsheet
would run as a formula gets an apostrophe before it (and so does one that begins with an apostrophe, so that taking
one off gives the text back).
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from gpugrant.expose.report.rows import Decimal

BOM = b"\xef\xbb\xbf"
LINE_END = "\r\n"
MOST_ROWS = 500_000  # a month of the largest fleet has a tenth of this

# What starts a formula in any of the spreadsheets that are used, full-width forms included.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_DEFUSED = ("'", *_FORMULA)
_QUOTED = re.compile(r'[",\r\n]')
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")

Row = TypeVar("Row", bound=Struct)
Document = TypeVar("Document", bound=Struct)


class Unreadable(ValueError):
    """A table or document that is not as it must be. ``row`` as a spreadsheet counts: 1 is the header; 0: all."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def to_csv(kind: type[Struct], rows: Iterable[Struct]) -> bytes:
    """Return a table with its header."""
    return BOM + header(kind) + b"".join(row_bytes(row) for row in rows)


def header(kind: type[Struct]) -> bytes:
    """Return the header's line."""
    return _line(kind.__struct_fields__)


def row_bytes(row: Struct) -> bytes:
    """Return one row's line. Raises ValueError for a text that is not Unicode."""
    values = zip(_columns(type(row)), msgspec.structs.astuple(row), strict=True)
    return _line([_cell(value) if read is _text else str(value) for (_, read), value in values])


def _line(cells: Sequence[str]) -> bytes:
    quoted = ['"' + cell.replace('"', '""') + '"' if _QUOTED.search(cell) else cell for cell in cells]
    return (",".join(quoted) + LINE_END).encode()


def _cell(text: str) -> str:
    return "'" + text if text.startswith(_DEFUSED) else text


def _text(cell: str) -> str:
    if cell.startswith("'"):
        return cell[1:]
    if cell.startswith(_FORMULA):
        raise ValueError(f"{cell[:40]!r} would be a formula in a spreadsheet: it lacks its apostrophe")
    return cell


def _integer(cell: str) -> int:
    if not _INTEGER.fullmatch(cell):
        raise ValueError(f"{cell[:40]!r} is not a whole number")
    return int(cell)


def _number(cell: str) -> str:
    return cell  # its form is checked with the row's


def read_csv(kind: type[Row], data: bytes) -> Iterator[Row]:
    """Yield the rows of a table that is written as ``to_csv`` writes it.

    Raises Unreadable at the first row that is not.
    """
    expected = BOM + header(kind)
    if not data.startswith(expected):
        raise Unreadable(1, _header_fault(kind, data))
    offset, number = len(expected), 1
    for number, cells in enumerate(_records(data, offset), 2):
        row = _row(kind, cells, number)
        if not data.startswith(written := row_bytes(row), offset):
            raise Unreadable(number, "it is not written as reports are (quotes, apostrophe or line end)")
        offset += len(written)
        yield row
    if offset != len(data):
        raise Unreadable(number, "something stands behind the last row")


def _records(data: bytes, offset: int) -> Iterator[list[str]]:
    try:
        text = data[offset:].decode()
    except UnicodeDecodeError as error:
        row = 2 + data.count(LINE_END.encode(), offset, offset + error.start)
        raise Unreadable(row, f"byte {offset + error.start} is not UTF-8") from None
    number = 1
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 2):
            if number > MOST_ROWS:
                raise Unreadable(number, f"no month has more than {MOST_ROWS} rows")
            yield cells
    except csv.Error as error:
        raise Unreadable(number + 1, f"it cannot be read as CSV: {error}") from None


def _row(kind: type[Row], cells: list[str], number: int) -> Row:
    columns = _columns(kind)
    if len(cells) != len(columns):
        raise Unreadable(number, f"it has {len(cells)} cells, not {len(columns)}")
    values = []
    for (name, read), cell in zip(columns, cells, strict=True):
        try:
            values.append(read(cell))
        except ValueError as error:
            raise Unreadable(number, f"{name}: {error}") from None
    try:
        return msgspec.convert(dict(zip(kind.__struct_fields__, values, strict=True)), kind)
    except msgspec.ValidationError as error:
        raise Unreadable(number, str(error)) from None


@cache
def _columns(kind: type[Struct]) -> tuple[tuple[str, Callable[[str], Any]], ...]:
    readers: dict[Any, Callable[[str], Any]] = {str: _text, Decimal: _number}
    return tuple((field.name, readers.get(field.type, _integer)) for field in msgspec.structs.fields(kind))


def _header_fault(kind: type[Struct], data: bytes) -> str:
    if not data.startswith(BOM):
        return (
            "it does not begin with the byte order mark of UTF-8: was it saved by a spreadsheet or an editor?"
        )
    return f"the columns must be {','.join(kind.__struct_fields__)}"


def to_json(document: Struct, indent: int = 0) -> bytes:
    """Return a document in canonical JSON: keys sorted, UTF-8, no number but integers, a line feed at the end.

    Without ``indent`` no spaces. Raises ValueError for what JSON cannot carry.
    """
    plain = msgspec.json.encode(document, order="sorted")
    return (msgspec.json.format(plain, indent=indent) if indent else plain) + b"\n"


def read_json(kind: type[Document], data: bytes, indent: int = 0) -> Document:
    """Return a document that is written as ``to_json`` writes it. Raises Unreadable.

    What is written otherwise (a key twice, spaces, another order) is refused: two programs could read it differently.
    """
    try:
        document = msgspec.json.decode(data, type=kind)
        written = to_json(document, indent)
    except (ValueError, RecursionError, OverflowError) as error:  # msgspec's errors are ValueErrors
        raise Unreadable(0, f"it cannot be read as what it must be: {error}") from None
    if written != data:
        at = next(
            (number for number, (a, b) in enumerate(zip(written, data, strict=False)) if a != b),
            min(len(written), len(data)),
        )
        raise Unreadable(0, f"byte {at} is not as reports are written (order, spaces, or a key given twice)")
    return document
