"""hipblaslt-bench: what it prints, of all versions.

Rows that the table cannot hold are left out and counted: grouped GEMMs, sums into C, outputs of another type
than usual, formats with block scales.
"""

import re
from collections import Counter
from pathlib import Path

from calibration.readers import blas_bench
from calibration.readers.blas_bench import DTYPES, value
from calibration.readers.record import Context, Import, ReaderError, skipped
from calibration.readers.text import Row
from calibration.table import Measurement, out_dtype

NAME = "hipblaslt-bench"
TITLE = "hipblaslt-bench, standard output"
_HEADER = re.compile(r"transA,\s*transB,[^\n]*(?:\n\s+[^\n]*)?hipblaslt-Gflops", re.IGNORECASE)
# Scale modes: none, one number, a vector; the others are block scales.
PLAIN_SCALES = ("", "0", "1", "2")
COMPUTE_TF32 = "xf32_r"


def claims(head: str, path: Path) -> bool:
    """Its header."""
    del path
    return bool(_HEADER.search(head))


def read(path: Path, context: Context) -> Import:
    """A row for each problem and solution."""
    found = [_gemm(path, row, context) for row in blas_bench.problems(path, "hipblaslt")]
    if not found:
        raise ReaderError(path, "has no rows of values")
    left_out = Counter(each for each in found if isinstance(each, str))
    records = tuple(each for each in found if isinstance(each, Measurement))
    return Import(records=records, notes=skipped(left_out))


def _gemm(path: Path, row: Row, context: Context) -> Measurement | str:
    if value(row, "grouped_gemm") not in ("", "0"):
        return "grouped GEMM"
    if value(row, "beta") not in ("", "0"):
        return f"adds to C (beta {value(row, 'beta')}), which the table's GEMM does not"
    if value(row, "activation_type") not in ("", "none"):
        return f"with activation {value(row, 'activation_type')}"
    dtype = _dtype(path, row, context)
    if dtype.startswith("type "):
        return dtype
    return blas_bench.gemm(path, row, dtype, context, _notes(row))


def _dtype(path: Path, row: Row, context: Context) -> str:
    """Of the inputs; a sentence that begins with `type` says why there is none."""
    names = [value(row, f"{side}_type") for side in "abd"]
    if not any(names):
        if context.dtype is None:
            raise ReaderError(path, "no columns a_type and b_type: give the dtype", row.number)
        return context.dtype
    a, b, out = (DTYPES.get(name, "") for name in names)
    if not a or a != b or any(value(row, f"scale{side}") not in PLAIN_SCALES for side in "AB"):
        return f"type {names[0]} x {names[1]} is none of the table's"
    if a == "fp32" and value(row, "compute_type") == COMPUTE_TF32:
        a = "tf32"
    if out != out_dtype(a):
        return f"type {names[2]} of the output: the table's GEMM of {a} writes {out_dtype(a)}"
    return a


def _notes(row: Row) -> str | None:
    known = ("solution_index", "gcnArchName", "rotating_buffer", "flush")
    return ", ".join(f"{name} {value(row, name)}" for name in known if value(row, name)) or None
