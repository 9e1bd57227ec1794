"""Norms of single heads and softmax over experts, eager and compiled: rows of 8 to 256 columns.

A block of threads has little to do on such a row, so these kernels are far from what they reach on wide ones.
"""

from collections.abc import Iterator
from itertools import islice

from calibration.bench._sampling import aligned, log_size, pick, points, weighted
from calibration.bench._session import Session, measured
from calibration.bench.pointwise import FEWEST, GAP_S, MOST
from calibration.table import Measurement

NAME = "narrow"
WEIGHT = 1.0
RANKS = 1

KERNELS = (
    ("rms_norm", 3.0),
    ("rms_norm_eager", 1.0),
    ("layer_norm", 1.0),
    ("softmax", 2.0),
    ("rms_norm_compiled", 1.0),
)
HEAD_DIMS = (64, 96, 128, 192, 256)
COMPILED = (64, 128)  # a kernel is compiled once for each number of columns
DTYPES = (("bf16", 0.8), ("fp16", 0.1), ("fp32", 0.1))


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """16 Ki to 256 Mi elements."""
    return islice(map(_shape, points(seed, 5)), count)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst."""
    from calibration.bench._kernels import work  # noqa: PLC0415  (imports PyTorch)

    return measured(shape, session.burst(work(shape, session), gap_s=GAP_S))


def _shape(point: tuple[float, ...]) -> Measurement:
    name, dtype = weighted(point[0], KERNELS), weighted(point[1], DTYPES)
    compiled = name == "rms_norm_compiled"
    cols = log_size(point[2], 8, 256) if name == "softmax" else pick(point[2], COMPILED if compiled else HEAD_DIMS)
    cols = aligned(cols, 8)
    return Measurement(
        op=name,
        dtype="bf16" if dtype == "fp32" and name.startswith("rms_norm_") else dtype,
        direction=pick(point[3], ("fwd", "bwd")),
        kernel="compile" if compiled else "eager",
        rows=aligned(round(log_size(point[4], FEWEST, MOST) / cols), 8),
        cols=cols,
    )
