"""Prices from data sheets and a few physical parameters of each architecture; nothing learned by shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.cost.attention import attention_s
from calibration.cost.gemm import gemm_s
from calibration.cost.model import Prices
from calibration.cost.pointwise import pointwise_s
from hardware.types import Device
from workloads.ops import Attention, ComputeOp, Gemm, Pointwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """The cost model that needs no measurement of the device.

    Args:
        sustained: clocks as in a training step that lasts; otherwise as a short benchmark sees them.
    """

    sustained: bool = True

    def price(self, ops: Sequence[ComputeOp], device: Device) -> Prices:
        """Price all `ops` in bulk. An unsupported dtype or attention kernel raises ValueError."""
        gemms = [op for op in ops if isinstance(op, Gemm)]
        attentions = [op for op in ops if isinstance(op, Attention)]
        pointwises = [op for op in ops if isinstance(op, Pointwise)]
        architecture = device.architecture
        kinds = np.array([_kind(op) for op in ops], dtype=np.intp)
        seconds = np.empty(len(ops))
        seconds[kinds == 0] = gemm_s(gemms, device, sustained=self.sustained)
        seconds[kinds == 1] = attention_s(attentions, device, sustained=self.sustained)
        seconds[kinds == 2] = pointwise_s(pointwises, device)
        spreads = (
            architecture.gemm_spread,
            architecture.attention_spread,
            architecture.pointwise_spread,
        )
        return Prices(seconds, np.array(spreads)[kinds])


def _kind(op: ComputeOp) -> int:
    return (Gemm, Attention, Pointwise).index(type(op))
