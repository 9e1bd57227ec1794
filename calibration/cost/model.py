"""The one thing that a cost model does: many ops on one device -> seconds, with their spread."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hardware.types import Device
from workloads.ops import ComputeOp


class Prices(NamedTuple):
    """Seconds of each op, in the order asked, and how sure they are.

    `spread` is the standard deviation of log(measured / predicted), dimensionless.
    """

    seconds: NDArray[np.float64]
    spread: NDArray[np.float64]


class CostModel(Protocol):
    """Prices computation in bulk. Deterministic; no state changes."""

    def price(self, ops: Sequence[ComputeOp], device: Device) -> Prices:
        """Price all `ops` in one vectorised call. An unsupported dtype raises ValueError."""
        ...


def draw_of(model: CostModel, device: Device) -> float:
    """What kernels draw on the machine whose prices these are, relative to the description; 1 without measurements."""
    measured = getattr(model, "draw_on", None)
    return 1.0 if measured is None else float(measured(device))
