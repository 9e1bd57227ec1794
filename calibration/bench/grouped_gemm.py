"""GEMMs of unequal heights in one kernel, as the experts of a mixture are: through `torch._grouped_mm`.

`batch` is the number of groups, m the rows of all of them together; they share the rows unevenly, as routed
tokens do. Where PyTorch has no grouped GEMM the shape is recorded as not supported.
"""

import random
from collections.abc import Iterator
from itertools import islice

from calibration.bench._sampling import aligned, log_size, pick, points
from calibration.bench._session import Session, UnsupportedError, measured
from calibration.table import Measurement

NAME = "grouped_gemm"
WEIGHT = 0.8
RANKS = 1

GROUPS = (2, 4, 8, 16, 32, 64)
MOST_FLOPS = 4e12
SHARES_OF_EVEN = (0.5, 1.5)


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """Experts of 512 to 16 Ki columns for 1 Ki to 64 Ki routed tokens."""
    return islice(map(_shape, points(seed, 4)), count)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst."""
    torch, groups, m = session.torch, shape.batch or 1, shape.m or 1
    if not hasattr(torch, "_grouped_mm"):
        raise UnsupportedError("this PyTorch has no _grouped_mm")
    left = session.random(m, shape.k or 1)
    right = session.random(groups, shape.n or 1, shape.k or 1).mT
    ends = torch.tensor(group_ends(m, groups), dtype=torch.int32, device=session.device)
    return measured(shape, session.burst(lambda: torch._grouped_mm(left, right, offs=ends)))


def group_ends(rows: int, groups: int) -> list[int]:
    """Row after the last of each group; sizes vary by half around the mean, the same each time."""
    uneven = random.Random(groups)
    weights = [uneven.uniform(*SHARES_OF_EVEN) for _ in range(groups)]
    ends = [int(rows * sum(weights[: group + 1]) / sum(weights)) for group in range(groups - 1)]
    return [*ends, rows]


def _shape(point: tuple[float, ...]) -> Measurement:
    n, k = (aligned(log_size(share, 512, 16384), 128) for share in point[:2])
    rows = min(log_size(point[2], 1024, 65536), int(MOST_FLOPS / (2 * n * k)))
    m = max(aligned(rows, 128), 128)
    return Measurement(op=NAME, dtype="bf16", batch=pick(point[3], GROUPS), m=m, n=n, k=k, layout="tn")
