"""What the learned correction knows of an op: its shape, relative to what the device does in ten microseconds.

Every feature is dimensionless or a logarithm of a count, so that a model fitted on one device says something about
another (equations: docs/models/learned-prices.md).
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_columns import COLUMN_NAMES, GROUP
from calibration.cost.rates import Floats, hbm_bytes_per_s, peak_flops_per_s
from hardware.types import Device
from workloads.ops import DTYPE_BYTES, Attention, ComputeOp, Gemm, Pointwise, traffic_table

Columns = dict[str, Floats]
Matrix = NDArray[np.float32]

UNIT_S = 1e-5
TILES = ((128, 128), (128, 256), (256, 128), (64, 64))
ATTENTION_TILE_Q = 128
MOST_ALIGNMENT = 128  # bytes; more makes no difference
CURVE_TERMS = len(GROUP)


FAMILIES: Mapping[type, str] = {Gemm: "gemm", Attention: "attention", Pointwise: "pointwise"}


def family_of(op: ComputeOp) -> str:
    """gemm, attention or pointwise."""
    return FAMILIES[type(op)]


def group_of(op: ComputeOp) -> str:
    """Kernels that share an offset: of one data type, of one attention kernel, of one memory-bound kernel."""
    if isinstance(op, Gemm):
        # Tensor cores transpose operands of 16 bits, not wider ones: there each layout has kernels of its own.
        layout = f"/{op.layout}" if DTYPE_BYTES[op.dtype] > 2 else ""
        return op.dtype + layout + ("/cast" if op.casts else "") + ("" if _vectorised(op) else "/odd")
    if isinstance(op, Attention):  # no windows were measured: a kernel of its own, which physics prices alone
        return f"{op.kernel}/{op.direction}" + ("/window" if op.window else "")
    return f"{op.op}/{op.direction}"


def stand_in(group: str) -> str:
    """The group whose kernels are as fast: tensor cores multiply both types of 16 bits at one rate."""
    return group.replace("fp16", "bf16", 1) if group.startswith("fp16") else group


def _vectorised(op: Gemm) -> bool:
    """Whether all rows begin at multiples of 16 bytes; others have kernels of their own."""
    strides = (op.m if op.layout == "nt" else op.k) | (op.k if op.layout == "tn" else op.n) | op.n
    return int(strides * DTYPE_BYTES[op.dtype]) % 16 == 0


def matrix(family: str, ops: Sequence[ComputeOp], device: Device, base_s: Floats) -> Matrix:
    """[features, ops] of one family, without those of `GROUP`; `base_s` is what physics says."""
    if not ops:
        return np.zeros((0, 0), np.float32)
    columns = _COLUMNS[family](ops, device, base_s) | _device(device, len(ops))
    assert (*columns, *GROUP) == COLUMN_NAMES[family]
    return np.array(list(columns.values()), dtype=np.float32)


def with_groups(features: Matrix, curve: Floats, groups: NDArray[np.intp]) -> Matrix:
    """The features and, below, those of `GROUP`: factors of each op's curve."""
    return np.vstack([features, curve[groups].T.astype(np.float32)])


def curve_terms(base_s: Floats) -> Floats:
    """[terms, ops]: one, a step from kernels bound by their start to those bound by a rate, a bump between."""
    size = _log2(base_s / UNIT_S)
    return np.array([np.ones_like(size), np.tanh(size / 2), np.exp(-np.square(size) / 4)])


def coordinates(family: str, ops: Sequence[ComputeOp]) -> Floats:
    """[ops, axes]: where an op lies among the measured ones, in octaves."""
    return np.log2(np.array(list(map(_PLACES[family], ops)), dtype=np.float64))


AXES: Mapping[str, tuple[str, ...]] = {
    "gemm": ("batch", "m", "n", "k"),
    "attention": ("batch x heads", "seq_q", "seq_kv", "head_dim", "heads / kv_heads"),
    "pointwise": ("rows x cols", "cols"),
}
_PLACES: Mapping[str, Callable[..., tuple[float, ...]]] = {
    "gemm": attrgetter("batch", "m", "n", "k"),
    "attention": lambda op: (op.batch * op.heads, op.seq_q, op.seq_kv, op.head_dim, op.heads / op.kv_heads),
    "pointwise": lambda op: (op.rows * op.cols, op.cols),
}


class _GemmKind(NamedTuple):
    """What a GEMM is apart from its sizes: few different ones among many."""

    dtype: str
    layout: str
    out_dtype: str
    accumulate: bool


