"""Training rows of one family, the model of some of them, and what it says of the others."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_boosting import Settings, boosted
from calibration.cost.learned_columns import COLUMN_NAMES, GROUP
from calibration.cost.learned_features import Matrix, curve_terms, group_of, matrix, with_groups
from calibration.cost.learned_kriging import Covariance, Kriging, kriged
from calibration.cost.learned_trees import Trees
from calibration.cost.physics import Physics
from calibration.cost.rates import Floats
from hardware.types import Device
from workloads.ops import Attention, ComputeOp, Gemm

FOLDS = 4
THREADS = 2
CURVE_RIDGE = (0.3, 2.0, 2.0)  # rows' worth of pull of each term towards the family's curve


class Sample(NamedTuple):
    """One shape on one device, all its rows merged."""

    op: ComputeOp
    device: Device
    seconds: float


class Training(NamedTuple):
    """The rows of one family as numbers."""

    features: Matrix  # [features, rows]
    base_s: Floats
    target: Floats  # log(measured / physics)
    groups: NDArray[np.intp]
    folds: NDArray[np.intp]

    def targets(self, count: int) -> list[Floats]:
        """Of each of so many groups."""
        return [self.target[self.groups == group] for group in range(count)]


def training_rows(family: str, members: Sequence[Sample], groups: Sequence[str]) -> Training:
    """Rows in the order given; each device prices its own."""
    ops = [sample.op for sample in members]
    base_s = np.empty(len(ops))
    features = np.empty((len(COLUMN_NAMES[family]) - len(GROUP), len(ops)), dtype=np.float32)
    for device, rows in by_device(members):
        part = [ops[row] for row in rows]
        base_s[rows] = Physics(sustained=False).price(part, device).seconds
        features[:, rows] = matrix(family, part, device, base_s[rows])
    measured_s = np.array([sample.seconds for sample in members])
    return Training(
        features=features,
        base_s=base_s,
        target=np.log(measured_s / base_s),
        groups=np.array([groups.index(group_of(op)) for op in ops], dtype=np.intp),
        folds=np.array([_fold(op) for op in ops], dtype=np.intp),
    )


def by_device(members: Sequence[Sample]) -> Iterator[tuple[Device, NDArray[np.intp]]]:
    """Each device with the places of its samples."""
    names = np.array([sample.device.name for sample in members])
    devices = {sample.device.name: sample.device for sample in members}
    for name, device in devices.items():
        yield device, np.flatnonzero(names == name)


def _fold(op: ComputeOp) -> int:
    """By a hash of the shape: layouts, dtypes, directions and devices of one shape stay together."""
    text = repr(shape_of(op)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % FOLDS


def shape_of(op: ComputeOp) -> tuple[object, ...]:
    """What must not be on both sides of a split."""
    if isinstance(op, Gemm):
        return op.batch, op.m, op.n, op.k
    if isinstance(op, Attention):
        return op.batch, op.seq_q, op.seq_kv, op.heads, op.kv_heads, op.head_dim
    return op.op, op.rows, op.cols


class Learning(NamedTuple):
    """What is learned of a family.

    Args:
        settings: with the least mean absolute error on the first fold, unseen.
        unseen: what they say of every fold by a model of the others.
        curve: of all rows, as are the shapes.
    """

    settings: Settings | Covariance
    unseen: Floats
    curve: Floats
    shapes: Trees | Kriging


def learned(training: Training, count: int, grid: Sequence[Settings | Covariance]) -> Learning:
    """By the best of some settings; the models of all rows and of the folds are made beside each other."""
    with ThreadPoolExecutor(THREADS) as threads:  # scikit-learn grows trees outside the interpreter's lock
        tries = [threads.submit(_unseen, training, settings, 0, count) for settings in grid]
        best = _least([found.result() for found in tries], training) if len(grid) > 1 else 0
        whole = threads.submit(fitted, training, grid[best], count)
        others = [threads.submit(_unseen, training, grid[best], fold, count) for fold in range(1, FOLDS)]
        unseen = np.sum([found.result() for found in (tries[best], *others)], axis=0)
        return Learning(grid[best], unseen, *whole.result())


def _least(tries: Sequence[Floats], training: Training) -> int:
    """The place of the try with the least error on the first fold."""
    away = training.folds == 0
    errors = [float(np.abs(training.target - said)[away].sum()) for said in tries]
    return errors.index(min(errors))


def _unseen(training: Training, settings: Settings | Covariance, fold: int, count: int) -> Floats:
    """Predictions for one fold by a model of the others; nothing elsewhere."""
    said, away = np.zeros(len(training.target)), training.folds == fold
    if away.any() and not away.all():
        curve, shapes = fitted(_rows(training, ~away), settings, count)
        said[away] = predicted(_rows(training, away), curve, shapes)
    return said


def _rows(training: Training, which: NDArray[np.bool_]) -> Training:
    return Training(
        features=training.features[:, which],
        base_s=training.base_s[which],
        target=training.target[which],
        groups=training.groups[which],
        folds=training.folds[which],
    )


def predicted(training: Training, curve: Floats, shapes: Trees | Kriging) -> Floats:
    """log(measured / physics) of rows, by what `fitted` has learned of others."""
    features = with_groups(training.features, curve, training.groups)
    return _of_curve(training, curve) + shapes.predict(features, training.groups)


def fitted(training: Training, settings: Settings | Covariance, count: int) -> tuple[Floats, Trees | Kriging]:
    """Curves of the groups, and trees or kriging of what they leave."""
    curve = _curve(training, count)
    features = with_groups(training.features, curve, training.groups)
    left = training.target - _of_curve(training, curve)
    if isinstance(settings, Covariance):
        return curve, kriged(features, training.groups, left, settings)
    return curve, boosted(features, left, settings)


def _of_curve(training: Training, curve: Floats) -> Floats:
    total: Floats = (curve[training.groups].T * curve_terms(training.base_s)).sum(axis=0)
    return total


def _curve(training: Training, count: int) -> Floats:
    """[groups, terms]: least squares, drawn towards the curve of all groups together."""
    terms = curve_terms(training.base_s).T
    common = _ridge(terms, training.target, np.zeros(terms.shape[1]))
    members = [training.groups == group for group in range(count)]
    return np.array([_ridge(terms[rows], training.target[rows], common) for rows in members])


def _ridge(terms: Floats, target: Floats, towards: Floats) -> Floats:
    pull = np.diag(CURVE_RIDGE)
    found: Floats = towards + np.linalg.solve(terms.T @ terms + pull, terms.T @ (target - terms @ towards))
    return found
