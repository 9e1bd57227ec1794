"""CUTLASS profiler: its CSV, in a file (`--output`) or at the end of what it prints.

It tries many kernels for a problem; the fastest that is right stands for the problem, as a library would choose it.
"""

import re
from collections import Counter
from pathlib import Path

from calibration.readers.record import Context, Import, ReaderError, skipped
from calibration.readers.text import Row, number, positive, tables, whole
from calibration.table import Measurement, out_dtype

NAME = "cutlass-profiler"
TITLE = "CUTLASS profiler, CSV"
_HEADER = re.compile(r"^(?:[^\n]*,)?Problem,Provider,OperationKind,Operation,Disposition,Status,", re.MULTILINE)
DTYPES = {
    "f16": "fp16",
    "bf16": "bf16",
    "tf32": "tf32",
    **dict.fromkeys(("f8", "e4m3", "e5m2", "fe4m3", "fe5m2"), "fp8"),
}
GOOD = ("passed", "not_verified")


def claims(head: str, path: Path) -> bool:
    """Its header, or the announcement of the table."""
    del path
    return bool(_HEADER.search(head)) or ("CUTLASS" in head and "Disposition:" in head and "Runtime:" in head)


def read(path: Path, context: Context) -> Import:
    """A row for each problem; kernels that are wrong, did not run or are slower are counted."""
    found = [_gemm(path, row, context) for _, rows in tables(path, _HEADER) for row in rows]
    if not found:
        raise ReaderError(path, "has no CSV rows: run with --output=FILE, or keep what follows 'CSV Results:'")
    left_out = Counter(each for each in found if isinstance(each, str))
    best: dict[tuple[object, ...], Measurement] = {}
    for each in found:
        if isinstance(each, Measurement):
            problem = (each.dtype, each.batch, each.m, each.n, each.k, each.layout)
            if problem in best:
                left_out["a slower kernel for the same problem"] += 1
            best[problem] = min(best.get(problem, each), each, key=lambda row: row.time_s or 0.0)
    return Import(records=tuple(best.values()), notes=skipped(left_out))


def _gemm(path: Path, row: Row, context: Context) -> Measurement | str:
    cells = row.cells
    missing = [name for name in ("m", "n", "k", "A", "B", "Runtime") if name not in cells]
    if missing and cells["OperationKind"] == "gemm":
        raise ReaderError(path, f"no column {', '.join(missing)}", row.number)
    if reason := _unfit(cells):
        return reason
    dtype, layout = _dtype(cells), _layout(cells)
    if dtype.startswith("type "):
        return dtype
    if layout not in ("tn", "nn", "nt"):
        return "both inputs transposed: the table has no such layout"
    seconds = positive(path, row.number, "Runtime", cells["Runtime"]) * 1e-3
    _check_rate(path, row, seconds)
    m, n, k = (whole(path, row.number, name, cells[name]) for name in "mnk")
    swapped = _side(cells, "D" if "D" in cells else "C") == "column"
    return Measurement(
        op="gemm",
        dtype=dtype,
        device=context.device or "",
        stack=context.stack or "",
        batch=whole(path, row.number, "batch_count", cells.get("batch_count") or "1"),
        m=n if swapped else m,
        n=m if swapped else n,
        k=k,
        layout=layout,
        kernel=cells["Operation"],
        time_s=seconds,
        notes=None if cells["Disposition"] == "passed" else "not verified",
    )


def _unfit(cells: dict[str, str]) -> str:
    """Why a row is no measurement of a GEMM."""
    if cells["OperationKind"] != "gemm":
        return f"operation {cells['OperationKind']}"
    if cells["Disposition"] not in GOOD or cells["Status"] not in ("success", ""):
        return f"kernel {cells['Disposition']}"
    if cells.get("Runtime", "") in ("", "0", "nan"):
        return "kernel did not run"
    if cells.get("beta", "0") not in ("", "0"):
        return "adds to C (beta), which the table's GEMM does not"
    return ""


def _dtype(cells: dict[str, str]) -> str:
    """Of the inputs; a sentence that begins with `type` says why there is none."""
    a, b = (cells.get(side, "").split(":")[0] for side in "AB")
    known = DTYPES.get(a, "")
    if a == b == "f32":
        known = "fp32" if cells.get("op_class") == "simt" else "tf32" if _is_tf32(cells["Operation"]) else ""
    elif known != DTYPES.get(b, ""):
        known = ""
    out = cells.get("D", cells.get("C", "")).split(":")[0]
    if not known:
        return f"type {a} x {b} in {cells.get('op_class', '')} is none of the table's"
    if {"f32": "fp32", **DTYPES}.get(out, out) != out_dtype(known):
        return f"type {out} of the output: the table's GEMM of {known} writes {out_dtype(known)}"
    return known


def _is_tf32(operation: str) -> bool:
    return "tf32" in operation or "s1688gemm" in operation


def _side(cells: dict[str, str], tensor: str) -> str:
    return cells.get(tensor, "").partition(":")[2]


def _layout(cells: dict[str, str]) -> str:
    """In BLAS terms, of a product whose output is column by column; one by rows is its transpose."""
    sides = [_side(cells, "A") != "column", _side(cells, "B") != "column"]
    if _side(cells, "D" if "D" in cells else "C") != "column":
        sides = [not transposed for transposed in reversed(sides)]
    return "".join("t" if transposed else "n" for transposed in sides)


def _check_rate(path: Path, row: Row, seconds: float) -> None:
    flops, gflops = row.cells.get("Flops", ""), row.cells.get("GFLOPs", "")
    if not flops or not gflops:
        return
    rate = number(path, row.number, "Flops", flops) / seconds / 1e9
    if abs(rate - number(path, row.number, "GFLOPs", gflops)) > 0.01 * rate:
        raise ReaderError(path, f"{gflops} GFLOPs do not fit {flops} FLOPs in {seconds:g} s: damaged", row.number)
