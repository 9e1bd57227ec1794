"""How good power and clock are in long runs: what kernels draw and the clock that is left, against a table's rows.

A clock is compared where the tensor cores set it: the data sheet's boost clock is that of tensor work.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from calibration.cost import power
from calibration.cost.model import CostModel, draw_of
from calibration.evaluate import ALL, error_figures, family_name
from calibration.table import Measurement, op_of
from hardware.types import Device
from workloads.ops import Attention, ComputeOp, Gemm

OTHERS = "others"


class PowerPoint(NamedTuple):
    """One long run beside its prediction; None where it was not measured, or is not compared."""

    op: ComputeOp
    measured_w: float
    predicted_w: float
    measured_hz: float | None
    predicted_hz: float

    @property
    def label(self) -> str:
        """Data type of a GEMM, others together."""
        return f"gemm {self.op.dtype}" if isinstance(self.op, Gemm) else OTHERS


def power_points(rows: Sequence[Measurement], cost_model: CostModel, device: Device) -> list[PowerPoint]:
    """Of the rows of long runs with their power; `cost_model` prices bursts. An op without a price is left out."""
    found = list[PowerPoint]()
    for row in rows:
        op = op_of(row)
        if row.mode == "sustained" and row.power_w and row.device == device.name and isinstance(op, ComputeOp):
            found += _point(row, op, cost_model, device)
    return found


def power_summary(points: Sequence[PowerPoint]) -> list[dict[str, Any]]:
    """Errors of watts, then of clocks: of all, of GEMMs, of each data type of GEMMs, of others."""
    clocks = [point for point in points if point.measured_hz and _on_tensor_cores(point.op)]
    watts = _lines("power", points, [point.predicted_w / point.measured_w - 1 for point in points])
    return [*watts, *_lines("clock", clocks, [point.predicted_hz / (point.measured_hz or 1) - 1 for point in clocks])]


def _lines(family: str, points: Sequence[PowerPoint], errors: Sequence[float]) -> Iterator[dict[str, Any]]:
    groups = {ALL: points, "gemm": [point for point in points if family_name(point.op) == "gemm"]}
    groups |= {label: [p for p in points if p.label == label] for label in sorted({p.label for p in points})}
    for group, members in groups.items():
        if members:
            chosen = [error for point, error in zip(points, errors, strict=True) if point in members]
            yield {"family": family, "group": group, **error_figures(chosen), "inside": None}


def _point(row: Measurement, op: ComputeOp, cost_model: CostModel, device: Device) -> list[PowerPoint]:
    try:
        draw = draw_of(cost_model, device) * power.draws([op], cost_model.price([op], device).seconds, device)
    except ValueError:  # a data type or kernel that the device has not
        return []
    watts, clock_hz = power.watts(draw, device), power.clock(draw, device) * device.boost_clock_hz
    return [PowerPoint(op, row.power_w or np.nan, float(watts[0]), row.sm_clock_hz, float(clock_hz[0]))]


def _on_tensor_cores(op: ComputeOp) -> bool:
    """Attention and GEMMs, but those of fp32, which run on the vector units."""
    return isinstance(op, Gemm | Attention) and op.dtype != "fp32"
