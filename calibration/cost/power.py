"""What kernels draw, and the clock that the power limit leaves them (docs/models/kernels.md)."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from calibration.cost.rates import (
    Floats,
    hbm_bytes_per_s,
    main_loop_share,
    on_vector_units,
    peak_flops_per_s,
    power_clock,
    sustained_clock,
)
from hardware.types import Device
from workloads.ops import Attention, ComputeOp, Gemm, Pointwise

# Power at full clock over the power limit of the reference part: of a GPU that waits, and what a kernel adds that keeps
# its units busy: memory-bound ones, the exponentials of attention (fp32 on the vector units: `vector_draw`). In long
# runs on an H200 of 700 W copies drew 577 to 629 W, softmax 583 W, fp32 GEMMs 700 W, all at full clock;
# FlashAttention-2 at 0.36 of the tensor peak just held it; cuDNN attention at 0.70 ran 0.86 and GEMMs at 0.80 ran 0.84
# times as fast as in a burst. Attention's exponentials, for all else that a kernel draws: median of eight long runs,
# 0.07 to 0.47.
STATIC_DRAW = 0.35
MEMORY_DRAW = 0.5
EXPONENTIAL_DRAW = 0.2

# Clocks of equal GPUs at their power limit, one standard deviation: parts differ in leakage, coolers in temperature. On
# five systems with up to 27,648 GPUs, outliers left out, performance varied by 8 % on average: six standard deviations
# from the slowest to the fastest (Sinha et al., Not All GPUs Are Created Equal, SC 2022, arXiv:2208.11035).
CLOCK_SPREAD = 0.013

# Of the power limit, held on average: the median of 46 GEMMs at the limit of an H200, which drew 628 to 715 W of 700 W.
HELD_SHARE = 0.985


def draws(ops: Sequence[ComputeOp], seconds: Floats, device: Device) -> Floats:
    """Power of each op at full clock, relative to the limit of the architecture's reference part."""
    spent = np.maximum(seconds, np.finfo(np.float64).tiny)  # a made-up price may be zero
    used = np.minimum(np.array([_use(op, device) for op in ops]) / spent, 1.0)
    memory = np.minimum(np.array([op.bytes for op in ops]) / (hbm_bytes_per_s(device) * spent), 1.0)
    memory = np.where([isinstance(op, Pointwise) for op in ops], 1.0, memory)
    units = np.array(
        [
            device.architecture.vector_draw
            if isinstance(op, Gemm) and on_vector_units(device, op.dtype)
            else tensor_draw(device)
            for op in ops
        ]
    )
    others = np.array([EXPONENTIAL_DRAW if isinstance(op, Attention) else 0.0 for op in ops])
    drawn: Floats = STATIC_DRAW + units * used + MEMORY_DRAW * memory + others
    return drawn


def watts(draw: Floats, device: Device) -> Floats:
    """Power of the board at the clock that it leaves: what it draws there, or what the power limit is held at."""
    reference_w = device.power_limit_w / power_clock(device) ** 2
    power: Floats = np.minimum(draw * reference_w, HELD_SHARE * device.power_limit_w)
    return power


def tensor_draw(device: Device) -> float:
    """What the main loop of a large GEMM adds; `sustained_clock` is the clock that it leaves the reference part."""
    draw: float = device.architecture.sustained_clock**-2 - STATIC_DRAW
    return draw


def long_clock(device: Device, dtype: str) -> float:
    """Clock in a long run of large GEMMs, relative to a burst: of the tensor cores, or the vector units without one."""
    if on_vector_units(device, dtype):
        return float(clock(np.array(STATIC_DRAW + device.architecture.vector_draw), device))
    return sustained_clock(device)


def clock(draw: Floats, device: Device, gpus: int = 1) -> Floats:
    """Clock at the power limit relative to full: power goes about as the square of the clock near the limit.

    Args:
        gpus: that wait for each other; the clock is that of the slowest.
    """
    clocks: Floats = np.minimum(power_clock(device) / np.sqrt(draw) * (1.0 - CLOCK_SPREAD * _largest_of(gpus)), 1.0)
    return clocks


def _largest_of(count: int) -> float:
    """What the largest of so many standard normal numbers comes to, in the mean (Blom 1958); 0 for one."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def _use(op: ComputeOp, device: Device) -> float:
    """Seconds that the units of an op's products would need for it in a main loop."""
    if isinstance(op, Gemm) or (isinstance(op, Attention) and not on_vector_units(device, op.dtype)):
        return op.flops / (peak_flops_per_s(device, op.dtype) * main_loop_share(device, op.dtype))
    return 0.0
