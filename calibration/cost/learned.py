"""Learned prices: a correction over physics, fitted to measurements (docs/models/learned-prices.md)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_family import Correction, FamilyModel
from calibration.cost.learned_features import FAMILIES
from calibration.cost.model import Prices
from calibration.cost.physics import Physics
from calibration.cost.rates import Floats, peak_flops_per_s
from calibration.profile import Profile
from hardware.types import Device
from workloads.ops import ComputeOp, Pointwise

COVERED = 0.5  # trust in the correction from which an op counts as measured


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Physics times the correction of a profile where something like the op was measured; else physics alone.

    Args:
        profile: what was fitted. A device that it has no measurements of is a relative: it gets the same
            correction, and is no surer than physics.
        sustained: each op in a long run of itself alone; the burst's price times the ratio that physics gives, to the
            power that long runs have shown.
        clock: of all ops, relative to a short benchmark, for ops that run among others in a step.
    """

    profile: Profile
    sustained: bool = False
    clock: float = 1.0

    def price(self, ops: Sequence[ComputeOp], device: Device) -> Prices:
        """Price all `ops` in bulk. An unsupported dtype or attention kernel raises ValueError."""
        base = Physics(sustained=False).price(ops, device)
        seconds, spread = base.seconds, base.spread.copy()
        if self.sustained or self.clock != 1.0:
            slow = Physics(sustained=self.sustained, clock=self.clock, draw=self.draw_on(device))
            seconds = slow.price(ops, device).seconds
        times, seconds = seconds / base.seconds, seconds.copy()
        for model, part, rows in self._parts(ops):
            found = model.correction(part, device, base.seconds[rows])
            learned_s = base.seconds[rows] * np.exp(found.trust * found.log + (1 - found.trust) * found.level)
            learned_s *= _slowdown(times[rows], found, self.sustained)
            seconds[rows] = np.maximum(learned_s, _bound_s(part, device))
            spread[rows] = _blended(found.spread, base.spread[rows], found.trust)
        if device.name not in self.profile.devices:
            spread = np.maximum(spread, base.spread)
        return Prices(seconds, spread)

    def draw_on(self, device: Device) -> float:
        """Power of kernels on the machine that was measured, relative to the description; a relative's is not known."""
        return self.profile.draw if device.name in self.profile.devices else 1.0

    def coverage(self, ops: Sequence[ComputeOp], device: Device) -> NDArray[np.bool_]:
        """Whether something like each op was measured on the device itself, so that the correction counts."""
        covered = np.zeros(len(ops), dtype=np.bool_)
        if device.name not in self.profile.devices:
            return covered
        for model, part, rows in self._parts(ops):
            covered[rows] = model.trust(part) >= COVERED
        return covered

    def _parts(self, ops: Sequence[ComputeOp]) -> Iterator[tuple[FamilyModel, Sequence[ComputeOp], NDArray[np.intp]]]:
        """Model, ops and their places for each family that was fitted."""
        places = {family: place for place, family in enumerate(self.profile.families)}
        kinds = {kind: places.get(family, -1) for kind, family in FAMILIES.items()}
        families = np.array([kinds[type(op)] for op in ops], dtype=np.intp)
        for place, model in enumerate(self.profile.families.values()):
            rows = np.flatnonzero(families == place)
            if len(rows):
                yield model, (ops if len(rows) == len(ops) else [ops[row] for row in rows.tolist()]), rows


def _bound_s(ops: Sequence[ComputeOp], device: Device) -> Floats:
    """No kernel beats the peak of the units that it runs on."""
    if isinstance(ops[0], Pointwise):
        return np.zeros(len(ops))
    peaks = {dtype: peak_flops_per_s(device, dtype) for dtype in {op.dtype for op in ops}}
    bound_s: Floats = np.array([op.flops for op in ops]) / np.array([peaks[op.dtype] for op in ops])
    return bound_s


def _slowdown(times: Floats, found: Correction, sustained: bool) -> Floats:
    """What physics says, to the power that long runs have shown where the correction counts."""
    exponent = 1 + found.trust * (found.load - 1) if sustained else 1.0
    slowdown: Floats = np.power(times, exponent)
    return slowdown


def _blended(learned: Floats, physics: Floats, trust: Floats) -> Floats:
    spread: Floats = np.sqrt(trust * np.square(learned) + (1 - trust) * np.square(physics))
    return spread
