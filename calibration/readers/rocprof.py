"""What the CSV files of rocprof and of rocprofv3 have in common."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from calibration.readers.kernels import Run, notes, short_name
from calibration.readers.record import Context, ReaderError
from calibration.readers.text import Row, number, whole
from calibration.table import Measurement

# Host functions of HIP, HSA and the compiler's start-up code, and sums by domain (KERNEL_DISPATCH): no kernels.
API = re.compile(r"_*(hip[A-Z]|hsa_|roctx|rocblas_|hsaKmt)\w*|[A-Z]+(_[A-Z]+)+")


def keys(row: Row) -> dict[str, str]:
    """Cells by column name in small letters without `_` and `-`: versions differ in nothing else."""
    return {re.sub(r"[^a-z0-9]", "", name.lower()): cell for name, cell in row.cells.items()}


def duration_s(path: Path, row: Row, start: str, end: str) -> float:
    """End less start, both in nanoseconds."""
    at = keys(row)
    begin_ns, end_ns = (_nanoseconds(path, row, each, at.get(each, "")) for each in (start, end))
    if end_ns < begin_ns or begin_ns == 0:
        raise ReaderError(path, f"ends at {end_ns} and starts at {begin_ns} ns: no time of a kernel", row.number)
    return (end_ns - begin_ns) * 1e-9


def place(row: Row, columns: Mapping[str, str]) -> str:
    """`columns`: key -> its word; those that are there."""
    at = keys(row)
    words = ((word, at.get(key, "").removeprefix("Agent ")) for key, word in columns.items())
    return ", ".join(f"{word} {value}" for word, value in words if value)


def summary(path: Path, rows: Sequence[Row], context: Context) -> Iterator[Measurement]:
    """Rows of a table of statistics: Name, Calls, TotalDurationNs, AverageNs."""
    for row in rows:
        at = keys(row)
        calls = whole(path, row.number, "Calls", at["calls"])
        total, mean = (number(path, row.number, each, at[each]) for each in ("totaldurationns", "averagens"))
        if abs(calls * mean - total) > 0.01 * total + calls:
            fault = f"{calls} calls of {mean:g} ns are not {total:g} ns in all: the row is damaged"
            raise ReaderError(path, fault, row.number)
        yield Measurement(
            op="kernel",
            device=context.device or "",
            stack=context.stack or "",
            kernel=short_name(at["name"]),
            time_s=total / calls * 1e-9,
            samples=calls,
            notes=notes("mean", at["name"]),
        )


def is_api(rows: Sequence[Row]) -> bool:
    """Whether a table of statistics is of host functions or of domains."""
    return bool(rows) and all(API.fullmatch(keys(row)["name"]) for row in rows)


def runs(path: Path, rows: Sequence[Row], start: str, end: str, columns: Mapping[str, str]) -> Iterator[Run]:
    """One for each row of a trace of kernels."""
    for row in rows:
        name = keys(row).get("kernelname")
        if not name:
            raise ReaderError(path, "no name of the kernel", row.number)
        yield Run(name, duration_s(path, row, start, end), place(row, columns))


def _nanoseconds(path: Path, row: Row, column: str, value: str) -> int:
    if not value.isdigit():
        raise ReaderError(path, f"{column} = {value[:40]!r}: should be nanoseconds", row.number)
    return int(value)
