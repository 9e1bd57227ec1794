"""The clock of a step: what its kernels draw on average, and the clock that the power limit leaves them.

A GPU holds its power limit over tens of milliseconds, longer than any kernel and shorter than a step. So all kernels of
a step run at one clock, which follows from the mix: GEMMs between memory-bound kernels and waits run faster than in a
loop of GEMMs alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.cost import power
from calibration.cost.model import CostModel, draw_of
from calibration.cost.physics import Physics
from hardware.types import Cluster, Device
from sim.blocks import BlockTime, segment_s
from sim.collectives import in_one_domain
from sim.job import Job
from sim.price import Price, on_device
from workloads.graph import Program, Segment, leaf_runs, messages_among_kernels, runs
from workloads.ops import ComputeOp, Op


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a step asks of a GPU.

    Args:
        clock: of the step, relative to full.
        watts: mean power of the board while its rank computes or communicates.
    """

    clock: float
    watts: float


def load_of(
    program: Program, times: Mapping[int, BlockTime], prices: Mapping[Op, Price], job: Job, model: CostModel
) -> Load:
    """The load of a program on the slowest GPU of a job; pipeline bubbles are not counted as rest.

    Args:
        model: whose prices these are: what kernels draw on the machine that it was fitted on.
    """
    device = job.cluster.device  # draws are of rates, and slower GEMMs draw less
    pairs = zip(program.ops, runs(program), strict=True)
    total = sum(often * segment_s(op, times) for op, often in pairs if isinstance(op, Segment))
    seconds = {op: often * prices[op].seconds for op, often in leaf_runs(program).items() if isinstance(op, ComputeOp)}
    ops = list(seconds)
    drawn = power.draws(ops, np.array([prices[op].seconds for op in ops]), device)
    above = float(np.dot(drawn - power.STATIC_DRAW, np.array(list(seconds.values()))))
    draw = draw_of(model, device) * np.array(power.STATIC_DRAW + above / total)
    return Load(clock=float(power.clock(draw, device, job.gpus)), watts=float(power.watts(draw, device)))


def slowed(prices: Mapping[Op, Price], program: Program, cluster: Cluster, at: float) -> dict[Op, Price]:
    """Prices of a program at a clock, from those at full clock: the physics says how much each kernel slows down.

    Messages within a domain slow down among kernels, since SMs move them. At the end of a step the clock is back.
    """
    kernels = [op for op in prices if isinstance(op, ComputeOp)]
    near = [op for op in messages_among_kernels(program) if in_one_domain(op, cluster)]
    lost = 1.0 / at - 1.0
    ratios = _seconds(kernels, cluster.device, at) / _seconds(kernels, cluster.device, 1.0)
    slower: dict[Op, float] = dict(zip(kernels, ratios.tolist(), strict=True))
    slower |= dict.fromkeys(near, 1.0 + cluster.scale_up.clock_share * lost)
    return {op: replace(paid, seconds=paid.seconds * slower.get(op, 1.0)) for op, paid in prices.items()}


def _seconds(ops: Sequence[ComputeOp], device: Device, at: float) -> NDArray[np.float64]:
    return Physics(clock=at).price([on_device(device, op) for op in ops], device).seconds
