"""Boosted regression trees: fitted by scikit-learn, and taken over as plain arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.cost.learned_features import Matrix
from calibration.cost.learned_trees import LEAVES, NODES, Trees
from calibration.cost.rates import Floats

AGREEMENT = 1e-9  # between scikit-learn's predictions and those of the arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of the boosted trees: how many, how much each counts, how much it sees."""

    trees: int
    rate: float
    columns: float
    rows: float
    least_rows: int


TREES = (
    Settings(trees=250, rate=0.1, columns=0.3, rows=0.5, least_rows=4),
    Settings(trees=300, rate=0.12, columns=0.3, rows=0.8, least_rows=2),
)


def boosted(features: Matrix, target: Floats, settings: Settings) -> Trees:
    """Trees that predict `target` from the rows of `features`; deterministic."""
    from sklearn.ensemble import GradientBoostingRegressor  # noqa: PLC0415  (heavy)

    model = GradientBoostingRegressor(
        loss="huber",
        alpha=0.95,
        n_estimators=settings.trees,
        learning_rate=settings.rate,
        max_features=settings.columns,
        subsample=settings.rows,
        min_samples_leaf=settings.least_rows,
        max_leaf_nodes=LEAVES,
        max_depth=None,
        random_state=0,
    )
    columns = np.ascontiguousarray(features.T)
    model.fit(columns, target)
    trees = _exported(model)
    assert np.abs(trees.predict(features) - model.predict(columns)).max() < AGREEMENT
    return trees


def _exported(model: Any) -> Trees:
    """scikit-learn's trees as arrays."""
    count = len(model.estimators_)
    feature, rules_out = np.zeros((count, NODES), np.uint8), np.zeros((count, NODES), np.uint16)
    threshold, value = np.full((count, NODES), np.inf, np.float32), np.zeros((count, LEAVES))
    for place, tree in enumerate(estimator[0].tree_ for estimator in model.estimators_):
        leaves, nodes = _walk(tree, 0, 0)
        value[place, : len(leaves)] = model.learning_rate * tree.value[leaves, 0, 0]
        for node, (index, out) in enumerate(nodes):
            feature[place, node], rules_out[place, node] = tree.feature[index], out
            threshold[place, node] = _at_most(tree.threshold[index])
    return Trees(
        start=float(model.init_.constant_.item()),
        feature=feature,
        threshold=threshold,
        rules_out=rules_out,
        value=value,
    )


def _walk(tree: Any, index: int, before: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Leaves from left to right; inner nodes, each with the leaves on its left as bits."""
    if tree.children_left[index] < 0:
        return [index], []
    left, left_nodes = _walk(tree, tree.children_left[index], before)
    right, right_nodes = _walk(tree, tree.children_right[index], before + len(left))
    out = ((1 << len(left)) - 1) << before
    return left + right, [(index, out), *left_nodes, *right_nodes]


def _at_most(threshold: float) -> np.float32:
    """The largest float32 that is not above: features are float32, so comparisons come out the same."""
    nearest = np.float32(threshold)
    return nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf))
