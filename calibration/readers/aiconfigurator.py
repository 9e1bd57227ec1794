"""aiconfigurator's tables of serving frameworks: `gemm_perf.txt` and `context_attention_perf.txt` in systems/data.

Its collectors time the forward pass of a linear layer: with 8- and 4-bit types, the cast of the input included.
"""

import re
from collections import Counter
from pathlib import Path

from calibration.readers.record import Context, Import, ReaderError, skipped
from calibration.readers.text import Row, positive, tables, text, whole
from calibration.table import LINEAR, Measurement
from workloads.ops import DTYPE_BYTES

NAME = "aiconfigurator"
TITLE = "aiconfigurator, text tables of GEMMs and of attention over prompts"
_HEADER = re.compile(r"^(?=[^\n]*\blatency\b)[^\n]*\b(gemm_dtype,m,n,k|batch_size,isl,num_heads)\b", re.MULTILINE)
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8", "nvfp4": "nvfp4"}


def claims(head: str, path: Path) -> bool:
    """The header of one of the two tables."""
    del path
    return bool(_HEADER.search(head))


def read(path: Path, context: Context) -> Import:
    """A row for each shape and framework."""
    if not text(path).endswith("\n"):
        raise ReaderError(path, "is cut off: its last line does not end")
    found = [_row(path, row, context) for _, rows in tables(path, _HEADER) for row in rows]
    if not found:
        raise ReaderError(path, "has no rows of GEMMs, and none of attention")
    records = tuple(each for each in found if isinstance(each, Measurement))
    return Import(records=records, notes=skipped(Counter(each for each in found if isinstance(each, str))))


def _row(path: Path, row: Row, context: Context) -> Measurement | str:
    """A measurement, or why the table has none like it."""
    make = _gemm if "gemm_dtype" in row.cells else _attention
    return make(path, row, context)


def _gemm(path: Path, row: Row, context: Context) -> Measurement | str:
    name = row.cells["gemm_dtype"]
    if name not in DTYPES:
        return f"type {name} is none of the table's"
    m, n, k = (whole(path, row.number, size, row.cells[size]) for size in "mnk")
    return Measurement(
        op="gemm",
        dtype=DTYPES[name],
        device=context.device or "",
        stack=context.stack or NAME,
        batch=1,
        m=m,
        n=n,
        k=k,
        layout="tn",
        kernel=LINEAR if DTYPE_BYTES[DTYPES[name]] < 2 else None,
        time_s=_seconds(path, row),
        notes=_notes(row),
    )


def _attention(path: Path, row: Row, context: Context) -> Measurement | str:
    cells = row.cells
    if reason := _unfit(cells):
        return reason
    batch, tokens, heads, head_dim = (
        whole(path, row.number, size, cells[size]) for size in ("batch_size", "isl", "num_heads", "head_dim")
    )
    kv_heads = cells["num_key_value_heads"]
    return Measurement(
        op="attention",
        dtype=DTYPES[cells["attn_dtype"]],
        device=context.device or "",
        stack=context.stack or NAME,
        batch=batch,
        seq_q=tokens,
        seq_kv=tokens,
        heads=heads,
        kv_heads=heads if kv_heads == "0" else whole(path, row.number, "num_key_value_heads", kv_heads),
        head_dim=head_dim,
        causal=True,
        direction="fwd",
        kernel=context.kernel,
        time_s=_seconds(path, row),
        notes=_notes(row),
    )


def _unfit(cells: dict[str, str]) -> str:
    """Why a row is no plain attention over a whole prompt; empty if it is."""
    missing = [name for name in ("num_key_value_heads", "head_dim", "attn_dtype") if name not in cells]
    if missing:
        return f"no column {', '.join(missing)}"
    types = cells["attn_dtype"], cells.get("kv_cache_dtype", "")
    if any(DTYPE_BYTES.get(DTYPES.get(name, ""), 0) != 2 for name in types):
        return "attention in {} over a cache in {}".format(*types)
    if cells.get("op_name", "context_attention") != "context_attention":
        return f"{cells['op_name']}: no attention over a prompt"
    if cells.get("step", "0") not in ("", "0"):
        return "a prompt behind others that are in the cache"
    return "" if cells.get("window_size", "0") in ("", "0") else "with a window"


def _seconds(path: Path, row: Row) -> float:
    return positive(path, row.number, "latency", row.cells["latency"]) * 1e-3


def _notes(row: Row) -> str | None:
    known = ("framework", "version", "kernel_source")
    return " ".join(row.cells[name] for name in known if row.cells.get(name)) or None
