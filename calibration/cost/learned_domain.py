"""Where a learned correction was measured: it fades out outside, and the physics stands alone."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from calibration.cost.rates import Floats

LANDMARKS = 64
FADE_OCTAVES = 1.5  # from full trust in the correction to none
MARGIN_OCTAVES = 0.1
OWN_BOX_ROWS = 50  # a group with fewer has the box of its family
CHUNK = 8192


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Measured shapes, in octaves.

    Args:
        low, high: [groups, axes] box of the measured shapes of each group of kernels.
        landmarks: [landmarks, axes] shapes among the measured ones, as far apart as can be.
        radius: within which every measured shape has a landmark.
    """

    low: Floats
    high: Floats
    landmarks: Floats
    radius: float

    @classmethod
    def of(cls, places: Floats, groups: NDArray[np.intp], count: int) -> Self:
        """Of the measured shapes `places` [rows, axes], which belong to `count` groups."""
        members = [places[groups == group] for group in range(count)]
        members = [rows if len(rows) >= OWN_BOX_ROWS else places for rows in members]
        landmarks, radius = _spread_out(places)
        return cls(
            low=np.array([rows.min(axis=0) for rows in members]),
            high=np.array([rows.max(axis=0) for rows in members]),
            landmarks=landmarks,
            radius=radius,
        )

    def trust(self, places: Floats, groups: NDArray[np.intp]) -> Floats:
        """1 among the measured shapes, 0 far from all of them or of an unknown group (-1), smooth between."""
        outside = np.maximum(self.low[groups] - places, places - self.high[groups]).max(axis=1)
        far = np.maximum(outside - MARGIN_OCTAVES, self._distance(places) - self.radius)
        left = np.clip(1 - far / FADE_OCTAVES, 0.0, 1.0)
        trust: Floats = np.where(groups < 0, 0.0, left * left * (3 - 2 * left))
        return trust

    def _distance(self, places: Floats) -> Floats:
        """To the nearest landmark."""
        starts = range(0, len(places), CHUNK)
        return np.concatenate([np.zeros(0), *(self._nearest(places[i : i + CHUNK]) for i in starts)])

    def _nearest(self, places: Floats) -> Floats:
        products = places @ self.landmarks.T
        squares = np.square(self.landmarks).sum(axis=1) - 2 * products
        nearest = squares.min(axis=1) + np.square(places).sum(axis=1)
        distance: Floats = np.sqrt(np.maximum(nearest, 0.0))
        return distance


def _spread_out(places: Floats) -> tuple[Floats, float]:
    """Greedy: always the shape that is farthest from those chosen so far; and how far the rest is at most."""
    chosen = [int(np.argmin(np.square(places - places.mean(axis=0)).sum(axis=1)))]
    distance = np.sqrt(np.square(places - places[chosen[0]]).sum(axis=1))
    while len(chosen) < LANDMARKS and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.sqrt(np.square(places - places[chosen[-1]]).sum(axis=1)))
    return places[chosen], float(distance.max())