def _gemm(ops: Sequence[Gemm], device: Device, base_s: Floats) -> Columns:
    batch, m, n, k = np.array([(op.batch, op.m, op.n, op.k) for op in ops], dtype=np.float64).T
    kinds = [_GemmKind(op.dtype, op.layout, op.out_dtype, op.accumulate) for op in ops]
    of = _Table(kinds)
    element_bytes = of.each(lambda kind: DTYPE_BYTES[kind.dtype])
    written_bytes = of.each(lambda kind: DTYPE_BYTES[kind.out_dtype] * (2 if kind.accumulate else 1))
    peaks = of.each(lambda kind: peak_flops_per_s(device, kind.dtype))
    nt, tn = of.each(lambda kind: kind.layout == "nt"), of.each(lambda kind: kind.layout == "tn")
    rows = {"m": m, "n": n, "k": k}
    aligned = {name: _aligned_bytes(size * element_bytes) for name, size in rows.items()}
    aligned_a = np.where(nt > 0, aligned["m"], aligned["k"])
    aligned_b = np.where(tn > 0, aligned["k"], aligned["n"])
    flops, moved_bytes = 2 * batch * m * n * k, batch * ((m + n) * k * element_bytes + m * n * written_bytes)
    return {
        **{f"log_{name}": _log2(size) for name, size in (rows | {"batch": batch}).items()},
        "log_m_over_n": _log2(m / n),
        "log_smaller_side": _log2(np.minimum(m, n)),
        "log_outputs": _log2(batch * m * n),
        **_rates(base_s, flops / peaks, moved_bytes / hbm_bytes_per_s(device)),
        "log_a_over_l2": _log2(batch * m * k * element_bytes / device.l2_bytes),
        "log_b_over_l2": _log2(batch * n * k * element_bytes / device.l2_bytes),
        **_wave_columns(batch, m, n, device),
        "padding_m": _log2(np.ceil(m / 128) * 128 / m),
        "padding_n": _log2(np.ceil(n / 128) * 128 / n),
        "padding_k": _log2(np.ceil(k / 64) * 64 / k),
        "aligned_a": aligned_a,
        "aligned_b": aligned_b,
        "aligned_inputs": np.minimum(aligned_a, aligned_b),
        "aligned_worst": np.minimum(np.minimum(aligned_a, aligned_b), aligned["n"]),
        "aligned_c": aligned["n"],
        "aligned_m": aligned["m"],
        "tn": tn,
        "nn": 1 - tn - nt,
        "nt": nt,
        "log_element_bytes": _log2(element_bytes),
        "fp16": of.each(lambda kind: kind.dtype == "fp16"),
        "tf32": of.each(lambda kind: kind.dtype == "tf32"),
        "fp32": of.each(lambda kind: kind.dtype == "fp32"),
        "fp32_out": of.each(lambda kind: kind.out_dtype == "fp32"),
        "accumulate": of.each(lambda kind: kind.accumulate),
    }


class _Table:
    """Looks up a number for each of many items of few kinds."""

    def __init__(self, items: Sequence[_GemmKind]) -> None:
        index = {kind: place for place, kind in enumerate(dict.fromkeys(items))}
        self._kinds = tuple(index)
        self._places = np.array([index[item] for item in items], dtype=np.intp)

    def each(self, number: Callable[[_GemmKind], float]) -> Floats:
        """Of every item."""
        numbers: Floats = np.array([number(kind) for kind in self._kinds], dtype=np.float64)[self._places]
        return numbers


def _wave_columns(batch: Floats, m: Floats, n: Floats, device: Device) -> Columns:
    columns: Columns = {}
    for tile_m, tile_n in TILES:
        waves = batch * np.ceil(m / tile_m) * np.ceil(n / tile_n) / device.sm_count
        columns[f"log_waves_{tile_m}x{tile_n}"] = _log2(waves)
        columns[f"idle_{tile_m}x{tile_n}"] = _idle(waves)
    return columns


def _attention(ops: Sequence[Attention], device: Device, base_s: Floats) -> Columns:
    rows = ("batch", "seq_q", "seq_kv", "heads", "kv_heads", "head_dim", "flops", "bytes", "causal")
    batch, seq_q, seq_kv, heads, kv_heads, head_dim, flops, moved_bytes, causal = np.array(
        [[getattr(op, row) for row in rows] for op in ops], dtype=np.float64
    ).T
    waves = batch * heads * np.ceil(seq_q / ATTENTION_TILE_Q) / device.sm_count
    sizes = {"batch": batch, "seq_q": seq_q, "seq_kv": seq_kv, "heads": heads, "kv_heads": kv_heads}
    return {
        **{f"log_{name}": _log2(size) for name, size in sizes.items()},
        "log_batch_heads": _log2(batch * heads),
        "log_queries_over_keys": _log2(seq_q / seq_kv),
        "head_dim": head_dim,
        "padding_head_dim": _log2(np.ceil(head_dim / 64) * 64 / head_dim),
        "padding_seq": _log2(np.ceil(seq_q / 128) * 128 / seq_q),
        "log_group": _log2(heads / kv_heads),
        "causal": causal,
        "backward": np.array([op.direction == "bwd" for op in ops], dtype=np.float64),
        "element_bytes": np.array([DTYPE_BYTES[op.dtype] for op in ops]),
        "kernel_share": np.array([_share(op, device) for op in ops]),
        **_rates(base_s, flops / _peaks(ops, device), moved_bytes / hbm_bytes_per_s(device)),
        "log_waves": _log2(waves),
        "idle": _idle(waves),
        "log_kv_over_l2": _log2(batch * kv_heads * seq_kv * head_dim / device.l2_bytes),
    }


