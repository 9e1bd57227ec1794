"""Batches of equal GEMMs in one kernel: the products of unfused attention, and any others."""

from collections.abc import Iterator
from itertools import islice

from calibration.bench import gemm
from calibration.bench._sampling import aligned, log_size, pick, points, weighted
from calibration.bench._session import Session, measured
from calibration.bench._shapes import head_shapes
from calibration.table import Measurement

NAME = "batched_gemm"
WEIGHT = 1.5
RANKS = 1

DTYPES = (("bf16", 0.7), ("fp16", 0.3))
MOST_FLOPS = 4e12
MOST_ELEMENTS = 2**31


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """Scores [s, s] of d, outputs [s, d] of s, and free sizes, a third each."""
    return islice(map(_shape, points(seed, 6)), count)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst."""
    return measured(shape, session.burst(gemm.work(shape, session)))


def _shape(point: tuple[float, ...]) -> Measurement:
    heads, _, dim = pick(point[0], head_shapes())
    seq = aligned(log_size(point[1], 128, 8192), 64)
    free = (log_size(point[1], 16, 4096), log_size(point[4], 16, 4096), log_size(point[5], 16, 4096))
    m, n, k = pick(point[2], ((seq, seq, dim), (seq, dim, seq), free))
    batch = max(2, min(heads * log_size(point[3], 1, 64), _most(m, n, k)))
    layout, dtype = pick(point[4], gemm.LAYOUTS), weighted(point[5], DTYPES)
    return Measurement(op="gemm", dtype=dtype, batch=batch, m=m, n=n, k=k, layout=layout)


def _most(m: int, n: int, k: int) -> int:
    """Largest batch that is short enough and fits."""
    return int(min(MOST_FLOPS / (2.0 * m * n * k), MOST_ELEMENTS / max(m * n, m * k, n * k)))
