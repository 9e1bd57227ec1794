"""Nsight Compute, `ncu --csv`: the details page (a line for each metric) and the raw page (a line for each kernel).

Nsight Compute runs a kernel several times and holds the clock at its base: the times are comparable with each
other, not with a training run. The notes say so.
"""

import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from calibration.readers.kernels import Run, kernel_records, notes, short_name
from calibration.readers.record import Context, Import, ReaderError
from calibration.readers.text import Line, Row, cells, positive, tables
from calibration.readers.units import HERTZ, SECONDS
from calibration.table import Measurement

NAME = "ncu"
TITLE = "Nsight Compute, CSV of the details or the raw page"
_HEADER = re.compile(r'^"ID","Process ID",.*"Kernel Name"', re.MULTILINE)
DURATIONS = ("Duration", "gpu__time_duration.sum", "gpu__time_duration.avg")
CLOCKS = (
    "SM Frequency",
    "sm__cycles_elapsed.avg.per_second",
    "smsp__cycles_elapsed.avg.per_second",
    "gpc__cycles_elapsed.avg.per_second",
)
CLOCK_NOTE = "Nsight Compute holds the clock at its base and repeats kernels: no times of production"
# 2.000,00 or 2,5: a decimal comma, by which the points of other numbers would be thousands.
_DECIMAL_COMMA = re.compile(r"\d{1,3}(\.\d{3})+,\d+|\d+,(\d{1,2}|\d{4,})")


class _Metric(NamedTuple):
    row: Row
    name: str
    unit: str
    value: str


def claims(head: str, path: Path) -> bool:
    """Its header, or its own lines before a header that is further down."""
    del path
    return bool(_HEADER.search(head)) or (head.startswith("==PROF==") and '"ID"' in head)


def read(path: Path, context: Context) -> Import:
    """A row for each kernel that has a duration."""
    found = list(tables(path, _HEADER, keep='"', last_needed="Metric Value"))
    if not found:
        raise ReaderError(path, 'no header "ID","Process ID",...: export with --csv')
    times: dict[tuple[str, str], list[float]] = {}
    clocks: dict[tuple[str, str], list[float]] = {}
    kernels = {(header.number, row.cells["ID"]) for header, rows in found for row in rows if row.cells["ID"]}
    for header, rows in found:
        _check_locale(path, rows)
        for metric in _metrics(path, header, rows):
            kernel = (metric.row.cells["Kernel Name"], _place(metric.row))
            if metric.name in DURATIONS:
                times.setdefault(kernel, []).append(_value(path, metric, SECONDS))
            elif metric.name in CLOCKS and metric.unit.lower() in HERTZ:
                clocks.setdefault(kernel, []).append(_value(path, metric, HERTZ))
    if not times:
        raise ReaderError(path, f"no duration of any kernel: record one of {', '.join(DURATIONS)}", found[0][0].number)
    runs = (Run(name, seconds, place) for (name, place), each in times.items() for seconds in each)
    records = (_with_clock(record, times, clocks) for record in kernel_records(runs, context))
    missing = len(kernels) - sum(map(len, times.values()))
    said = (f"{missing:,} kernel{'s' * (missing > 1)} without a duration left out",) if missing > 0 else ()
    return Import(records=tuple(records), notes=(CLOCK_NOTE, *said))


def _metrics(path: Path, header: Line, rows: list[Row]) -> Iterator[_Metric]:
    names = cells(header.text)
    if "Metric Name" in names:
        yield from _long(path, header, names, rows)
    else:
        yield from _wide(path, rows)


def _long(path: Path, header: Line, names: list[str], rows: list[Row]) -> Iterator[_Metric]:
    if not {"Metric Unit", "Metric Value"} <= set(names):
        raise ReaderError(path, "no columns Metric Unit and Metric Value", header.number)
    seen: set[tuple[str, str]] = set()
    for row in rows:
        metric = _Metric(row, *(row.cells[f"Metric {what}"] for what in ("Name", "Unit", "Value")))
        known = _known(metric.name)
        if known and metric.value.lower() not in ("", "n/a", "nan") and (row.cells["ID"], known) not in seen:
            seen.add((row.cells["ID"], known))
            yield metric


def _known(metric: str) -> str:
    """A metric that several sections show counts once."""
    return "duration" if metric in DURATIONS else "clock" if metric in CLOCKS else ""


def _wide(path: Path, rows: list[Row]) -> Iterator[_Metric]:
    if not rows or rows[0].cells["ID"]:
        raise ReaderError(path, "no line of units below the header", rows[0].number if rows else None)
    units = rows[0].cells
    for row in rows[1:]:
        for names in (DURATIONS, CLOCKS):
            name = next((name for name in names if name in row.cells), "")
            if name and row.cells[name].lower() not in ("", "n/a", "nan"):
                yield _Metric(row, name, units[name], row.cells[name])


def _value(path: Path, metric: _Metric, units: Mapping[str, float]) -> float:
    if metric.unit.lower() not in units:
        raise ReaderError(path, f"{metric.name}: unknown unit {metric.unit!r}", metric.row.number)
    return positive(path, metric.row.number, metric.name, metric.value) * units[metric.unit.lower()]


def _check_locale(path: Path, rows: list[Row]) -> None:
    """Numbers of a locale with a decimal comma cannot be told from thousands one by one."""
    for row in rows:
        for name, cell in row.cells.items():
            if name not in ("Kernel Name", "Rule Description") and _DECIMAL_COMMA.fullmatch(cell):
                fault = f"{name} = {cell!r}: numbers with a decimal comma; export with LC_ALL=C"
                raise ReaderError(path, fault, row.number)


def _place(row: Row) -> str:
    return ", ".join(f"{title.lower()} {row.cells[title]}" for title in ("Device", "Stream") if row.cells.get(title))


def _with_clock(
    record: Measurement,
    times: Mapping[tuple[str, str], list[float]],
    clocks: Mapping[tuple[str, str], list[float]],
) -> Measurement:
    for name, place in times:
        if (short_name(name), notes(place, name)) == (record.kernel, record.notes) and clocks.get((name, place)):
            return replace(record, sm_clock_hz=statistics.median(clocks[name, place]))
    return record
