"""Nsight Systems, `nsys stats --format csv`: the kernel summary and the trace of the GPU.

Preamble, several reports in one file and other reports are passed over. Columns are found by their names, units
are read from the parentheses behind them.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from calibration.readers.kernels import Run, kernel_records, notes, short_name
from calibration.readers.record import Context, Import, ReaderError
from calibration.readers.text import Line, Row, cells, number, positive, tables, text, whole
from calibration.readers.units import SECONDS
from calibration.table import Measurement

NAME = "nsys-csv"
TITLE = "Nsight Systems, CSV of cuda_gpu_kern_sum or cuda_gpu_trace"
_HEADER = re.compile(r'^\s*"?(?:Time ?\(%\)|Start ?\(\w+\)|Total ?\(\w+\))"?\s*,', re.IGNORECASE | re.MULTILINE)
_COLUMNS_FORMAT = re.compile(r"^ *(?:Time ?\(%\)|Start ?\(\w+\)) {2,}\S", re.MULTILINE)
# Our word -> how the versions name it; a unit in parentheses may follow.
SUMMARY = {
    "total": r"Total Time",
    "count": r"Instances",
    "mean": r"Avg|Average",
    "median": r"Med|Median",
    "name": r"Name",
}
TRACE = {
    "duration": r"Duration",
    "grid": r"Grd ?X",
    "bytes": r"Bytes",
    "device": r"Device",
    "stream": r"Strm|Stream",
    "name": r"Name",
}


def claims(head: str, path: Path) -> bool:
    """A header of one of its reports."""
    del path
    return bool(_HEADER.search(head) or _COLUMNS_FORMAT.search(head))


def read(path: Path, context: Context) -> Import:
    """A row for each kernel: the summary's median (mean where it has none), or the median of the trace."""
    records: list[Measurement] = []
    said: list[str] = []
    found = list(tables(path, _HEADER))
    if not found:
        raise ReaderError(path, "no header of a CSV report: export with nsys stats --format csv")
    _check_end(path)
    for header, rows in found:
        kind = _kind(header)
        if kind is SUMMARY:
            records += _summary(path, header, rows, context)
        elif kind is TRACE:
            records += kernel_records(_trace(path, header, rows), context)
        else:
            said.append(f"line {header.number}: a report of another kind passed over ({header.text[:50]}...)")
    return Import(records=tuple(records), notes=tuple(said))


def _check_end(path: Path) -> None:
    """Rows end with a name, of which nobody can tell whether it is whole."""
    content = text(path)
    if not content.endswith("\n"):
        raise ReaderError(path, "the last line does not end: was the file cut off?", content.count("\n") + 1)


def _kind(header: Line) -> Mapping[str, str] | None:
    names = [_plain(cell) for cell in cells(header.text)]
    if "instances" in names and names[-1] == "name":
        return SUMMARY
    if {"duration", "grdx", "name"} <= {name.replace(" ", "") for name in names}:
        return TRACE
    return None


def _plain(column: str) -> str:
    return re.sub(r"\s*\(.*", "", column).strip().lower()


def _columns(path: Path, header: Line, wanted: Mapping[str, str]) -> dict[str, str]:
    """Our word -> the column's full name, where there is one."""
    names = cells(header.text)
    found = {
        word: next((name for name in names if re.fullmatch(pattern, _plain(name), re.IGNORECASE)), "")
        for word, pattern in wanted.items()
    }
    for word in ("total", "count", "mean", "duration", "name"):
        if word in wanted and not found[word]:
            raise ReaderError(path, f"no column {wanted[word]!r}; columns: {', '.join(names)}", header.number)
    return found


def _unit(path: Path, header: Line, column: str) -> float:
    """Seconds in the unit of a column; old versions name none and write nanoseconds."""
    unit = re.search(r"\(([^)]*)\)", column)
    if unit and unit[1] not in SECONDS:
        raise ReaderError(path, f"column {column!r}: unknown unit {unit[1]!r}", header.number)
    return SECONDS[unit[1]] if unit else 1e-9


def _summary(path: Path, header: Line, rows: list[Row], context: Context) -> Iterator[Measurement]:
    columns = _columns(path, header, SUMMARY)
    typical = columns["median"] or columns["mean"]
    for row in rows:
        count = whole(path, row.number, columns["count"], row.cells[columns["count"]])
        _check_total(path, header, row, columns, count)
        value = positive(path, row.number, typical, row.cells[typical])
        name = row.cells[columns["name"]]
        yield Measurement(
            op="kernel",
            device=context.device or "",
            stack=context.stack or "",
            kernel=short_name(name),
            time_s=value * _unit(path, header, typical),
            samples=count,
            notes=notes("" if columns["median"] else "mean", name),
        )


def _check_total(path: Path, header: Line, row: Row, columns: Mapping[str, str], count: int) -> None:
    total_s, mean_s = (
        number(path, row.number, columns[word], row.cells[columns[word]]) * _unit(path, header, columns[word])
        for word in ("total", "mean")
    )
    if abs(mean_s * count - total_s) > 0.01 * total_s + 1e-9 * count:
        fault = f"{count} times the mean is {mean_s * count:g} s, but the total is {total_s:g} s: the row is damaged"
        raise ReaderError(path, fault, row.number)


def _trace(path: Path, header: Line, rows: list[Row]) -> Iterator[Run]:
    columns = _columns(path, header, TRACE)
    unit_s = _unit(path, header, columns["duration"])
    for row in rows:
        value = number(path, row.number, columns["duration"], row.cells[columns["duration"]])
        if value < 0:
            raise ReaderError(path, f"{columns['duration']} = {value:g}: below zero", row.number)
        yield Run(row.cells[columns["name"]], value * unit_s, _place(row, columns))


def _place(row: Row, columns: Mapping[str, str]) -> str:
    """Stream, device, and the size of a copy as it is printed (rounded, so no number of ours)."""
    parts = []
    for word, title in (("device", ""), ("stream", "stream ")):
        if row.cells.get(columns[word]):
            parts.append(title + row.cells[columns[word]])
    if not row.cells[columns["grid"]] and row.cells.get(columns["bytes"]):
        unit = re.search(r"\(([^)]*)\)", columns["bytes"])
        parts.append(f"{row.cells[columns['bytes']]} {unit[1] if unit else 'bytes'}")
    return ", ".join(parts)
