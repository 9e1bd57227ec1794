"""Files to text, lines and numbers, with messages that name the line."""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from calibration.readers.record import ReaderError

HEAD_BYTES = 64 * 1024
LARGEST_BYTES = 4 << 30
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# What launchers put before the lines of a rank: `[1,0]<stdout>:`, `[0]:`, `[0] `, `0: `.
_PREFIX = re.compile(r"\[\d+(?:,\d+)?\](?:<std(?:out|err)>)?:?|^\s*\d+: ")


class Line(NamedTuple):
    """A line and its number, from one."""

    number: int
    text: str


class Row(NamedTuple):
    """A row of a table: column -> cell, stripped."""

    number: int
    cells: dict[str, str]


def head(path: Path) -> str:
    """The beginning of a file, unpacked; of a binary file what can be read as text."""
    try:
        with _opened(path) as file:
            return file.read(HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise ReaderError(path, _reason(error)) from None


def text(path: Path) -> str:
    """The whole file, unpacked. Raises ReaderError."""
    try:
        with _opened(path) as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ReaderError(path, _reason(error)) from None
    if len(content) > LARGEST_BYTES:
        raise ReaderError(path, f"has more than {LARGEST_BYTES >> 30} GiB, unpacked")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="replace")


def lines(path: Path) -> list[Line]:
    """The lines of a file without terminal colours."""
    plain = _ESCAPE.sub("", text(path))
    return [Line(number, line) for number, line in enumerate(plain.splitlines(), 1)]


def unprefixed(line: str) -> str:
    """A line without what a launcher has put before it, or into it, to say which rank wrote it."""
    return _PREFIX.sub("", line)


def cells(line: str) -> list[str]:
    """Cells of one line of CSV, stripped; empty where the quotes do not match."""
    try:
        found = next(csv.reader([line], strict=True, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [cell.strip() for cell in found]


def tables(
    path: Path, is_header: re.Pattern[str], keep: str = "", last_needed: str = ""
) -> Iterator[tuple[Line, list[Row]]]:
    """Every CSV table of a file: its header, found by its content, and its rows until the next gap.

    A line before a header is noise, and so is one that does not begin with `keep`. A row may be broken over
    lines inside quotes; a row with another number of cells than the header is a fault. Only what follows the
    column `last_needed` may be missing.
    """
    found = [line for line in lines(path) if line.text.startswith(keep)]
    at = 0
    while at < len(found):
        header = found[at]
        at += 1
        if is_header.search(header.text):
            rows, at = _rows(path, header, found, at, is_header, last_needed)
            yield header, rows


def number(path: Path, line: int, column: str, value: str) -> float:
    """A finite number; thousands commas are fine. Raises ReaderError."""
    plain = value.strip().replace("\u00a0", "").replace("\u202f", "")
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?", plain):
        plain = plain.replace(",", "")
    elif "," in plain:
        raise ReaderError(path, f"{column} = {value[:40]!r}: decimal comma; export with LC_ALL=C", line)
    try:
        result = float(plain)
    except ValueError:
        result = math.nan
    if not math.isfinite(result):
        raise ReaderError(path, f"{column} = {value[:40]!r}: should be a number", line)
    return result


def positive(path: Path, line: int, column: str, value: str) -> float:
    """A number above zero. Raises ReaderError."""
    result = number(path, line, column, value)
    if result <= 0:
        raise ReaderError(path, f"{column} = {value[:40]!r}: should be above zero", line)
    return result


def whole(path: Path, line: int, column: str, value: str) -> int:
    """A whole number above zero. Raises ReaderError."""
    result = positive(path, line, column, value)
    if result != int(result):
        raise ReaderError(path, f"{column} = {value[:40]!r}: should be a whole number", line)
    return int(result)


def _opened(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder; should be a file that a tool wrote"
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return f"is damaged: {error}"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _rows(
    path: Path, header: Line, found: list[Line], at: int, is_header: re.Pattern[str], last_needed: str
) -> tuple[list[Row], int]:
    columns = _columns(path, header)
    least = columns.index(last_needed) + 1 if last_needed in columns else len(columns)
    rows: list[Row] = []
    while at < len(found) and found[at].text.strip() and not is_header.search(found[at].text):
        line, at = _unbroken(path, found, at)
        values = cells(line.text)
        if least <= len(values) <= len(columns):
            padded = values + [""] * (len(columns) - len(values))
            rows.append(Row(line.number, dict(zip(columns, padded, strict=True))))
        elif len(values) > 1 or not _is_noise(line.text):
            fault = f"{len(values)} cells; the header in line {header.number} has {len(columns)}"
            raise ReaderError(path, f"{fault}: {line.text[:40]!r}", line.number)
    return rows, at


def _columns(path: Path, header: Line) -> list[str]:
    columns = cells(header.text)
    if not columns:
        raise ReaderError(path, f"{header.text[:60]!r} is no line of column names", header.number)
    for column in dict.fromkeys(columns):
        if column and columns.count(column) > 1:
            raise ReaderError(path, f"column {column!r} stands there twice", header.number)
    return columns


def _unbroken(path: Path, found: list[Line], at: int) -> tuple[Line, int]:
    """A row with the lines that belong to it because a quote is open."""
    number, joined = found[at]
    at += 1
    while joined.count('"') % 2:
        if at == len(found):
            raise ReaderError(path, "is cut off: a quote that is not closed", number)
        joined = f"{joined} {found[at].text}"
        at += 1
    return Line(number, joined), at


def _is_noise(value: str) -> bool:
    """A line of prose between two tables, as `Processing [...]`, and not the beginning of a row."""
    return bool(re.match(r"(==|\*\*|Processing|Generating|NOTICE|SKIPPED|WARNING|Exporting|#)", value))
