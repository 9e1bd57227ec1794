"""The measurement table: one CSV, a row for each measured shape, blank where a column does not apply.

The columns are the fields of `Measurement`. Capture and the importers write it row by row; the fit and the
evaluation read it. A row without `time_s` stands for a shape that could not be measured, and `notes` say why.
"""

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from hardware.descriptor import DescriptorError, unknown
from workloads.ops import (
    DTYPE_BYTES,
    Attention,
    Collective,
    CollectiveKind,
    Direction,
    Gemm,
    Layout,
    MeasuredOp,
    Pointwise,
    Transfer,
    traffic_table,
)

Mode = Literal["burst", "sustained", "loop"]
MOST_FAULTS = 20
LARGEST = 10**15
COLLECTIVES: tuple[str, ...] = (*get_args(CollectiveKind), "send_recv")
# A GEMM of 8 or 4 bits may have been timed with the cast of its input, as a linear layer: rows whose kernel says so,
# and those of aiconfigurator, which times such layers (collector/trtllm/collect_gemm.py and .../vllm/collect_gemm.py)
LINEAR, LINEAR_STACKS = "linear", ("aiconfigurator",)
FLAGS = {"1": True, "0": False, "true": True, "false": False, "yes": True, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row: a shape, where it ran, and how long it took. None where a column does not apply.

    Args:
        op: gemm, attention, a collective or send_recv, a kernel of `workloads/pointwise.toml`; also
            grouped_gemm, memcpy, host, overlap and between, which no Op stands for.
        stack: the software, as in torch-2.11-cu130.
        n: columns of a GEMM; of an embedding the rows of its table.
        out_dtype: of a GEMM; blank: the usual one of its inputs.
        accumulate: whether a GEMM adds to what it writes, as a fused gradient accumulation does.
        kernel: which one of several did it (flash2, cudnn; eager, compile; host_to_device); linear: a GEMM of 8 or 4
            bits with the cast of its input.
        rows, cols: of the tensor; of an optimizer, how many parameter tensors of how many elements.
        bytes: of a message, as the size column of nccl-tests counts them; of a copy.
        time_s: median; of a sustained run the mean of its end. None: could not be measured, see notes.
        power_w, sm_clock_hz: board power and clock while it ran.
        time_p10_s, time_p90_s: percentiles over the samples.
        mode: burst, a few launches of a cool device with cold caches; sustained, a long run under load; loop, launches
            back to back at a clock that depends on what ran before: listed, but nothing is fitted to it.
    """

    op: str
    dtype: str = ""
    device: str = ""
    stack: str = ""
    batch: int | None = None
    m: int | None = None
    n: int | None = None
    k: int | None = None
    layout: str | None = None
    out_dtype: str | None = None
    accumulate: bool | None = None
    seq_q: int | None = None
    seq_kv: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    causal: bool | None = None
    direction: str | None = None
    kernel: str | None = None
    rows: int | None = None
    cols: int | None = None
    ranks: int | None = None
    ranks_per_node: int | None = None
    bytes: float | None = None
    time_s: float | None = None
    power_w: float | None = None
    sm_clock_hz: float | None = None
    samples: int | None = None
    time_p10_s: float | None = None
    time_p90_s: float | None = None
    mode: str = "burst"
    notes: str | None = None


COLUMNS = tuple(field.name for field in fields(Measurement))
ADDED_LATER = ("out_dtype", "accumulate")  # tables of before go on without them
RESULTS = ("time_s", "power_w", "sm_clock_hz", "samples", "time_p10_s", "time_p90_s", "notes")
IDENTITY = tuple(name for name in COLUMNS if name not in RESULTS)
TEXTS = ("op", "dtype", "device", "stack", "out_dtype", "kernel", "notes")
NUMBERS = ("bytes", *(name for name in RESULTS if name not in ("samples", "notes")))
CHOICES: Mapping[str, tuple[str, ...]] = {
    "layout": get_args(Layout),
    "direction": get_args(Direction),
    "mode": get_args(Mode),
}
YES_OR_NO = ("accumulate", "causal")
COUNTS = tuple(name for name in COLUMNS if name not in (*TEXTS, *NUMBERS, *CHOICES, *YES_OR_NO))


def key(measurement: Measurement) -> tuple[Any, ...]:
    """What was measured, without the results: rows of equal keys repeat each other."""
    return tuple(getattr(measurement, name) for name in IDENTITY)


def read_table(path: str | Path) -> list[Measurement]:
    """The rows of a file. Raises DescriptorError with all its faults, by line and column."""
    reader = csv.reader(io.StringIO(_text(Path(path)), newline=""), strict=True)
    faults, rows = list[str](), list[Measurement]()
    try:
        columns = [name.strip() for name in next(reader, [])]
        faults += _column_faults(columns)
        for cells in reader if not faults else ():
            if any(cells):
                row, wrong = _row(columns, cells, f"line {reader.line_num}")
                faults += wrong
                rows += [row] if row else []
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: is not CSV: {error}")
    if faults:
        raise DescriptorError(path, fewer(faults))
    return rows


def append(path: str | Path, rows: Iterable[Measurement]) -> None:
    """Add rows at the end, each on disk before the next; the header comes first into a new file.

    What a kill left of a last line is removed. Raises DescriptorError for a file of other columns, and for a row that
    needs a column which an older file has not.
    """
    repair(path)
    columns = _header(Path(path))
    with Path(path).open("a", encoding="utf-8", newline="") as file:
        if file.tell() == 0:
            _flushed(file, ",".join(columns) + "\n")
        for row in rows:
            lacking = [name for name in COLUMNS if name not in columns and getattr(row, name) is not None]
            if lacking:
                raise DescriptorError(path, [f"line 1: has no column {lacking[0]!r}, which {row.op} rows need"])
            _flushed(file, line(row, columns))


def repair(path: str | Path) -> None:
    """Cut off a last line that does not end: a kill came while it was written."""
    file = Path(path)
    if not file.exists():
        return
    data = file.read_bytes()[-65536:]
    if data and not data.endswith(b"\n"):
        os.truncate(file, file.stat().st_size - len(data) + data.rfind(b"\n") + 1)


def line(row: Measurement, columns: Sequence[str] = COLUMNS) -> str:
    """A row as CSV; times keep four digits, which is less than they scatter."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(_cell(name, getattr(row, name)) for name in columns)
    return out.getvalue()


def op_of(measurement: Measurement) -> MeasuredOp | None:
    """The op that a cost model prices; None for a row of something else (host times, copies to the host)."""
    makers: Mapping[str, Callable[[Measurement], MeasuredOp | None]] = {
        "gemm": _gemm,
        "attention": _attention,
        "pointwise": _pointwise,
        "collective": _collective,
    }
    kind = family(measurement.op)
    if not kind or (kind != "collective" and measurement.dtype not in DTYPE_BYTES):
        return None
    return makers[kind](measurement)


def family(op: str) -> str:
    """gemm, attention, pointwise or collective; empty for an unknown op."""
    if op in ("gemm", "attention"):
        return op
    if op in COLLECTIVES:
        return "collective"
    return "pointwise" if op in kernels() else ""


@cache
def kernels() -> frozenset[str]:
    """The names of `workloads/pointwise.toml`."""
    return frozenset(name for name, _ in traffic_table())


def out_dtype(dtype: str) -> str:
    """What a GEMM writes by default: its own type if that has 16 or 32 bits, else bf16."""
    return {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16"}.get(dtype, "bf16")


def number(text: str) -> float:
    """Not a number where the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def casts(dtype: str, kernel: str, stack: str) -> bool:
    """Whether the timer of a GEMM was around the cast of its input as well."""
    return DTYPE_BYTES[dtype] < 2 and (kernel == LINEAR or (not kernel and stack in LINEAR_STACKS))


def is_count(text: str) -> bool:
    """Whether a cell holds a whole number of 1 or more."""
    value = number(text)
    return value.is_integer() and 1 <= value <= LARGEST


def fewer(faults: list[str]) -> list[str]:
    """The first faults, and how many more there are."""
    left = len(faults) - MOST_FAULTS
    return [*faults[:MOST_FAULTS], f"and {left:,} more such faults"] if left > 0 else faults


def _gemm(row: Measurement) -> Gemm | None:
    written = row.out_dtype or out_dtype(row.dtype)
    if not (row.m and row.n and row.k) or written not in DTYPE_BYTES:
        return None
    return Gemm(
        batch=row.batch or 1,
        m=row.m,
        n=row.n,
        k=row.k,
        dtype=row.dtype,
        layout=cast(Layout, row.layout or "tn"),
        out_dtype=written,
        accumulate=row.accumulate is True,
        casts=casts(row.dtype, row.kernel or "", row.stack),
    )


def _attention(row: Measurement) -> Attention | None:
    if not (row.seq_q and row.heads and row.head_dim):
        return None
    return Attention(
        batch=row.batch or 1,
        seq_q=row.seq_q,
        seq_kv=row.seq_kv or row.seq_q,
        heads=row.heads,
        kv_heads=row.kv_heads or row.heads,
        head_dim=row.head_dim,
        dtype=row.dtype,
        causal=row.causal is not False,
        direction=cast(Direction, row.direction or "fwd"),
        kernel=row.kernel or "flash",
    )


def _pointwise(row: Measurement) -> Pointwise | None:
    direction = cast(Direction, row.direction or "fwd")
    if not (row.rows and row.cols) or (row.op, direction) not in traffic_table():
        return None
    return Pointwise(op=row.op, rows=row.rows, cols=row.cols, dtype=row.dtype, direction=direction)


def _collective(row: Measurement) -> Collective | Transfer | None:
    """With ranks next to each other, as one process a GPU in the order of a node gives them."""
    if not (row.ranks and row.bytes):
        return None
    if row.op == "send_recv":
        return Transfer(bytes=row.bytes, stride=1, ranks=row.ranks)
    kind = cast(CollectiveKind, row.op)
    return Collective(op=kind, bytes=row.bytes, ranks=row.ranks, dtype=row.dtype or "bf16")


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DescriptorError(path, ["no such file"]) from None
    except UnicodeDecodeError as error:
        raise DescriptorError(path, [f"is not UTF-8 text (byte {error.start})"]) from None
    except OSError as error:
        raise DescriptorError(path, [f"cannot be read: {error.strerror}"]) from None
    if not text.strip():
        raise DescriptorError(path, ["is empty; should be a line of column names and a row for each measurement"])
    return text


def _column_faults(columns: list[str]) -> Iterator[str]:
    for name in dict.fromkeys(columns):
        if name not in COLUMNS:
            yield f"line 1: {unknown('column', name, COLUMNS)}"
        elif columns.count(name) > 1:
            yield f"line 1: column {name!r} stands there twice"
    yield from (f"line 1: no column {name!r}" for name in ("op", "time_s") if name not in columns)


def _row(columns: list[str], cells: list[str], where: str) -> tuple[Measurement | None, list[str]]:
    """A row, or its faults."""
    if len(cells) != len(columns):
        return None, [f"{where}: {len(cells)} cells; the first line has {len(columns)}"]
    values, faults = dict[str, Any](), list[str]()
    for name, text in zip(columns, map(str.strip, cells), strict=True):
        try:
            values.update({name: _value(name, text)} if text else {})
        except ValueError as error:
            faults.append(f"{where}, column {name} = {text[:40]!r}: should be {error}")
    if not values.get("op"):
        faults.append(f"{where}, column op: is blank; should be gemm, attention, a collective or a kernel")
    if "time_s" not in values and "notes" not in values and not faults:
        faults.append(f"{where}, column time_s: is blank; notes should say why, as in 'out of memory'")
    return (None, faults) if faults else (Measurement(**values), faults)


def word(text: str) -> str:
    """A cell that is one of a few words, in small letters; flags as pandas writes them (1.0) without their point."""
    return text.lower().removesuffix(".0")


def _value(name: str, text: str) -> Any:
    """A cell; ValueError says what it should be."""
    if name in TEXTS:
        return text
    if name in COUNTS:
        return _checked(is_count(text), "a whole number of 1 or more", lambda: int(float(text)))
    if name in NUMBERS:
        return _checked(0.0 < number(text) < math.inf, "a number greater than 0", lambda: number(text))
    known = tuple(FLAGS) if name in YES_OR_NO else CHOICES[name]
    return _checked(word(text) in known, f"one of {', '.join(known)}", lambda: FLAGS.get(word(text), word(text)))


def _checked(right: bool, should_be: str, value: Callable[[], Any]) -> Any:
    if not right:
        raise ValueError(should_be)
    return value()


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.0f}" if name == "bytes" else f"{value:.4g}"
    return " ".join(str(value).split())


def _header(path: Path) -> Sequence[str]:
    """The columns of a file: its own, or those that a new one gets."""
    if not path.exists() or path.stat().st_size == 0:
        return COLUMNS
    with path.open(encoding="utf-8") as file:
        columns = file.readline().strip().split(",")
    if columns not in (list(COLUMNS), [name for name in COLUMNS if name not in ADDED_LATER]):
        raise DescriptorError(path, [f"line 1: has other columns; should be {','.join(COLUMNS)}"])
    return columns


def _flushed(file: io.TextIOWrapper, text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def failed(shape: Measurement, why: str) -> Measurement:
    """The row of a shape that could not be measured."""
    return replace(shape, time_s=None, samples=None, notes=why)
