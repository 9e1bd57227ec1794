"""Kernels that `torch.compile` makes of a chain: gated activations, bias and dropout, norms, rope, loss, fp8 casts.

Each shape is compiled by itself, as a training run with fixed shapes has it: a kernel with dynamic rows is tuned by the
first ones that it meets, and takes up to 1.5 times as long on others.
"""

from collections.abc import Iterator
from itertools import islice

from calibration.bench._sampling import pick, points
from calibration.bench._session import Session, measured
from calibration.bench.pointwise import GAP_S, sizes
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


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """16 Ki to 256 Mi elements, in columns of real models and others; the kernels take turns."""
    numbered = enumerate(islice(points(seed, 4), count))
    return (_shape(number, point) for number, point in numbered)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst."""
    from calibration.bench._kernels import work  # noqa: PLC0415  (imports PyTorch)

    return measured(shape, session.burst(work(shape, session), gap_s=GAP_S, warm_up=3))


def _shape(number: int, point: tuple[float, ...]) -> Measurement:
    name = KERNELS[number % len(KERNELS)]
    rows, cols = sizes(name, point[:3])
    direction = "fwd" if name in ONE_WAY else pick(point[3], ("fwd", "bwd"))
    return Measurement(op=name, dtype="bf16", direction=direction, kernel="compile", rows=rows, cols=cols)
