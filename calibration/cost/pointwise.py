"""Kernels bound by memory traffic (equations: docs/models/kernels.md; traffic: workloads/pointwise.toml)."""

from collections.abc import Sequence

import numpy as np

from calibration.cost.rates import Floats, hbm_bytes_per_s, l2_bytes_per_s, vector_peak_flops_per_s
from hardware.types import Device
from workloads.ops import Pointwise

CTA_BYTES = 8192.0  # moved by one thread block at least: 256 threads, two vectors of 16 bytes each
RESIDENT_SHARE = 0.5  # of L2, what the kernel before has left of this one's operands


def pointwise_s(ops: Sequence[Pointwise], device: Device) -> Floats:
    """Seconds of each kernel."""
    moved_bytes = np.array([op.bytes for op in ops], dtype=np.float64)
    flops = np.array([op.flops for op in ops], dtype=np.float64)
    busy_sms = np.clip(np.ceil(moved_bytes / CTA_BYTES), 1, device.sm_count)
    l2_s = moved_bytes / (busy_sms * l2_bytes_per_s(device))
    missed_bytes = np.maximum(moved_bytes - RESIDENT_SHARE * device.l2_bytes, 0.0)
    compute_s = flops / vector_peak_flops_per_s(device)
    traffic_s = np.maximum(l2_s, missed_bytes / hbm_bytes_per_s(device))
    seconds: Floats = device.architecture.kernel_s + np.maximum(traffic_s, compute_s)
    return seconds
