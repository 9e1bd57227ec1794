"""Sums of small regression trees, evaluated in bulk without the library that fitted them.

A tree has at most sixteen leaves, numbered from left to right. A node whose feature exceeds its threshold sends an op
to the right, which rules out the leaves on its left: one bit each. The first leaf that no node rules out is the op's.
So a tree costs fifteen comparisons of whole columns, and no jumps.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_features import Matrix
from calibration.cost.rates import Floats

LEAVES = 16
NODES = LEAVES - 1
CHUNK = 8192  # ops at a time, so that the columns stay in the processor's cache

# What is ruled out (one bit each leaf) -> the first leaf that is left, the lowest bit that is not set.
OUT = np.arange(1 << LEAVES)
FIRST_LEFT = np.minimum(np.log2((OUT + 1) & ~OUT), LEAVES - 1).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Trees:
    """`start` plus one leaf of each tree.

    Args:
        feature: [trees, NODES] row of the feature matrix.
        threshold: [trees, NODES]; above it, an op goes right. Infinite where a tree has fewer nodes.
        rules_out: [trees, NODES] leaves that are out then, one bit each.
        value: [trees, LEAVES] what a leaf adds.
    """

    start: float
    feature: NDArray[np.uint8]
    threshold: NDArray[np.float32]
    rules_out: NDArray[np.uint16]
    value: Floats

    def predict(self, features: Matrix, _groups: object = None) -> Floats:
        """Of every column of `features`; the groups stand in there."""
        ends = [self._predict(features[:, i : i + CHUNK]) for i in range(0, features.shape[1], CHUNK)]
        return np.concatenate([np.zeros(0), *ends])

    def _predict(self, features: Matrix) -> Floats:
        total = np.full(features.shape[1], self.start)
        right = np.empty(features.shape[1], dtype=np.bool_)
        bits, out = np.empty(features.shape[1], dtype=np.uint16), np.empty(features.shape[1], dtype=np.uint16)
        for nodes, values in zip(self._nodes, self.value, strict=True):
            out[:] = 0
            for feature, threshold, rules_out in nodes:
                np.greater(features[feature], threshold, out=right)
                np.multiply(right, rules_out, out=bits)
                np.bitwise_or(out, bits, out=out)
            total += values.take(FIRST_LEFT.take(out))
        return total

    @cached_property
    def _nodes(self) -> list[list[tuple[int, np.float32, np.uint16]]]:
        rows = zip(self.feature, self.threshold, self.rules_out, strict=True)
        return [[(int(feature), limit, out) for feature, limit, out in zip(*row, strict=True) if out] for row in rows]
