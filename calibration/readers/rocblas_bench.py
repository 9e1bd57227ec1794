"""rocblas-bench: what it prints.

Only some versions name the type: it is taken from a command line in the log (`-r bf16_r`, `--a_type`), or has to
be given.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from calibration.readers import blas_bench
from calibration.readers.blas_bench import DTYPES, value
from calibration.readers.record import Context, Import, ReaderError, skipped
from calibration.readers.text import Line, Row
from calibration.table import Measurement, out_dtype

NAME = "rocblas-bench"
TITLE = "rocblas-bench, standard output"
_HEADER = re.compile(r"transA,\s*transB,[^\n]*rocblas-Gflops", re.IGNORECASE)
_COMMAND = re.compile(r"rocblas-bench\b.*?\s(?:-r|--precision|--a_type)[ =](\w+)")
_OUTPUT = re.compile(r"--d_type[ =](\w+)")
_XF32 = re.compile(r"--math_mode[ =](?!0\b)(\w+)")


@dataclass
class _Command:
    """What the last command line in the log said."""

    dtype: str | None = None
    out: str | None = None

    def take(self, line: Line) -> None:
        """A line that is neither header nor values."""
        if named := _COMMAND.search(line.text):
            dtype = DTYPES.get(named[1], named[1])
            self.dtype = "tf32" if dtype == "fp32" and _XF32.search(line.text) else dtype
            out = _OUTPUT.search(line.text)
            self.out = DTYPES.get(out[1], out[1]) if out else None


def claims(head: str, path: Path) -> bool:
    """Its header."""
    del path
    return bool(_HEADER.search(head))


def read(path: Path, context: Context) -> Import:
    """A row for each problem."""
    command = _Command()
    found = [_gemm(path, row, command, context) for row in blas_bench.problems(path, "rocblas", command.take)]
    if not found:
        raise ReaderError(path, "has no rows of values")
    left_out = Counter(each for each in found if isinstance(each, str))
    records = tuple(each for each in found if isinstance(each, Measurement))
    return Import(records=records, notes=skipped(left_out))


def _gemm(path: Path, row: Row, command: _Command, context: Context) -> Measurement | str:
    named = value(row, "a_type")
    dtype = DTYPES.get(named, named) or command.dtype or context.dtype
    if not dtype:
        raise ReaderError(path, "does not say the type of its inputs: give the dtype", row.number)
    if dtype not in DTYPES.values():
        return f"type {dtype} is none of the table's"
    if command.out not in (None, out_dtype(dtype)):
        return f"writes {command.out}: the table's GEMM of {dtype} writes {out_dtype(dtype)}"
    if value(row, "beta") not in ("", "0"):
        return f"adds to C (beta {value(row, 'beta')}), which the table's GEMM does not"
    return blas_bench.gemm(path, row, dtype, context, None)
