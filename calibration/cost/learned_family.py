"""The learned correction of one family of kernels: GEMMs, attention, or those bound by memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_domain import Domain
from calibration.cost.learned_features import coordinates, curve_terms, group_of, matrix, stand_in, with_groups
from calibration.cost.learned_kriging import Kriging
from calibration.cost.learned_spread import Spread
from calibration.cost.learned_trees import Trees
from calibration.cost.rates import Floats
from hardware.types import Device
from workloads.ops import ComputeOp


class Correction(NamedTuple):
    """Of each op, relative to physics."""

    log: Floats  # of learned / physics, in a burst
    spread: Floats  # its standard deviation
    trust: Floats  # 0..1, how far both count
    load: Floats  # exponent of the slowdown in a long run
    level: Floats  # as log, where nothing like the op was measured


@dataclass(frozen=True, kw_only=True)
class FamilyModel:
    """log(measured / physics) = curve of the group + trees (or kriging) of the shape, within `limits`.

    Args:
        family: gemm, attention or pointwise.
        features: names of the rows of the feature matrix.
        groups: kernels that have a curve of their own (data types, attention kernels, memory-bound kernels).
        curve: [groups, terms] factors of `curve_terms`.
        limits: [groups, 2] least and greatest correction that was measured.
        load: [groups] share of physics' slowdown in a long run that was measured (an exponent, 1: all of it).
        level: [groups] what of the correction is the same for all shapes, and holds outside the measured ones as well.
        report: how the fit went: hyper-parameters and errors on folds that it had not seen.
    """

    family: str
    features: tuple[str, ...]
    groups: tuple[str, ...]
    curve: Floats
    limits: Floats
    shapes: Trees | Kriging
    domain: Domain
    spread: Spread
    load: Floats
    level: Floats
    report: Mapping[str, object] = field(default_factory=dict)

    def correction(self, ops: Sequence[ComputeOp], device: Device, base_s: Floats) -> Correction:
        """Of each op; `base_s` is what physics says."""
        groups = self.members(ops)
        features = with_groups(matrix(self.family, ops, device, base_s), self.curve, groups)
        raw = (self.curve[groups].T * curve_terms(base_s)).sum(axis=0) + self.shapes.predict(features, groups)
        low, high = self.limits[groups].T
        return Correction(
            log=np.clip(raw, low, high),
            spread=self.spread.at(np.log2(base_s), groups),
            trust=self.domain.trust(coordinates(self.family, ops), groups),
            load=self.load[groups],
            level=np.where(groups < 0, 0.0, self.level[groups]),
        )

    def trust(self, ops: Sequence[ComputeOp]) -> Floats:
        """1 in the measured domain, 0 far from it."""
        return self.domain.trust(coordinates(self.family, ops), self.members(ops))

    def members(self, ops: Sequence[ComputeOp]) -> NDArray[np.intp]:
        """Index of each op's group, or of the one that stands in for it; -1 for one that was not measured."""
        index = {group: place for place, group in enumerate(self.groups)}
        found = {group: index.get(group, index.get(stand_in(group), -1)) for group in set(map(group_of, ops))}
        return np.array([found[group] for group in map(group_of, ops)], dtype=np.intp)
