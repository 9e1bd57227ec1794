"""Prices every different op of a program in one call: computation by a cost model, messages by the network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.cost.model import CostModel
from hardware.types import Cluster, Device
from sim.host_link import copy_prices
from sim.message_price import message_prices
from workloads.ops import Attention, CommunicationOp, ComputeOp, Gemm, HostCopy, Op


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Seconds of an op, and the standard deviation of log(measured / predicted)."""

    seconds: float
    spread: float


def price(ops: Sequence[Op], cluster: Cluster, cost_model: CostModel) -> dict[Op, Price]:
    """What each op costs on `cluster`."""
    messages = [op for op in ops if isinstance(op, CommunicationOp)]
    copies = [op for op in ops if isinstance(op, HostCopy)]
    computation = [op for op in ops if not isinstance(op, CommunicationOp | HostCopy)]
    prices: dict[Op, Price] = dict(zip(messages, _prices(*message_prices(messages, cluster, cost_model)), strict=True))
    if copies:
        prices |= zip(copies, _prices(*copy_prices(copies, cluster.device)), strict=True)
    stand_ins = [_stand_in(on_device(cluster.device, op)) for op in computation]
    seconds, spread = cost_model.price([kernel for kernel, _ in stand_ins], cluster.device)
    seconds *= np.array([often for _, often in stand_ins])
    return prices | dict(zip(computation, _prices(seconds, spread), strict=True))


def _stand_in(op: ComputeOp) -> tuple[ComputeOp, float]:
    """A kernel of a kind that has been measured, and how often its time is that of an op.

    Experts whose GEMMs run by themselves take as long as one after the other: on an H200 four streams of cuBLAS took
    1.02 to 1.06 times that where an expert has 16 to 264 tiles of 128 x 256, 1.16 times with more, and 0.7 times with 4
    to 8 (medians of 315 products).

    Attention whose values have fewer columns than its keys runs at the rate of one that has as few of both: cuDNN with
    192 and 128 took 1.02 times that forward and 1.09 times backward, with 96 and 64 1.00 and 1.14 times (medians of 12
    shapes on an H200).
    """
    if isinstance(op, Gemm) and op.streams:
        return replace(op, batch=1, grouped=False), op.batch
    if isinstance(op, Attention) and op.value_dim:
        narrow = replace(op, head_dim=op.value_dim, value_dim=0)
        return narrow, op.flops / narrow.flops
    return op, 1.0


def on_device(device: Device, op: ComputeOp) -> ComputeOp:
    """A stack's fused attention that the device has not is the vendor's usual one there."""
    if isinstance(op, Attention) and op.kernel not in device.architecture.attention_share:
        return replace(op, kernel="flash")
    return op


def _prices(seconds: NDArray[np.float64], spread: NDArray[np.float64]) -> list[Price]:
    pairs = zip(seconds, spread, strict=True)
    return [Price(seconds=float(second), spread=float(deviation)) for second, deviation in pairs]
