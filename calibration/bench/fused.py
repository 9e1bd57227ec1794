"""Kernels that `torch.compile` makes of a chain: gated activations, bias and dropout, norms, rope, loss, fp8 casts."""

from collections.abc import Iterator
from itertools import islice

from calibration.bench._sampling import aligned, log_size, pick, points
from calibration.bench._session import Session, measured
from calibration.bench.pointwise import GAP_S, HEAD_DIM
from calibration.table import Measurement

NAME = "fused"
WEIGHT = 16.0
RANKS = 1

# Not the cast with a scale for each column: alone it becomes another kernel, three times as fast as in a training run.
ONE_WAY = ("quantize_fp8", "quantize_fp8_transpose", "quantize_fp8_rows")
KERNELS = (
    *("swiglu", "rms_norm_compiled", "rope", "cross_entropy", "swiglu", "bias_gelu", "squared_relu", "rope"),
    *(
        "dropout_add",
        "geglu",
        "bias_dropout_add",
        "scale_mask_softmax",
        *ONE_WAY,
        "cross_entropy_split_compiled",
        "combine_rows",
    ),
)
# A kernel is compiled once for each number of columns, so there are few.
WIDTHS = (4096, 8192, 2304, 14336)
VOCABULARIES = (32000, 128256)
SEQUENCES = (2048, 4096)
FEWEST, MOST = 2**15, 2**28


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """32 Ki to 256 Mi elements; the kernels take turns, and the first columns come first."""
    numbered = enumerate(islice(points(seed, 3), count))
    return (_shape(number, point) for number, point in numbered)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst."""
    from calibration.bench._kernels import work  # noqa: PLC0415  (imports PyTorch)

    return measured(shape, session.burst(work(shape, session), gap_s=GAP_S, warm_up=3))


def _shape(number: int, point: tuple[float, ...]) -> Measurement:
    name = KERNELS[number % len(KERNELS)]
    cols = _columns(name, min(point[0], number / (4 * len(KERNELS))))
    rows = max(2, round(log_size(point[1], max(FEWEST, cols), MOST) / cols))
    rows = aligned(rows, cols) if name == "scale_mask_softmax" else rows
    direction = "fwd" if name in ONE_WAY else pick(point[2], ("fwd", "bwd"))
    return Measurement(op=name, dtype="bf16", direction=direction, kernel="compile", rows=rows, cols=cols)


def _columns(name: str, share: float) -> int:
    choices = {
        "cross_entropy": VOCABULARIES,
        "cross_entropy_split_compiled": VOCABULARIES,
        "scale_mask_softmax": SEQUENCES,
        "rope": tuple(width // HEAD_DIM * HEAD_DIM for width in WIDTHS[:2]),
    }
    return pick(share, choices.get(name, WIDTHS))
