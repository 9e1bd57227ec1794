"""Kernels bound by memory traffic, one launch or a few of eager PyTorch: activations, norms, softmax, losses.

Their names are those of `workloads/pointwise.toml`. A `cast` goes forward from 16 bit to fp32 and backward from
fp32 to 16 bit.
"""

from collections.abc import Iterator
from itertools import islice

from calibration.bench._sampling import aligned, log_size, pick, points, weighted
from calibration.bench._session import Session, measured
from calibration.bench._shapes import vocabularies, widths
from calibration.table import Measurement

NAME = "pointwise"
WEIGHT = 3.0
RANKS = 1

ONE_WAY = ("copy", "zero", "transpose", "add", "argmax")
STREAMING = ("cast", "mul", "scale", "relu", "gelu", "silu", "dropout", "bias_add", "layer_norm", "rms_norm")
SCORES = ("softmax", "mask", "softmax_eager", "softmax_dropout", "softmax_math")
LOSSES = ("cross_entropy_torch", "cross_entropy_eager", "cross_entropy_split")
ROUTED = ("gather_rows", "scatter_rows", "combine_rows_eager")
OTHERS = (
    *("rms_norm_eager", "rope_eager", "rope_complex", "embedding", "merge_attention"),
    *("clamp_halves", "row_bias"),
)
KERNELS = tuple((name, 1.0) for name in (*ONE_WAY, *STREAMING, *STREAMING, *SCORES, *LOSSES, *ROUTED, *OTHERS))
# Their traffic is that of 16-bit activations with fp32 in between.
NARROW_ONLY = (
    "combine_rows_eager",
    "cast",
    "rms_norm_eager",
    "softmax_eager",
    "rope_complex",
    "merge_attention",
    "argmax",
    *LOSSES,
)
DTYPES = (("bf16", 0.75), ("fp16", 0.12), ("fp32", 0.13))
FEWEST, MOST = 2**14, 2**28
VOCABULARIES = (32000, 50304, 128256)
HEAD_DIM = 128
GAP_S = 3e-4


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """16 Ki to 256 Mi elements, in columns of real models and others."""
    return islice(map(_shape, points(seed, 7)), count)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst."""
    from calibration.bench._kernels import work  # noqa: PLC0415  (imports PyTorch)

    return measured(shape, session.burst(work(shape, session), gap_s=GAP_S))


def sizes(name: str, point: tuple[float, ...]) -> tuple[int, int]:
    """(rows, columns) that a kernel has in training, by three numbers in 0..1."""
    cols = columns(name, point[0], point[1])
    elements = log_size(point[2], max(FEWEST, cols), MOST)
    rows = max(1, round(elements / cols))
    if name in SCORES or name == "scale_mask_softmax":
        return aligned(rows, cols), cols
    return (aligned(rows, 8) if rows > 64 else rows), cols


def columns(name: str, kind: float, share: float) -> int:
    """Vocabulary, sequence length, heads or width."""
    if name in LOSSES or name in ("argmax", "cross_entropy", "cross_entropy_split_compiled"):
        return pick(share, vocabularies())
    if name in SCORES or name == "scale_mask_softmax":
        return aligned(log_size(share, 256, 8192), 128)
    if name.startswith("rope") or name == "merge_attention":
        return HEAD_DIM * log_size(share, 1, 64)
    return pick(share, widths()) if kind < 0.6 else aligned(log_size(share, 256, 32768), 8)


def _shape(point: tuple[float, ...]) -> Measurement:
    name = weighted(point[0], KERNELS)
    dtype = weighted(point[1], DTYPES)
    rows, cols = sizes(name, point[3:6])
    return Measurement(
        op=name,
        dtype="bf16" if name in NARROW_ONLY and dtype == "fp32" else dtype,
        n=pick(point[6], VOCABULARIES) if name == "embedding" else None,
        direction="fwd" if name in ONE_WAY else pick(point[2], ("fwd", "bwd")),
        kernel="eager",
        rows=rows,
        cols=cols,
    )
