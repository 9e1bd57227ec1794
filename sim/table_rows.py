"""Rows of the measurement table: read as CSV, checked, and turned into ops.

`read_table` refuses a malformed table with all its faults. A row that is well formed but stands for work that
nobody can price raises SkippedError when it is turned into an op.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import cast, get_args

from calibration.table import COLLECTIVES, FLAGS, casts, family, fewer, is_count, number, out_dtype, word
from hardware.descriptor import DescriptorError
from workloads.errors import unknown
from workloads.ops import (
    DTYPE_BYTES,
    Attention,
    ComputeOp,
    Direction,
    Gemm,
    Layout,
    Pointwise,
    traffic_table,
)

__all__ = ["Row", "SkippedError", "compute_op", "count", "family", "ops", "out_dtype", "read_table"]

Row = dict[str, str]
NEEDED: Mapping[str, tuple[str, ...]] = {
    "gemm": ("dtype", "m", "n", "k"),
    "attention": ("dtype", "seq_q", "heads", "head_dim"),
    "pointwise": ("dtype", "rows", "cols"),
    "collective": ("ranks", "bytes"),
}
COUNTS = (
    *("batch", "m", "n", "k", "seq_q", "seq_kv", "heads", "kv_heads", "head_dim", "window", "rows", "cols"),
    *("ranks", "ranks_per_node"),
)
CHOICES: Mapping[str, tuple[str, ...]] = {
    "layout": get_args(Layout),
    "direction": get_args(Direction),
    "causal": tuple(FLAGS),
    "accumulate": tuple(FLAGS),
}


class SkippedError(ValueError):
    """Why a well-formed row has no price."""


def read_table(path: Path, needed: Sequence[str] = ()) -> tuple[tuple[str, ...], list[Row]]:
    """Columns and rows of a CSV file, checked; every row `needed` columns. Raises DescriptorError."""
    columns, rows = _parsed(path, _text(path))
    faults = [*_column_faults(columns, rows, needed)]
    faults = faults or [*chain.from_iterable(_row_faults(number, row) for number, row in enumerate(rows, 1))]
    if faults:
        raise DescriptorError(path, fewer(faults))
    return columns, rows


def ops() -> tuple[str, ...]:
    """Every word of the column `op`."""
    return ("gemm", "attention", *COLLECTIVES, *sorted({name for name, _ in traffic_table()}))


def compute_op(row: Row) -> ComputeOp:
    """The op of a row that has been checked; raises SkippedError."""
    if row["dtype"] not in DTYPE_BYTES:
        raise SkippedError(unknown("dtype", row["dtype"], DTYPE_BYTES))
    direction = cast(Direction, row.get("direction", "").lower() or "fwd")
    if row["op"] == "gemm":
        return _gemm(row)
    return (_attention if row["op"] == "attention" else _pointwise)(row, direction)


def count(row: Row, column: str, default: int = 1) -> int:
    """A whole number of a row that has been checked."""
    return int(float(row[column])) if row.get(column) else default


def _gemm(row: Row) -> Gemm:
    return Gemm(
        batch=count(row, "batch"),
        m=count(row, "m"),
        n=count(row, "n"),
        k=count(row, "k"),
        dtype=row["dtype"],
        layout=cast(Layout, row.get("layout", "").lower() or "tn"),
        out_dtype=row.get("out_dtype") or out_dtype(row["dtype"]),
        accumulate=FLAGS[word(row.get("accumulate", "")) or "no"],
        casts=casts(row["dtype"], row.get("kernel", ""), row.get("stack", "")),
    )


def _attention(row: Row, direction: Direction) -> Attention:
    return Attention(
        **{size: count(row, size) for size in ("batch", "seq_q", "heads", "head_dim")},
        seq_kv=count(row, "seq_kv", count(row, "seq_q")),
        kv_heads=count(row, "kv_heads", count(row, "heads")),
        dtype=row["dtype"],
        causal=FLAGS[word(row.get("causal", "")) or "yes"],
        window=count(row, "window", 0),
        direction=direction,
        kernel=row.get("kernel") or "flash",
    )


def _pointwise(row: Row, direction: Direction) -> Pointwise:
    if (row["op"], direction) not in traffic_table():
        raise SkippedError(f"{row['op']} has no direction {direction!r}")
    rows, cols = count(row, "rows"), count(row, "cols")
    return Pointwise(op=row["op"], rows=rows, cols=cols, dtype=row["dtype"], direction=direction)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DescriptorError(path, ["no such file"]) from None
    except IsADirectoryError:
        raise DescriptorError(path, ["is a folder; should be a CSV file"]) from None
    except UnicodeDecodeError as error:
        raise DescriptorError(path, [f"is not UTF-8 text (byte {error.start})"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DescriptorError(path, [f"cannot be read: {reason}"]) from None


def _parsed(path: Path, text: str) -> tuple[tuple[str, ...], list[Row]]:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if any(line)]
    except csv.Error as error:
        raise DescriptorError(path, [f"is not CSV: {error}"]) from None
    if len(lines) < 2:
        raise DescriptorError(path, ["is empty; should be a line of column names and a row for each measurement"])
    columns = tuple(name.strip() for name in lines[0])
    faults = [f"column {name!r} stands there twice" for name in dict.fromkeys(columns) if columns.count(name) > 1]
    faults += [
        f"row {place}: {len(line)} cells; the first line has {len(columns)}"
        for place, line in enumerate(lines[1:], 1)
        if len(line) != len(columns)
    ]
    if faults:
        raise DescriptorError(path, fewer(faults))
    return columns, [dict(zip(columns, map(str.strip, line), strict=True)) for line in lines[1:]]


def _column_faults(columns: Sequence[str], rows: list[Row], needed: Sequence[str]) -> Iterator[str]:
    wanted = dict.fromkeys(needed, "every row")
    for op in sorted({row.get("op", "") for row in rows}):
        for column in NEEDED.get(family(op), ()):
            wanted.setdefault(column, op)
    for column, op in wanted.items():
        if column not in columns:
            yield f"no column {column!r}, which {op} needs; columns: {', '.join(columns)}"[:300]


def _row_faults(place: int, row: Row) -> Iterator[str]:
    for column in NEEDED.get(family(row["op"]), ()):
        if not row[column]:
            yield f"row {place}: {column} is blank; {row['op']} needs it"
    for column in COUNTS:
        none = column == "window" and row.get(column) == "0"
        if row.get(column) and not is_count(row[column]) and not none:
            yield f"row {place}: {column} = {row[column][:40]!r}: should be a whole number of 1 or more"
    for column in ("bytes", "time_s"):
        if row.get(column) and not 0.0 < number(row[column]) < math.inf:
            yield f"row {place}: {column} = {row[column][:40]!r}: should be a number greater than 0"
    for column, known in CHOICES.items():
        if row.get(column) and word(row[column]) not in known:
            yield f"row {place}: {column} = {row[column][:40]!r}: should be one of {', '.join(known)}"
