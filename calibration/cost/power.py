"""What kernels draw, and the clock that the power limit leaves them (docs/models/kernels.md)."""

from collections.abc import Sequence

import numpy as np

from calibration.cost.rates import Floats, hbm_bytes_per_s, main_loop_share, peak_flops_per_s, power_clock
from hardware.types import Device
from workloads.ops import Attention, ComputeOp, Gemm

# Power at full clock over the power limit of the reference part: of a GPU that waits, and what streaming from memory at
# the full rate adds. On an H200 of 700 W a copy drew 577 W, FlashAttention-2 at 0.36 of the tensor peak just held its
# clock; in long runs cuDNN attention at 0.70 of it ran 0.86 and GEMMs at 0.80 ran 0.84 times as fast as in a burst.
STATIC_DRAW = 0.35
MEMORY_DRAW = 0.45


def draws(ops: Sequence[ComputeOp], seconds: Floats, device: Device) -> Floats:
    """Power of each op at full clock, relative to the limit of the architecture's reference part."""
    spent = np.maximum(seconds, np.finfo(np.float64).tiny)  # a made-up price may be zero
    tensor = np.minimum(np.array([_tensor_use(op, device) for op in ops]) / spent, 1.0)
    memory = np.array([op.bytes for op in ops]) / (hbm_bytes_per_s(device) * spent)
    drawn: Floats = STATIC_DRAW + tensor_draw(device) * tensor + MEMORY_DRAW * np.minimum(memory, 1.0)
    return drawn


def tensor_draw(device: Device) -> float:
    """What the main loop of a large GEMM adds; `sustained_clock` is the clock that it leaves the reference part."""
    draw: float = device.architecture.sustained_clock**-2 - STATIC_DRAW
    return draw


def clock(draw: Floats, device: Device) -> Floats:
    """Clock at the power limit relative to full: power goes about as the square of the clock near the limit."""
    clocks: Floats = np.minimum(power_clock(device) / np.sqrt(draw), 1.0)
    return clocks


def _tensor_use(op: ComputeOp, device: Device) -> float:
    """Seconds that the tensor cores would need for the op in a main loop."""
    if not isinstance(op, Gemm | Attention) or op.dtype not in device.tensor_flops_per_s:
        return 0.0
    return op.flops / (peak_flops_per_s(device, op.dtype) * main_loop_share(device, op.dtype))
