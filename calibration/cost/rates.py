"""What a device can do, as cost models use it: peaks by dtype, the clock under load, ways to add times."""

import math

import numpy as np
from numpy.typing import NDArray

from hardware.types import Device
from workloads.ops import DTYPE_BYTES

Floats = NDArray[np.float64]

# Power grows with clock times voltage squared, which near the cap falls slowly:
# about as the clock squared.
POWER_EXPONENT = 0.5


def peak_flops_per_s(device: Device, dtype: str) -> float:
    """Dense peak of matrix products; fp32 runs on the vector units where the tensor cores do not take it."""
    if dtype in device.tensor_flops_per_s and dtype in DTYPE_BYTES:
        return device.tensor_flops_per_s[dtype]
    if dtype == "fp32" and dtype in device.vector_flops_per_s:
        return device.vector_flops_per_s[dtype]
    known = sorted({*device.tensor_flops_per_s, *({"fp32"} & set(device.vector_flops_per_s))} & set(DTYPE_BYTES))
    raise ValueError(f"{device.name}: no dtype {dtype!r}; known: {', '.join(known)}")


def on_vector_units(device: Device, dtype: str) -> bool:
    """Whether matrix products of `dtype` run on the vector units, as the tensor cores do not take it."""
    return dtype not in device.tensor_flops_per_s


def main_loop_share(device: Device, dtype: str) -> float:
    """Of the peak, in the main loop of a GEMM; an unlisted dtype does as the worst one listed."""
    architecture = device.architecture
    if on_vector_units(device, dtype):
        return architecture.vector_share
    return architecture.tensor_share.get(dtype, min(architecture.tensor_share.values()))


def vector_peak_flops_per_s(device: Device) -> float:
    """fp32 on the vector units, achieved."""
    return device.architecture.vector_share * device.vector_flops_per_s["fp32"]


def hbm_bytes_per_s(device: Device) -> float:
    """Memory bandwidth that streaming kernels achieve."""
    return device.architecture.hbm_share * device.memory_bytes_per_s


def l2_bytes_per_s(device: Device) -> float:
    """From L2 into one SM."""
    return device.architecture.l2_bytes_per_clock * device.boost_clock_hz


def power_clock(device: Device) -> float:
    """Clock at the power limit, relative to the reference part of the architecture under the same load."""
    peak = device.tensor_flops_per_s.get("fp16", device.vector_flops_per_s["fp32"])
    return math.pow(device.power_limit_w / peak / device.architecture.joules_per_flop, POWER_EXPONENT)


def sustained_clock(device: Device) -> float:
    """Clock in a long run of large GEMMs, relative to a burst."""
    return min(1.0, device.architecture.sustained_clock * power_clock(device))


def overlapped(a: Floats, b: Floats) -> Floats:
    """Time of two activities that overlap: the longer one, up to a fifth more where they are equal.

    The 4-norm; written with squares because powers are slow.
    """
    overlapped_: Floats = np.sqrt(np.sqrt(np.square(np.square(a)) + np.square(np.square(b))))
    return overlapped_
