"""Learns the correction of collectives: for each kind and number of ranks a curve over log2(bytes).

A curve is least squares on hats a quarter octave wide, whose steps from knot to knot are drawn towards zero; a row far
off the others counts less (Huber). Then the times at the knots are made to grow with size (isotonic regression): what
is left of noise must not make a larger message cheaper. The physics comes as a function: it is the simulator's, whose
layer lies above.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_messages import SEND_RECV, STEP_OCTAVES, MessageModel, kind_of, sizes_of
from calibration.cost.learned_spread import Spread, errors_on
from calibration.cost.rates import Floats
from calibration.table import Measurement, op_of
from workloads.ops import Collective, CommunicationOp, Transfer

FEWEST_SIZES = 8  # of a kind; below, physics stands alone
FOLDS = 4
REACH_OCTAVES = 1.0  # from a knot to the nearest measured size, at most
STEP_PULL = 0.1  # rows' worth of pull of a knot towards its neighbour
OUTLIER = 0.04  # residual of the logarithm from which a row counts less
ROUNDS = 6


Base = Callable[[Floats], Floats]


class Domain(NamedTuple):
    """Ranks that one fabric joins, and what physics says of their collectives.

    Args:
        gpus: of one domain.
        seconds: of each collective on it, alone on its links.
    """

    fabric: str
    gpus: int
    seconds: Callable[[Sequence[CommunicationOp]], Floats]


class Curve(NamedTuple):
    """Knots of one kind."""

    size: Floats
    log: Floats


def fit_messages(rows: Sequence[Measurement], domain: Domain) -> MessageModel | None:
    """Curves of all kinds that have enough sizes within one domain; None where none has."""
    times = measured(rows, domain)
    counts = Counter(map(kind_of, times))
    kinds = tuple(sorted(kind for kind, count in counts.items() if count >= FEWEST_SIZES))
    ops = [op for op in times if kind_of(op) in kinds]
    if not ops:
        return None
    size, target = sizes_of(ops), np.log(np.array([times[op] for op in ops]) / domain.seconds(ops))
    groups = np.array([kinds.index(kind_of(op)) for op in ops], dtype=np.intp)
    bases = [_base(domain, kind) for kind in kinds]
    residuals = target - _unseen(size, target, groups, bases)
    spread = Spread.of(residuals, size, groups, len(kinds))
    curves = [curve(size[groups == kind], target[groups == kind], base) for kind, base in enumerate(bases)]
    return MessageModel(
        fabric=domain.fabric,
        kinds=kinds,
        curve=np.repeat(np.arange(len(kinds), dtype=np.int32), [len(found.size) for found in curves]),
        size=np.concatenate([found.size for found in curves]),
        log=np.concatenate([found.log for found in curves]),
        spread=spread,
        base_sha256=fingerprint(domain, kinds),
        report={"unseen": errors_on(residuals, spread.at(size, groups), groups, kinds)},
    )


def measured(rows: Sequence[Measurement], domain: Domain) -> dict[CommunicationOp, float]:
    """Median seconds of each different collective and message within one domain."""
    times: dict[CommunicationOp, list[float]] = {}
    for row in rows:
        op = op_of(row)
        if isinstance(op, Collective | Transfer) and row.time_s and row.mode == "burst" and within(row, domain.gpus):
            times.setdefault(op, []).append(row.time_s)
    return {op: float(np.median(seconds)) for op, seconds in times.items()}


def within(row: Measurement, gpus: int) -> bool:
    """Whether all ranks of a row stand in one domain of so many devices; blank ranks_per_node fills nodes."""
    ranks = row.ranks or 1
    return 1 < ranks <= min(row.ranks_per_node or ranks, gpus)


def curve(size: Floats, target: Floats, base: Base) -> Curve:
    """Through rows of one kind, robust against single ones, of times that grow with size."""
    from sklearn.isotonic import isotonic_regression  # noqa: PLC0415  (heavy)

    knots = _knots(size)
    base_log = base(knots)
    return Curve(knots, isotonic_regression(_smooth(size, target, knots) + base_log) - base_log)


def _smooth(size: Floats, target: Floats, knots: Floats) -> Floats:
    hats = np.array([np.interp(size, knots, one) for one in np.eye(len(knots))]).T
    steps = np.diff(np.eye(len(knots)), axis=0)
    pull = STEP_PULL * steps.T @ steps + 1e-9 * np.eye(len(knots))
    weight, log = np.ones(len(size)), np.zeros(len(knots))
    for _ in range(ROUNDS):
        log = np.linalg.solve(hats.T @ (weight[:, None] * hats) + pull, hats.T @ (weight * target))
        weight = OUTLIER / np.maximum(np.abs(target - hats @ log), OUTLIER)
    return log


def _base(domain: Domain, kind: str) -> Base:
    """log2(bytes) -> log(seconds of physics) of one kind."""
    return lambda sizes: np.log(domain.seconds([_probe(kind, 2.0**size) for size in sizes.tolist()]))


def fingerprint(domain: Domain, kinds: Sequence[str]) -> str:
    """Of the physics of these kinds: curves correct the physics that they were fitted on, and no other."""
    probes = [_probe(kind, float(size)) for kind in kinds for size in np.logspace(3, 9, 7)]
    seconds = " ".join(f"{second:.5g}" for second in domain.seconds(probes))
    return hashlib.sha256(seconds.encode()).hexdigest()


def _probe(kind: str, size: float) -> CommunicationOp:
    name, _, ranks = kind.partition("/")
    if name == SEND_RECV:
        return Transfer(bytes=size, stride=1, ranks=int(ranks))
    kinds: Any = name
    return Collective(op=kinds, bytes=size, ranks=int(ranks))


def _knots(size: Floats) -> Floats:
    """Multiples of the step around the measured sizes; none in a gap."""
    first, last = np.floor(size.min() / STEP_OCTAVES), np.ceil(size.max() / STEP_OCTAVES)
    grid = STEP_OCTAVES * np.arange(first, last + 1)
    found: Floats = grid[np.abs(grid[:, None] - size).min(axis=1) <= REACH_OCTAVES]
    return found


def _unseen(size: Floats, target: Floats, groups: NDArray[np.intp], bases: Sequence[Base]) -> Floats:
    """Of each row by a curve through the rows of other folds; equal sizes are in one fold, whatever their kind."""
    folds = np.array([_fold(each) for each in size])
    predicted = np.zeros(len(size))
    for kind in set(groups.tolist()):
        for fold in range(FOLDS):
            away, others = (groups == kind) & (folds == fold), (groups == kind) & (folds != fold)
            if away.any() and others.any():
                predicted[away] = np.interp(size[away], *curve(size[others], target[others], bases[kind]))
    return predicted


def _fold(size: float) -> int:
    return int.from_bytes(hashlib.sha256(f"{size:.9f}".encode()).digest()[:4], "big") % FOLDS
