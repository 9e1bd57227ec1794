"""Kernels bound by memory traffic (equations: docs/models/kernels.md; traffic: workloads/pointwise.toml)."""

from collections.abc import Sequence

import numpy as np

from calibration.cost.rates import Floats, hbm_bytes_per_s, vector_peak_flops_per_s
from hardware.types import Device
from workloads.ops import STREAMING_PER_CLOCK, Pointwise

LEAST_S = 1e-9  # of a copy that a device does without: no price is zero, so that prices have ratios
CTA_BYTES = 8192.0  # moved by one thread block at least: 256 threads, two vectors of 16 bytes each


def pointwise_s(ops: Sequence[Pointwise], device: Device) -> Floats:
    """Seconds of each op: memory, instructions, rows or arithmetic, whichever is slowest, behind fixed times."""
    moved_bytes, flops, per_clock, share, kernels, row_clocks = np.array(
        [(op.bytes, op.flops, op.bytes_per_clock, op.memory_share, op.kernels, op.row_clocks) for op in ops],
        dtype=np.float64,
    ).T.reshape(6, -1)
    if device.architecture.narrow_layouts == "any":
        turned_bytes = np.array([op.turned_bytes for op in ops])
        per_clock = np.where(turned_bytes > 0, STREAMING_PER_CLOCK, per_clock)
        moved_bytes = moved_bytes - turned_bytes
        kernels = np.where(moved_bytes > 0, kernels, 0.0)
    busy_sms = np.clip(np.ceil(moved_bytes / CTA_BYTES), 1, device.sm_count)
    memory_s = moved_bytes / (hbm_bytes_per_s(device) * share)
    issue_s = moved_bytes / (busy_sms * per_clock * device.architecture.issue_share * device.boost_clock_hz)
    compute_s = flops / vector_peak_flops_per_s(device)
    rows_s = row_clocks / (device.sm_count * device.boost_clock_hz)
    slowest_s = np.maximum.reduce([memory_s, issue_s, rows_s, compute_s])
    seconds: Floats = np.maximum(kernels * device.architecture.pointwise_s + slowest_s, LEAST_S)
    return seconds
