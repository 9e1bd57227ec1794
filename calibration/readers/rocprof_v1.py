"""rocprof (the first), `results.csv` and `results.stats.csv`.

Older versions write fewer columns; kernel times are there only with `--timestamp on` or `--stats`.
"""

import re
from pathlib import Path

from calibration.readers import rocprof
from calibration.readers.kernels import kernel_records
from calibration.readers.record import Context, Import, ReaderError
from calibration.readers.text import Line, Row, tables
from calibration.table import Measurement

NAME = "rocprof-v1"
TITLE = "rocprof (ROCm 3 to 6), results.csv and results.stats.csv"
_HEADER = re.compile(
    r'^"?Index"?,"?KernelName"?,|^"?Name"?,"?Calls"?,"?TotalDurationNs"?,"?AverageNs"?,"?Percentage"?\s*$',
    re.MULTILINE,
)
PLACE = {"gpuid": "device", "queueid": "queue"}


def claims(head: str, path: Path) -> bool:
    """The header of one of its two tables."""
    del path
    return bool(_HEADER.search(head))


def read(path: Path, context: Context) -> Import:
    """A row for each kernel."""
    records: list[Measurement] = []
    said: list[str] = []
    for header, rows in tables(path, _HEADER):
        if "KernelName" in header.text:
            records += _kernels(path, header, rows, context)
        elif rocprof.is_api(rows):
            said.append(f"line {header.number}: statistics of host functions, no kernels")
        else:
            records += rocprof.summary(path, rows, context)
    return Import(records=tuple(records), notes=tuple(said))


def _kernels(path: Path, header: Line, rows: list[Row], context: Context) -> tuple[Measurement, ...]:
    if rows and not {"beginns", "endns"} <= set(rocprof.keys(rows[0])):
        raise ReaderError(path, "no columns BeginNs and EndNs: run rocprof with --timestamp on", header.number)
    for row in rows:
        _check_duration(path, row)
    return kernel_records(rocprof.runs(path, rows, "beginns", "endns", PLACE), context)


def _check_duration(path: Path, row: Row) -> None:
    stated = rocprof.keys(row).get("durationns")
    seconds = rocprof.duration_s(path, row, "beginns", "endns")
    if stated is not None and (not stated.isdigit() or abs(int(stated) * 1e-9 - seconds) > 2e-9):
        fault = f"DurationNs = {stated[:20]!r} is not EndNs - BeginNs = {seconds * 1e9:.0f}: the row is damaged"
        raise ReaderError(path, fault, row.number)
