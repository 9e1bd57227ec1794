"""How good prices are: a cost model against measurements, best against those that no fit has seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_features import family_of, group_of
from calibration.cost.learned_spread import NINETY_PERCENT
from calibration.cost.model import CostModel
from calibration.cost.rates import Floats
from calibration.table import Measurement, op_of
from hardware.types import Device
from workloads.ops import Attention, ComputeOp, Gemm, Pointwise

ALL = "all"


class Point(NamedTuple):
    """One measured shape beside its price."""

    op: ComputeOp
    measured_s: float
    predicted_s: float
    spread: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1

    @property
    def inside(self) -> bool:
        """Whether the measured time lies in the 90 % interval."""
        deviation = abs(np.log(self.measured_s / self.predicted_s))
        return bool(deviation <= NINETY_PERCENT * self.spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every shape, and the rows that have no price by their reason."""

    device: str
    mode: str
    points: tuple[Point, ...]
    skipped: Mapping[str, int]

    def summary(self) -> list[dict[str, Any]]:
        """Errors of each family as a whole, then by data type (GEMM), kernel and direction (the others)."""
        found = []
        for family in dict.fromkeys(family_of(point.op) for point in self.points):
            members = [point for point in self.points if family_of(point.op) == family]
            found.append(_line(family, ALL, members))
            labels = sorted({_label(point.op) for point in members})
            found += [_line(family, label, [p for p in members if _label(p.op) == label]) for label in labels]
        return found

    def document(self) -> dict[str, Any]:
        """For JSON: the summary, and what was left out."""
        return {
            "device": self.device,
            "mode": self.mode,
            "shapes": len(self.points),
            "summary": self.summary(),
            "skipped": dict(self.skipped),
        }


def evaluate(
    rows: Sequence[Measurement],
    cost_model: CostModel,
    device: Device,
    *,
    mode: str = "burst",
) -> Report:
    """Prices of the rows of one mode on one device, against their times: a median for each different op.

    `cost_model` is of the same mode: `sustained=True` for sustained rows.
    """
    skipped: dict[str, int] = {}
    times: dict[ComputeOp, list[float]] = {}
    for row in rows:
        reason, op = _op(row, device, mode)
        if op is None or row.time_s is None:
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            times.setdefault(op, []).append(row.time_s)
    seconds, spread, reasons = _priced(list(times), cost_model, device)
    points = []
    for (op, measured), predicted_s, sigma, reason in zip(times.items(), seconds, spread, reasons, strict=True):
        if reason:
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            points.append(Point(op, float(np.median(measured)), float(predicted_s), float(sigma)))
    return Report(device=device.name, mode=mode, points=tuple(points), skipped=skipped)


def _op(row: Measurement, device: Device, mode: str) -> tuple[str, ComputeOp | None]:
    """The op of a row, or why it has none."""
    if row.device != device.name:
        return f"of the device {row.device!r}", None
    if row.mode != mode:
        return f"of the mode {row.mode}", None
    if row.time_s is None:
        return f"not measured: {row.notes}", None
    op = op_of(row)
    if not isinstance(op, Gemm | Attention | Pointwise):
        return f"{row.op}: no computation that a cost model prices", None
    return "", op


def _priced(ops: Sequence[ComputeOp], cost_model: CostModel, device: Device) -> tuple[Floats, Floats, list[str]]:
    """Seconds, spread, and for each op the reason if it has no price; kinds of ops are priced together."""
    seconds, spread, reasons = np.zeros(len(ops)), np.zeros(len(ops)), [""] * len(ops)
    for rows in _kinds(ops):
        part = [ops[row] for row in rows]
        try:
            seconds[rows], spread[rows] = cost_model.price(part, device)
        except ValueError as error:  # a data type or kernel that the device has not
            for row in rows:
                reasons[row] = str(error)
    return seconds, spread, reasons


def _kinds(ops: Sequence[ComputeOp]) -> list[NDArray[np.intp]]:
    """Indices of the ops of each family, data type and group."""
    kinds: dict[tuple[str, str, str], list[int]] = {}
    for row, op in enumerate(ops):
        kinds.setdefault((family_of(op), op.dtype, group_of(op)), []).append(row)
    return [np.array(rows, dtype=np.intp) for rows in kinds.values()]


def _label(op: ComputeOp) -> str:
    """Data type of a GEMM; kernel and direction of the others."""
    return op.dtype if isinstance(op, Gemm) else group_of(op)


def _line(family: str, group: str, points: Sequence[Point]) -> dict[str, Any]:
    errors = np.array([point.error for point in points])
    return {
        "family": family,
        "group": group,
        "n": len(points),
        "median": float(np.median(np.abs(errors))),
        "mean": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "inside": float(np.mean([point.inside for point in points])),
    }
