"""What a machine's kernels draw, from its long runs; and what those say of bursts that nobody measured."""

from collections.abc import Sequence

import numpy as np

from calibration.cost.learned_boosting import Settings
from calibration.cost.learned_features import group_of
from calibration.cost.learned_kriging import Covariance
from calibration.cost.learned_training import Sample, fitted, predicted, training_rows
from calibration.cost.physics import Physics
from calibration.cost.rates import Floats, on_vector_units
from calibration.profile import LEAST_DRAW, MOST_DRAW
from workloads.ops import Gemm

FEWEST_ROWS = 12  # of a family; below, physics stands alone
ENOUGH_BURSTS = 4000  # for one number of a machine; more only take longer
DRAWS = np.geomspace(LEAST_DRAW, MOST_DRAW, 91)  # a step of 2 % is 1 % of the clock


def measured_draw(bursts: Sequence[Sample], long_runs: Sequence[Sample], settings: Settings | Covariance) -> float:
    """What the machine's kernels draw relative to the description: that at which its long GEMMs take their time.

    The clock of a step follows from what all its kernels draw (`sim/load.py`), so that this carries over to mixes that
    nobody measured. Least absolute errors, as some rows are of a library's bad choice. 1 where few long runs say so.

    Args:
        settings: of the model that says what the same GEMMs take in a burst.
    """
    gemms = [sample for sample in long_runs if _on_tensor_cores(sample)]
    if len(gemms) < FEWEST_ROWS:
        return 1.0
    ops, device = [sample.op for sample in gemms], gemms[0].device
    learned = _correction(gemms, _some([sample for sample in bursts if isinstance(sample.op, Gemm)]), settings)
    by_physics = np.log([sample.seconds for sample in gemms]) - learned
    priced = (Physics(sustained=True, draw=draw).price(ops, device).seconds for draw in DRAWS.tolist())
    errors = [float(np.abs(by_physics - np.log(seconds)).sum()) for seconds in priced]
    return round(float(DRAWS[errors.index(min(errors))]), 3)


def _on_tensor_cores(sample: Sample) -> bool:
    return isinstance(sample.op, Gemm) and not on_vector_units(sample.device, sample.op.dtype)


def _some(bursts: Sequence[Sample]) -> Sequence[Sample]:
    """Evenly taken: a table is in the order of its seed, which is even by itself."""
    return bursts[:: -(-len(bursts) // ENOUGH_BURSTS) or 1]


def _correction(gemms: Sequence[Sample], bursts: Sequence[Sample], settings: Settings | Covariance) -> Floats:
    """log(measured / physics) of GEMMs in a burst, as other bursts show it; none where too few were measured."""
    if len(bursts) < FEWEST_ROWS:
        return np.zeros(len(gemms))
    groups = tuple(sorted({group_of(sample.op) for sample in (*gemms, *bursts)}))
    learned = fitted(training_rows("gemm", bursts, groups), settings, len(groups))
    return predicted(training_rows("gemm", gemms, groups), *learned)


def unlike(long_runs: Sequence[Sample], bursts: Sequence[Sample]) -> list[Sample]:
    """Long runs of ops that no burst has measured."""
    known = {sample.op for sample in bursts}
    return [sample for sample in long_runs if sample.op not in known]


def as_bursts(found: Sequence[Sample], draw: float) -> list[Sample]:
    """Long runs as they would have been in a burst: what was measured only so still shows its shapes."""
    if not found:
        return []
    ops, device = [sample.op for sample in found], found[0].device
    slow, fast = (Physics(sustained=each, draw=draw).price(ops, device).seconds for each in (True, False))
    seconds = np.array([sample.seconds for sample in found]) * fast / slow
    return [sample._replace(seconds=float(second)) for sample, second in zip(found, seconds, strict=True)]
