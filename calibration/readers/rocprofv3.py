"""rocprofv3, CSV: traces and statistics of kernels and memory copies, of all versions from ROCm 6.2 on.

Also what `rocpd2csv` makes of the newer SQLite output. Traces of host functions hold no kernels.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from calibration.readers import rocprof
from calibration.readers.kernels import Run, kernel_records
from calibration.readers.record import Context, Import, ReaderError
from calibration.readers.text import Line, Row, cells, tables
from calibration.table import Measurement

NAME = "rocprofv3"
TITLE = "rocprofv3, CSV"
_HEADER = re.compile(
    r'^"?(?:Guid"?,"?)?(?:Kind"?,"?(?:Agent_Id|Direction|Stream_Id)|Domain"?,"?Function|Correlation_Id"?,"?Dispatch_Id'
    r'|Name"?,"?Calls"?,"?TotalDurationNs"?,"?AverageNs"?,"?Percentage"?,"?Min)',
    re.IGNORECASE | re.MULTILINE,
)
PLACE = {"agentid": "device", "streamid": "stream", "queueid": "queue"}


def claims(head: str, path: Path) -> bool:
    """The header of one of its tables."""
    del path
    return bool(_HEADER.search(head))


def read(path: Path, context: Context) -> Import:
    """A row for each kernel, and for each direction of copies."""
    records: list[Measurement] = []
    said: list[str] = []
    for header, rows in tables(path, _HEADER):
        found = _table(path, header, rows, context)
        records += found if isinstance(found, tuple) else ()
        said += [found] if isinstance(found, str) else []
    return Import(records=tuple(records), notes=tuple(said))


def _table(path: Path, header: Line, rows: list[Row], context: Context) -> tuple[Measurement, ...] | str:
    """The records of one table, or why it has none."""
    if not rows:
        return f"line {header.number}: a table without rows"
    names = {re.sub(r"[^a-z]", "", name.lower()) for name in cells(header.text)}
    timed = {"starttimestamp", "endtimestamp"} <= names
    if "function" in names or ("calls" in names and rocprof.is_api(rows)):
        return f"line {header.number}: times of host functions, no kernels"
    if "calls" in names:
        return tuple(rocprof.summary(path, rows, context))
    if "kernelname" in names and timed:
        if "countername" in names:
            rows = _dispatches(rows)
        return kernel_records(rocprof.runs(path, rows, "starttimestamp", "endtimestamp", PLACE), context)
    if "countername" in names:
        return f"line {header.number}: counters without times"
    if "direction" in names and timed:
        return kernel_records(_copies(path, rows), context)
    raise ReaderError(path, f"no table of rocprofv3 that is known: {header.text[:80]}", header.number)


def _dispatches(rows: list[Row]) -> list[Row]:
    """Once each, of a table with a row for each counter of each."""
    return list({rocprof.keys(row).get("dispatchid", row.number): row for row in rows}.values())


def _copies(path: Path, rows: list[Row]) -> Iterator[Run]:
    for row in rows:
        way = rocprof.keys(row)["direction"].removeprefix("MEMORY_COPY_").replace("_", " ").lower()
        yield Run(f"memcpy {way}", rocprof.duration_s(path, row, "starttimestamp", "endtimestamp"))
