"""How sure a learned price is: from residuals of rows that the model had not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from calibration.cost.rates import Floats

NINETY_PERCENT = 1.645  # standard deviations that hold 90 % of a normal distribution
BIN_ROWS = 50
MOST_BINS = 10
SHRINKAGE_ROWS = 15  # a group with so many rows counts half for itself
SMALLEST = 0.005


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviation of log(measured / predicted), by size and by group of kernels.

    Args:
        size: [bins] log2 of seconds, ascending; between two bins, the line through them.
        sigma: [bins] so that 1.645 of it hold 90 % of the residuals.
        factor: [groups] by which a group is less sure than the family.
    """

    size: Floats
    sigma: Floats
    factor: Floats

    @classmethod
    def of(cls, residuals: Floats, size: Floats, groups: NDArray[np.intp], count: int) -> Self:
        """Of out-of-fold residuals."""
        order = np.argsort(size, kind="stable")
        bins = np.array_split(order, int(np.clip(len(order) // BIN_ROWS, 1, MOST_BINS)))
        sigma = np.array([_sigma(residuals[rows]) for rows in bins])
        centres = np.array([np.median(size[rows]) for rows in bins])
        relative = residuals / np.interp(size, centres, sigma)
        factor = np.array([_shrunk(relative[groups == group]) for group in range(count)])
        return cls(size=centres, sigma=sigma, factor=factor)

    def at(self, size: Floats, groups: NDArray[np.intp]) -> Floats:
        """Of ops of such sizes and groups."""
        spread: Floats = np.interp(size, self.size, self.sigma) * self.factor[groups]
        return spread


def _sigma(residuals: Floats) -> float:
    return max(float(np.quantile(np.abs(residuals), 0.9)) / NINETY_PERCENT, SMALLEST)


def _shrunk(relative: Floats) -> float:
    own = _sigma(relative) if len(relative) else 1.0
    weight = len(relative) / (len(relative) + SHRINKAGE_ROWS)
    return float(np.exp(weight * np.log(own)))


def errors_on(
    residuals: Floats, spread: Floats, groups: NDArray[np.intp], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Errors of all rows and of each group, from residuals log(measured / predicted); for the report of a fit."""
    members = {"all": np.ones(len(groups), dtype=np.bool_)}
    members |= {name: groups == index for index, name in enumerate(names)}
    return {name: _error(residuals[rows], spread[rows]) for name, rows in members.items()}


def _error(residuals: Floats, spread: Floats) -> dict[str, float]:
    relative = np.exp(-residuals) - 1
    inside = np.abs(residuals) <= NINETY_PERCENT * spread
    found = {"median": np.median(np.abs(relative)), "mean": np.abs(relative).mean(), "bias": relative.mean()}
    return {
        "n": len(residuals),
        **{name: round(float(value), 5) for name, value in found.items()},
        "inside": round(float(inside.mean()), 4),
    }
