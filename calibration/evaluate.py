"""How good prices are: a cost model against measurements, best against those that no fit has seen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_features import family_of, group_of
from calibration.cost.learned_messages import kind_of
from calibration.cost.learned_spread import NINETY_PERCENT
from calibration.cost.model import CostModel, Prices
from calibration.cost.rates import Floats
from calibration.fit_messages import within
from calibration.table import Measurement, op_of
from hardware.types import Device
from workloads.ops import Collective, CommunicationOp, ComputeOp, Gemm, MeasuredOp, Transfer

ALL = "all"
COLLECTIVE = "collective"
LARGE_BYTES, LARGE = 1e6, "1 MB up"  # of collectives: below, latency and the host's noise are most of the time


class Messages(NamedTuple):
    """Who prices collectives: the ranks of one scale-up domain, and the price of each op among them."""

    gpus: int
    price: Callable[[Sequence[CommunicationOp]], Prices]


class Point(NamedTuple):
    """One measured shape beside its price."""

    op: MeasuredOp
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
        """Errors of each family as a whole, then by data type (GEMM), kernel and direction (others), kind and ranks."""
        found = []
        for family in dict.fromkeys(family_name(point.op) for point in self.points):
            members = [point for point in self.points if family_name(point.op) == family]
            labels = sorted({_label(point.op) for point in members})
            for group in (ALL, *labels):
                chosen = [point for point in members if group in (ALL, _label(point.op))]
                found += [_line(family, name, points) for name, points in _sizes(group, chosen)]
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
    messages: Messages | None = None,
) -> Report:
    """Prices of the rows of one mode on one device, against their times: a median for each different op.

    `cost_model` is of the same mode: `sustained=True` for sustained rows. Without `messages`, collectives have no
    price.
    """
    skipped: dict[str, int] = {}
    times: dict[MeasuredOp, list[float]] = {}
    for row in rows:
        reason, op = _op(row, device, mode, messages.gpus if messages else 0)
        if op is None or row.time_s is None:
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            times.setdefault(op, []).append(row.time_s)
    seconds, spread, reasons = _priced(list(times), cost_model, device, messages)
    points = []
    for (op, measured), predicted_s, sigma, reason in zip(times.items(), seconds, spread, reasons, strict=True):
        if reason:
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            points.append(Point(op, float(np.median(measured)), float(predicted_s), float(sigma)))
    return Report(device=device.name, mode=mode, points=tuple(points), skipped=skipped)


def _op(row: Measurement, device: Device, mode: str, gpus: int) -> tuple[str, MeasuredOp | None]:
    """The op of a row, or why it has none."""
    if row.device != device.name:
        return f"of the device {row.device!r}", None
    if row.mode != mode:
        return f"of the mode {row.mode}", None
    if row.time_s is None:
        return f"not measured: {row.notes}", None
    op = op_of(row)
    if op is None:
        return f"{row.op}: no computation that a cost model prices", None
    if isinstance(op, Collective | Transfer) and not within(row, gpus):
        return f"{row.op}: over {row.ranks} ranks in no domain of {gpus} devices", None
    return "", op


def _priced(
    ops: Sequence[MeasuredOp], cost_model: CostModel, device: Device, messages: Messages | None
) -> tuple[Floats, Floats, list[str]]:
    """Seconds, spread, and for each op the reason if it has no price; kinds of ops are priced together."""
    seconds, spread, reasons = np.zeros(len(ops)), np.zeros(len(ops)), [""] * len(ops)
    for rows in _kinds(ops):
        part: list[Any] = [ops[row] for row in rows]
        try:
            if family_name(part[0]) == COLLECTIVE:
                assert messages, "rows of collectives are left out where nobody prices them"
                seconds[rows], spread[rows] = messages.price(part)
            else:
                seconds[rows], spread[rows] = cost_model.price(part, device)
        except ValueError as error:  # a data type or kernel that the device has not
            for row in rows:
                reasons[row] = str(error)
    return seconds, spread, reasons


def _kinds(ops: Sequence[MeasuredOp]) -> list[NDArray[np.intp]]:
    """Indices of the ops of each family, data type and group."""
    kinds: dict[tuple[str, str, str], list[int]] = {}
    for row, op in enumerate(ops):
        kinds.setdefault((family_name(op), getattr(op, "dtype", ""), _group(op)), []).append(row)
    return [np.array(rows, dtype=np.intp) for rows in kinds.values()]


def family_name(op: MeasuredOp) -> str:
    """gemm, attention, pointwise or collective."""
    return family_of(op) if isinstance(op, ComputeOp) else COLLECTIVE


def _group(op: MeasuredOp) -> str:
    return group_of(op) if isinstance(op, ComputeOp) else kind_of(op)


def _sizes(group: str, points: Sequence[Point]) -> Iterator[tuple[str, Sequence[Point]]]:
    """All points of a group; of collectives the large ones once more."""
    yield group, points
    large = [point for point in points if isinstance(point.op, CommunicationOp) and point.op.bytes >= LARGE_BYTES]
    if large:
        yield f"{group}, {LARGE}", large


def _label(op: MeasuredOp) -> str:
    """Data type of a GEMM; kernel and direction, or kind and ranks, of the others."""
    return op.dtype if isinstance(op, Gemm) else _group(op)


def _line(family: str, group: str, points: Sequence[Point]) -> dict[str, Any]:
    errors = error_figures([point.error for point in points])
    return {"family": family, "group": group, **errors, "inside": float(np.mean([point.inside for point in points]))}


def error_figures(errors: Sequence[float]) -> dict[str, Any]:
    """How many errors, and their size: predicted over measured, less one."""
    found = np.array(errors)
    size = np.abs(found)
    figures = {"median": np.median(size), "mean": size.mean(), "bias": found.mean()}
    return {"n": len(errors), **{name: float(figure) for name, figure in figures.items()}}
