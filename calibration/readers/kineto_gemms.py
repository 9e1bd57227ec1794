"""GEMMs of a trace: `aten::mm` and its kin, with their shapes, joined to the kernels that they launched."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from calibration.readers.kernels import summed
from calibration.readers.kineto_trace import KERNEL, Event, Trace
from calibration.readers.record import Context
from calibration.table import Measurement

# Op -> places of the two matrices among its inputs.
MATRICES = {
    "aten::mm": (0, 1),
    "aten::bmm": (0, 1),
    "aten::addmm": (1, 2),
    "aten::_scaled_mm": (0, 1),
}
DTYPES = {"c10::bfloat16": "bf16", "c10::half": "fp16", "c10::float8_e4m3fn": "fp8", "c10::float8_e4m3fnuz": "fp8"}
# BLAS layout in the names of cuBLAS and CUTLASS.
_NAMED_LAYOUT = re.compile(r"_(tn|nn|nt)(?:_|\b)")
_TF32 = re.compile(r"tf32|s1688gemm(?!_(?:f16|bf16))")
_FP32 = re.compile(r"(?:^|_)sgemm|simt|Cijk_.*_SB?_|ffma", re.IGNORECASE)


class _Shape(NamedTuple):
    dtype: str
    batch: int
    m: int
    n: int
    k: int
    layout: str


def records(trace: Trace, context: Context, left_out: Counter[str]) -> tuple[list[Measurement], set[int]]:
    """Rows, one for each shape, and the ids of the kernel events that are in them."""
    kernels = _kernels(trace)
    times: dict[_Shape, list[float]] = {}
    used: set[int] = set()
    for op in trace.of("cpu_op"):
        mine = kernels.get(op.identity("External id")) if op.name in MATRICES else None
        if mine and op.start_ns <= mine[0].start_ns:
            shape = _shape(op, mine)
            if isinstance(shape, str):
                left_out[f"{op.name} {shape}"] += 1
            else:
                times.setdefault(shape, []).append(sum(kernel.seconds for kernel in mine))
                used |= {id(kernel) for kernel in mine}
    place = None if trace.rank is None else f"rank {trace.rank}"
    rows = [summed(each, op="gemm", context=context, notes=place, **shape._asdict()) for shape, each in times.items()]
    return rows, used


def _kernels(trace: Trace) -> Mapping[Any, list[Event]]:
    """Kernels by the id of the op that launched them; old traces give the id of the launch, which says nothing."""
    found: dict[Any, list[Event]] = {}
    for event in trace.of(KERNEL):
        identity = event.identity("External id")
        if identity not in (None, 0, event.identity("correlation")):
            found.setdefault(identity, []).append(event)
    return found


def _shape(op: Event, kernels: Sequence[Event]) -> _Shape | str:
    """Or why it is not known."""
    dimensions = op.arguments.get("Input Dims")
    first, second = MATRICES[op.name]
    if not isinstance(dimensions, list) or len(dimensions) <= second:
        return "without shapes (record_shapes=True writes them): its kernels stay in the list"
    a, b = dimensions[first], dimensions[second]
    if not _fit(a, b) or (op.name == "aten::addmm" and len(dimensions[0]) > 1):
        return "of an unusual shape: its kernels stay in the list"
    if any(re.search("elementwise|copy", kernel.name) for kernel in kernels):
        return "with another kernel in it: its kernels stay in the list"
    dtype, layout = _dtype(op, first, kernels), _layout(op, first, second, kernels)
    if not dtype:
        return "whose data type is not clear: its kernels stay in the list"
    if layout not in ("tn", "nn", "nt"):
        return "whose layout is not clear: its kernels stay in the list"
    return _Shape(dtype, a[0] if len(a) == 3 else 1, a[-2], b[-1], a[-1], layout)


def _fit(a: Any, b: Any) -> bool:
    if not (isinstance(a, list) and isinstance(b, list) and len(a) == len(b) in (2, 3)):
        return False
    return a[-1] == b[-2] and a[:-2] == b[:-2] and all(isinstance(size, int) and size > 0 for size in (*a, *b))


def _dtype(op: Event, place: int, kernels: Sequence[Event]) -> str:
    types = op.arguments.get("Input type")
    named = str(types[place]).lower() if isinstance(types, list) and len(types) > place else ""
    if named != "float":
        return DTYPES.get(named, "")
    names = " ".join(kernel.name for kernel in kernels)
    return "tf32" if _TF32.search(names) else "fp32" if _FP32.search(names) else ""


def _layout(op: Event, first: int, second: int, kernels: Sequence[Event]) -> str:
    """Of strides if there are any, else of the kernel's name. Row by row C = A B is BLAS's C' = B' A'."""
    strides = op.arguments.get("Input Strides")
    if isinstance(strides, list) and len(strides) > second:
        dims = op.arguments["Input Dims"]
        return "".join(_side(dims[place], strides[place]) for place in (second, first))
    for kernel in kernels:
        if named := _NAMED_LAYOUT.search(kernel.name):
            return named[1]
    return ""


def _side(dims: Sequence[int], strides: Any) -> str:
    """n: rows are contiguous; t: columns are; ?: neither."""
    if not isinstance(strides, list) or len(strides) != len(dims) or not all(isinstance(each, int) for each in strides):
        return "?"
    if strides[-1] == 1 and strides[-2] >= dims[-1]:
        return "n"
    return "t" if strides[-2] == 1 and strides[-1] >= dims[-2] else "?"
