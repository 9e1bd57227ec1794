"""What the output of hipblaslt-bench and of rocblas-bench has in common: a header and rows of values, repeated.

A header may stand behind the prefix of a rank, and headers and rows may be broken over lines that end in a
comma. BLAS counts rows and columns column by column: its m is the n of the table, and its A the weights.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from calibration.readers.record import Context, ReaderError
from calibration.readers.text import Line, Row, lines, number, positive, unprefixed, whole
from calibration.table import Measurement

# BLAS names of types -> those of the table; fp8 in both encodings.
DTYPES = {
    **dict.fromkeys(("bf16_r", "bf16"), "bf16"),
    **dict.fromkeys(("f16_r", "h", "f16"), "fp16"),
    **dict.fromkeys(("f32_r", "s", "f32"), "fp32"),
    **dict.fromkeys(("xf32_r", "xf32"), "tf32"),
    **dict.fromkeys(("f8_r", "bf8_r", "f8_fnuz_r", "bf8_fnuz_r", "fp8", "bf8"), "fp8"),
}
_HEADER = re.compile(r"^\s*transA,\s*transB,")
_BROKEN = re.compile(r",\s*$")
_ROW = re.compile(r"^\s*[NTCntc],\s*[NTCntc],")


def problems(path: Path, tool: str, take: Callable[[Line], None] = lambda _: None) -> Iterator[Row]:
    """Values by column, header and rows of `tool` paired; `take` sees the lines in between."""
    columns: list[str] = []
    found = lines(path)
    at = 0
    while at < len(found):
        line, at = _joined(found, at)
        if _HEADER.match(line.text):
            columns = _cells(line.text)
        elif _ROW.match(line.text):
            yield _row(path, line, columns, tool)
        else:
            take(line)


def value(row: Row, *names: str) -> str:
    """The cell of the first of the columns that is there, in small or capital letters; empty if none is."""
    small = {name.lower(): cell for name, cell in row.cells.items()}
    return next((small[name.lower()] for name in names if name.lower() in small), "")


def gemm(path: Path, row: Row, dtype: str, context: Context, notes: str | None) -> Measurement | str:
    """The row of a GEMM, or why there is none."""
    layout = "".join(value(row, f"trans{side}").lower().replace("c", "t") for side in "AB")
    if layout == "tt":
        return "both inputs transposed: the table has no such layout"
    time = value(row, "us")
    if not re.match(r"[\d.]", time):
        return f"time is {time!r}" if time else "no time"
    sizes = {name: whole(path, row.number, name, value(row, name)) for name in ("m", "n", "k")}
    batch = whole(path, row.number, "batch_count", value(row, "batch_count") or "1")
    seconds = positive(path, row.number, "us", time) * 1e-6
    _check_rate(path, row, 2 * batch * sizes["m"] * sizes["n"] * sizes["k"], seconds)
    return Measurement(
        op="gemm",
        dtype=dtype,
        device=context.device or "",
        stack=context.stack or "",
        batch=batch,
        m=sizes["n"],
        n=sizes["m"],
        k=sizes["k"],
        layout=layout,
        time_s=seconds,
        notes=notes,
    )


def _joined(found: list[Line], at: int) -> tuple[Line, int]:
    """A line with those that continue it."""
    first = found[at]
    joined = unprefixed(first.text)
    at += 1
    while at < len(found) and _BROKEN.search(joined) and (_HEADER.match(joined) or _ROW.match(joined)):
        joined = joined.rstrip() + unprefixed(found[at].text).strip()
        at += 1
    return Line(first.number, joined), at


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(",")]


def _row(path: Path, line: Line, columns: list[str], tool: str) -> Row:
    values = _cells(line.text)
    if not columns:
        raise ReaderError(path, "values before the header transA,transB,...", line.number)
    if "us" not in columns or not {"m", "n", "k"} <= {column.lower() for column in columns}:
        raise ReaderError(path, f"no columns m, n, k and us; columns: {', '.join(columns)}", line.number)
    if f"{tool}-Gflops" not in columns:
        raise ReaderError(path, f"no column {tool}-Gflops: the output of another tool", line.number)
    if len(values) != len(columns):
        raise ReaderError(path, f"{len(values)} values; the header has {len(columns)} columns", line.number)
    return Row(line.number, dict(zip(columns, values, strict=True)))


def _check_rate(path: Path, row: Row, flops: float, seconds: float) -> None:
    """The tool's own Gflops; it also counts activations, which are left alone."""
    stated = value(row, "hipblaslt-Gflops", "rocblas-Gflops")
    if not re.match(r"\d", stated) or value(row, "activation_type") not in ("", "none"):
        return
    rate, gflops = flops / seconds / 1e9, number(path, row.number, "Gflops", stated)
    if abs(rate - gflops) > 0.005 * rate:
        fault = f"{gflops:g} Gflops do not fit {flops:g} FLOPs in {seconds * 1e6:g} us: the row is damaged"
        raise ReaderError(path, fault, row.number)
