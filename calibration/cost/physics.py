"""Prices from data sheets and a few physical parameters of each architecture; nothing learned by shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.cost import power
from calibration.cost.attention import attention_s
from calibration.cost.gemm import gemm_s
from calibration.cost.model import Prices
from calibration.cost.pointwise import pointwise_s
from calibration.cost.rates import Floats
from hardware.types import Device
from workloads.ops import Attention, ComputeOp, Gemm, Pointwise

CAST = "quantize_dynamic"  # finds the scale, then casts


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """The cost model that needs no measurement of the device.

    Args:
        sustained: each op in a long run of itself alone, at the clock that the power limit leaves it; otherwise as a
            short benchmark sees it.
        clock: of all ops, relative to a short benchmark, for ops that run among others in a step.
        draw: power of this machine's kernels relative to that of the description, which sets the clock of long runs.
    """

    sustained: bool = False
    clock: float = 1.0
    draw: float = 1.0

    def price(self, ops: Sequence[ComputeOp], device: Device) -> Prices:
        """Price all `ops` in bulk. An unsupported dtype or attention kernel raises ValueError."""
        kinds = np.array([_kind(op) for op in ops], dtype=np.intp)
        architecture = device.architecture
        spreads = (architecture.gemm_spread, architecture.attention_spread, architecture.pointwise_spread)
        seconds = _seconds(ops, kinds, device, np.full(len(ops), self.clock))
        if self.sustained:
            clock = power.clock(self.draw * power.draws(ops, seconds, device), device)
            seconds = _seconds(ops, kinds, device, clock)
        return Prices(seconds, np.array(spreads)[kinds])


def _seconds(ops: Sequence[ComputeOp], kinds: NDArray[np.intp], device: Device, clock: Floats) -> Floats:
    seconds = np.empty(len(ops))
    gemms = [op for op in ops if isinstance(op, Gemm)]
    attentions = [op for op in ops if isinstance(op, Attention)]
    seconds[kinds == 0] = gemm_s(gemms, device, clock[kinds == 0]) + _casts_s(gemms, device)
    seconds[kinds == 1] = attention_s(attentions, device, clock[kinds == 1])
    seconds[kinds == 2] = pointwise_s([op for op in ops if isinstance(op, Pointwise)], device)
    return seconds


def _casts_s(ops: Sequence[Gemm], device: Device) -> Floats:
    """Of each GEMM that casts its input first, that cast."""
    seconds, places = np.zeros(len(ops)), [place for place, op in enumerate(ops) if op.casts]
    casts = [Pointwise(op=CAST, rows=op.batch * op.m, cols=op.k, dtype="bf16") for op in ops if op.casts]
    seconds[places] = pointwise_s(casts, device)
    return seconds


def _kind(op: ComputeOp) -> int:
    return (Gemm, Attention, Pointwise).index(type(op))
