"""The keys of SimuMax's system files: each names a shape, whose FLOPs its efficiency counts, as a row of the table.

What the keys mean is read off the scripts that write them (github.com/MooreThreads/SimuMax, simu_tools/efficency_test).
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from calibration.table import Measurement, out_dtype

# A GPU holds its power limit over tens of milliseconds: the quarter of such a loop that warms up is longer.
LONG_LOOP_S = 0.1
COOL_LOOP_S = 0.05  # of launches that are waited for, so that the device rests between them
# Of several kernels, first to last, as a profiler shows them. Below, the gaps between them are the host's: on a B200 4
# and 8 heads take 92 to 98 us.
LEAST_SPAN_S = 1e-4

Cells = Mapping[str, str]
Found = Measurement | str


class Shape(NamedTuple):
    """One key of a section with its time."""

    cells: Cells
    seconds: float
    dtype: str


class Loop(NamedTuple):
    """How the scripts time a kernel: launches of a loop, those of them that count, whether each is waited for."""

    launches: int
    samples: int
    waits: bool = False

    def mode(self, seconds: float) -> str:
        """A clock that has settled, a cool one, or neither."""
        if self.launches * seconds >= LONG_LOOP_S:
            return "sustained"
        cool = self.waits and self.launches * seconds <= COOL_LOOP_S and seconds >= LEAST_SPAN_S
        return "burst" if cool else "loop"


class Section(NamedTuple):
    """What the keys of a section name, the FLOPs that their efficiency counts, and their row of the table."""

    keys: str
    flops: Callable[[Cells], float]
    row: Callable[[Shape], Found]
    dtype: str = "bf16"


def _gemm(shape: Shape) -> Found:
    """Its m, n, k are those of the table: C[m, n] of tokens x outputs, tokens x inputs, outputs x inputs."""
    cells, layout = shape.cells, _word(shape.cells, "layout", "TN", "NN", "NT").lower()
    batch, m, n, k = (_count(cells, name) for name in "bmnk")
    # The micro-batch is no batch of GEMMs: its sequences are further rows of one (test_gemm_efficiency.py).
    rows, depth = (m, k * batch) if layout == "nt" else (m * batch, k)
    written = _word(cells, "out_dtype", "bf16", "fp32")
    return _measured(
        shape, Loop(100, 75), op="gemm", batch=1, m=rows, n=n, k=depth, layout=layout,
        out_dtype=None if written == out_dtype(shape.dtype) else written, accumulate=_flag(cells, "accumulate") or None,
    )  # fmt: skip


def _grouped(shape: Shape) -> Found:
    """M, N and K are those of the forward pass in all three stages; rows of all groups together, as in the table."""
    cells = shape.cells
    if cells["dtype"] != shape.dtype:
        raise ValueError(f"dtype={cells['dtype']} in a section of {shape.dtype}")
    stage = _word(cells, "stage", "fwd", "bwd_grad_act", "bwd_grad_w")
    groups, rows, outputs, inputs = (_count(cells, name) for name in ("ng", "M", "N", "K"))
    layout, m, n, k = {
        "fwd": ("tn", groups * rows, outputs, inputs),
        "bwd_grad_act": ("nn", groups * rows, inputs, outputs),
        "bwd_grad_w": ("nt", outputs, inputs, groups * rows),
    }[stage]
    written = _word(cells, "main_grad_dtype" if layout == "nt" else "out_dtype", "bf16", "fp32")
    return _measured(
        shape, Loop(50, 40), op="grouped_gemm", batch=groups, m=m, n=n, k=k, layout=layout,
        out_dtype=None if written == out_dtype(shape.dtype) else written, accumulate=_flag(cells, "accumulate") or None,
    )  # fmt: skip


def _attention(direction: str) -> Callable[[Shape], Found]:
    def row(shape: Shape) -> Found:
        cells = shape.cells
        batch, seq, heads, kv_heads = (_count(cells, name) for name in ("batch", "seq_len", "head_num", "kv_head_num"))
        keys, values = _count(cells, "qk_head_dim"), _count(cells, "v_head_dim")
        if keys != values:
            return f"attention with {keys} dimensions of queries and {values} of values: the table has one head_dim"
        apart = "" if _flag(cells, "qkv_contiguous") else "q, k, v not contiguous"
        return _measured(
            shape, Loop(30, 19, waits=True), op="attention", batch=batch, seq_q=seq, seq_kv=seq, heads=heads,
            kv_heads=kv_heads, head_dim=keys, causal=True, direction=direction, notes=apart,
        )  # fmt: skip

    return row


def _measured(shape: Shape, loop: Loop, **columns: Any) -> Measurement:
    mode = loop.mode(shape.seconds)
    return Measurement(dtype=shape.dtype, time_s=shape.seconds, samples=loop.samples, mode=mode, **columns)


def _gemm_flops(cells: Cells) -> float:
    return 2.0 * math.prod(_count(cells, name) for name in "bmnk")


def _grouped_flops(cells: Cells) -> float:
    return 2.0 * math.prod(_count(cells, name) for name in ("ng", "M", "N", "K"))


def _attention_flops(products: int) -> Callable[[Cells], float]:
    """All pairs, those that the causal mask hides as well; two and five products, half of each width."""

    def flops(cells: Cells) -> float:
        heads = max(_count(cells, "head_num"), _count(cells, "kv_head_num"))
        width = _count(cells, "qk_head_dim") + _count(cells, "v_head_dim")
        return float(products) * _count(cells, "batch") * _count(cells, "seq_len") ** 2 * heads * width

    return flops


def _count(cells: Cells, name: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,14}", cells[name]):
        raise ValueError(f"{name}={cells[name]}: should be a whole number of 1 or more")
    return int(cells[name])


def _word(cells: Cells, name: str, *known: str) -> str:
    if cells[name] not in known:
        raise ValueError(f"{name}={cells[name]}: should be one of {', '.join(known)}")
    return cells[name]


def _flag(cells: Cells, name: str) -> bool:
    return _word(cells, name, "True", "False") == "True"


_GEMM_KEYS = "b m k n layout accumulate out_dtype"
_GROUPED_KEYS = "ng M N K dtype out_dtype main_grad_dtype stage grad accumulate use_split_accumulator single_output"
_ATTENTION_KEYS = "batch seq_len head_num kv_head_num qk_head_dim v_head_dim qkv_contiguous"
SECTIONS: Mapping[str, Section] = {
    "matmul": Section(_GEMM_KEYS, _gemm_flops, _gemm),
    "fp8_matmul": Section(_GEMM_KEYS, _gemm_flops, _gemm, "fp8"),
    "group_matmul": Section(_GROUPED_KEYS, _grouped_flops, _grouped),
    "fp8_group_matmul": Section(_GROUPED_KEYS, _grouped_flops, _grouped, "fp8"),
    "sdp_fwd": Section(_ATTENTION_KEYS, _attention_flops(2), _attention("fwd")),
    "sdp_bwd": Section(_ATTENTION_KEYS, _attention_flops(5), _attention("bwd")),
}
