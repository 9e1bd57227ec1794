"""Kriging: what a kernel did at nearby sizes, and what other kernels did there, weighed by how near they are.

For families of many kernels with few rows each, where trees have too little to split. The covariance of two rows is

    shared M(d) + same (level + own M(d / reach))        M(d) = (1 + sqrt(3) d) exp(-sqrt(3) d)

with d their distance in units of `UNITS`, and `same` 1 for rows of one kernel and direction, else 0 (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, equations 2.25 and 4.17).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_columns import COLUMN_NAMES
from calibration.cost.learned_features import Matrix
from calibration.cost.rates import Floats

# Features that tell places apart, and how much of each counts as one.
UNITS = {"log_base": 3.0, "log_rows": 3.0, "log_cols": 3.0, "element_bytes": 3.0, "aligned_row": 6.0}
ROWS = [COLUMN_NAMES["pointwise"].index(name) for name in UNITS]
CHUNK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Covariance:
    """Variances of the parts, the noise's among them; distances are divided by `stretch`."""

    shared: float
    level: float
    own: float
    reach: float
    stretch: float
    noise: float


@dataclass(frozen=True, kw_only=True)
class Kriging:
    """Measured places with a weight each.

    Args:
        places: [rows, axes] in units.
        groups: [rows] kernel and direction.
        weights: [rows].
    """

    covariance: Covariance
    places: Floats
    groups: NDArray[np.int32]
    weights: Floats

    def predict(self, features: Matrix, groups: NDArray[np.intp]) -> Floats:
        """Of every column of `features`."""
        starts = range(0, features.shape[1], CHUNK)
        parts = (self._predict(features[:, i : i + CHUNK], groups[i : i + CHUNK]) for i in starts)
        return np.concatenate([np.zeros(0), *parts])

    def _predict(self, features: Matrix, groups: NDArray[np.intp]) -> Floats:
        near = _covariances(self.covariance, _places(features), groups, self.places, self.groups)
        predicted: Floats = near @ self.weights
        return predicted

    def settings(self) -> dict[str, Any]:
        """As words and numbers."""
        return asdict(self.covariance)


def kriged(features: Matrix, groups: NDArray[np.intp], target: Floats, covariance: Covariance) -> Kriging:
    """Weights with which the measured rows predict `target`."""
    places, members = _places(features), groups.astype(np.int32)
    matrix = _covariances(covariance, places, members, places, members)
    matrix[np.diag_indices_from(matrix)] += covariance.noise
    weights = np.linalg.solve(matrix, target).astype(np.float64)
    return Kriging(covariance=covariance, places=places, groups=members, weights=weights)


def _places(features: Matrix) -> Floats:
    units = np.array(list(UNITS.values()))
    places: Floats = features[ROWS].T.astype(np.float64) / units
    return places


def _covariances(covariance: Covariance, a: Floats, a_groups: Any, b: Floats, b_groups: Any) -> Floats:
    found = covariance.shared * _matern(_distances(a, b) / covariance.stretch)
    for group in np.intersect1d(a_groups, b_groups):
        rows, columns = np.flatnonzero(a_groups == group), np.flatnonzero(b_groups == group)
        apart = _distances(a[rows], b[columns]) / (covariance.stretch * covariance.reach)
        found[np.ix_(rows, columns)] += covariance.level + covariance.own * _matern(apart)
    return found


def _distances(a: Floats, b: Floats) -> Floats:
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None] - 2 * a @ b.T
    distances: Floats = np.sqrt(np.maximum(squares, 0.0))
    return distances


def _matern(distance: Floats) -> Floats:
    scaled = np.sqrt(3.0) * distance
    correlation: Floats = (1 + scaled) * np.exp(-scaled)
    return correlation
