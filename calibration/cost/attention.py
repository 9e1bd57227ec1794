"""Fused attention, forward and backward (equations: docs/models/kernels.md)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from calibration.cost.rates import Floats, hbm_bytes_per_s, overlapped, peak_flops_per_s
from hardware.types import Device
from workloads.ops import DTYPE_BYTES, Attention

PADDING = 64  # rows of queries that the matrix units take at a time
TILE_Q = 128  # rows of queries of one thread block
RAMP_HEAD_DIM = 128  # at which `attention_kv_ramp` counts keys: a block's start and end cost no more with wider heads
PADDING_HEAD_DIM = 32  # kernels exist for head dimensions of 32, 64, 96, 128, ...
TAIL_SHARE = 0.5  # of the longest block, in which SMs wait at the end: blocks of unequal length, no order


def attention_s(ops: Sequence[Attention], device: Device, clock: Floats) -> Floats:
    """Seconds of each fused attention at its clock; an unsupported dtype or kernel raises ValueError."""
    if not ops:
        return np.zeros(0)
    rates = {key: _flops_per_s(device, *key) for key in {(op.dtype, op.kernel, op.direction) for op in ops}}
    flops_per_s = np.array([rates[op.dtype, op.kernel, op.direction] for op in ops])
    flops_per_s *= clock
    work, longest = _work(ops, device)
    compute_s = (work + TAIL_SHARE * longest * device.sm_count) / flops_per_s
    memory_s = np.array([op.bytes for op in ops]) / hbm_bytes_per_s(device)
    side_s = np.array([_side_bytes(op) for op in ops]) / hbm_bytes_per_s(device)
    seconds: Floats = device.architecture.attention_s + overlapped(compute_s, memory_s) + side_s
    return seconds


def _side_bytes(op: Attention) -> float:
    """That kernels before and behind the main one of a backward pass move, which nothing hides.

    Output and its gradient are read for dot products; a gradient of the queries in fp32 is set to zero, then read and
    cast.
    """
    if op.direction == "fwd":
        return 0.0
    keys, values = op.dims
    read, cast = 2 * values + keys, 2 * keys
    return op.batch * op.heads * op.seq_q * (read * DTYPE_BYTES[op.dtype] + cast * DTYPE_BYTES["fp32"])


def _flops_per_s(device: Device, dtype: str, kernel: str, direction: str) -> float:
    shares = device.architecture.attention_share
    if kernel not in shares:
        raise ValueError(f"{device.name}: no attention kernel {kernel!r}; known: {', '.join(sorted(shares))}")
    share = shares[kernel][0 if direction == "fwd" else 1]
    return peak_flops_per_s(device, dtype) * share


def _work(ops: Sequence[Attention], device: Device) -> tuple[Floats, Floats]:
    """FLOPs of the matrix units that the time of all query tiles, and of the longest one, is worth."""
    sizes = [(op.batch, op.heads, op.seq_q, *op.dims) for op in ops]
    batch, heads, seq_q, *columns = np.array(sizes, dtype=np.float64).T
    pairs, most_keys = np.array([(_visited_pairs(op), _most_keys(op)) for op in ops], dtype=np.float64).T
    products = np.array([2 if op.direction == "fwd" else 5 for op in ops])
    softmax = np.array([_softmax_dims(op, device) for op in ops])
    dims = np.ceil(np.array(columns) / PADDING_HEAD_DIM).mean(0) * PADDING_HEAD_DIM + softmax
    ramp = device.architecture.attention_kv_ramp * (RAMP_HEAD_DIM + softmax)
    padded = np.ceil(seq_q / PADDING) * PADDING
    work = 2.0 * products * batch * heads * padded * (pairs / seq_q * dims + ramp)
    longest = 2.0 * products * np.minimum(padded, TILE_Q) * (most_keys * dims + ramp)
    return work, longest


def _softmax_dims(op: Attention, device: Device) -> float:
    """Head dimensions that the softmax of a pair is worth."""
    usual = device.architecture.attention_softmax_dims
    return device.architecture.attention_softmax.get(op.kernel, (usual, usual))[0 if op.direction == "fwd" else 1]


def _visited_pairs(op: Attention) -> float:
    """Pairs of whole tiles, less those that the mask's edge at the diagonal costs, which the ramp counts.

    The far edge of a window moves on with each row of a block: half of the block's rows in keys more than a row has.
    """
    if not op.window:
        return op.pairs
    return min(op.pairs + op.seq_q * TILE_Q / 2, replace(op, window=0).pairs)


def _most_keys(op: Attention) -> int:
    """That any block of queries visits."""
    return min(op.seq_kv, op.window + TILE_Q) if op.window else op.seq_kv