def _share(op: Attention, device: Device) -> float:
    shares: tuple[float, float] = device.architecture.attention_share[op.kernel]
    return shares[op.direction == "bwd"]


def _pointwise(ops: Sequence[Pointwise], device: Device, base_s: Floats) -> Columns:
    traffic = [traffic_table()[op.op, op.direction] for op in ops]
    columns = [(op.rows, op.cols, DTYPE_BYTES[op.dtype], op.bytes) for op in ops]
    rows, cols, element_bytes, moved_bytes = np.array(columns, dtype=np.float64).T
    return {
        "log_rows": _log2(rows),
        "log_cols": _log2(cols),
        "log_elements": _log2(rows * cols),
        "log_bytes_over_l2": _log2(moved_bytes / device.l2_bytes),
        "log_memory": _log2(moved_bytes / hbm_bytes_per_s(device) / UNIT_S),
        "log_base": _log2(base_s / UNIT_S),
        "log_rows_per_sm": _log2(rows / device.sm_count),
        "idle_rows": _idle(rows / device.sm_count),
        "log_serial_rows": _serial_rows(ops, rows, moved_bytes, device) - _log2(base_s / UNIT_S),
        "aligned_row": _aligned_bytes(cols * element_bytes),
        "row_bytes": _log2(cols * element_bytes),
        "padding_cols": _log2(np.exp2(np.ceil(np.log2(cols))) / cols),
        "element_bytes": element_bytes,
        "backward": np.array([op.direction == "bwd" for op in ops], dtype=np.float64),
        "traffic_elements": np.array([kind.elements for kind in traffic]),
        "traffic_bytes": np.array([kind.bytes for kind in traffic]),
        "traffic_flops": np.array([kind.flops for kind in traffic]),
        "traffic_per_clock": np.array([kind.per_clock for kind in traffic]),
    }


def _serial_rows(ops: Sequence[Pointwise], rows: Floats, moved_bytes: Floats, device: Device) -> Floats:
    """Time of kernels that give each row to one SM, as its logarithm."""
    row_s = moved_bytes / rows / np.array([op.bytes_per_clock for op in ops]) / device.boost_clock_hz
    return _log2(np.ceil(rows / device.sm_count) * row_s / UNIT_S)


_COLUMNS: Mapping[str, Callable[..., Columns]] = {"gemm": _gemm, "attention": _attention, "pointwise": _pointwise}


def _rates(base_s: Floats, compute_s: Floats, memory_s: Floats) -> Columns:
    base, compute, memory = (_log2(seconds / UNIT_S) for seconds in (base_s, compute_s, memory_s))
    return {
        "log_base": base,
        "log_compute": compute,
        "log_memory": memory,
        "log_intensity": compute - memory,
        "log_base_over_compute": base - compute,
        "log_base_over_memory": base - memory,
    }


def _device(device: Device, count: int) -> Columns:
    """Quotients of the data sheet. FLOPs per clock and SM double with each generation, and stand for it."""
    peak = device.tensor_flops_per_s.get("fp16", device.vector_flops_per_s["fp32"])
    clocks = device.sm_count * device.boost_clock_hz
    facts = {
        "device_flops_per_byte": peak / device.memory_bytes_per_s,
        "device_sm_count": float(device.sm_count),
        "device_l2_per_sm": device.l2_bytes / device.sm_count,
        "device_bytes_per_clock": device.memory_bytes_per_s / clocks,
        "device_flops_per_clock": peak / clocks,
        "device_clock": device.boost_clock_hz,
    }
    return {name: np.full(count, np.log2(fact)) for name, fact in facts.items()}


def _peaks(ops: Sequence[Attention], device: Device) -> Floats:
    peaks = {dtype: peak_flops_per_s(device, dtype) for dtype in {op.dtype for op in ops}}
    return np.array([peaks[op.dtype] for op in ops])


def _log2(values: Floats) -> Floats:
    logs: Floats = np.log2(values)
    return logs


def _idle(waves: Floats) -> Floats:
    """Octaves by which a partly filled last wave stretches the work."""
    return _log2(np.ceil(waves) / np.maximum(waves, 0.25))


def _aligned_bytes(row_bytes: Floats) -> Floats:
    """Largest power of two that divides the length of a row, as its logarithm."""
    whole = np.maximum(row_bytes, 1).astype(np.int64)
    return _log2(np.minimum(whole & -whole, MOST_ALIGNMENT).astype(np.float64))
