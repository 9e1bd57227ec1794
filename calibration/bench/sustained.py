"""Long runs under load, with board power and clock: GEMMs of every type, attention, copies, a softmax.

At its power limit a GPU runs large GEMMs at a lower clock than a short benchmark sees; step times need this one.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from calibration.bench import attention, gemm
from calibration.bench._sampling import aligned, log_size, pick, points
from calibration.bench._session import Session
from calibration.bench._shapes import projection
from calibration.table import Measurement

NAME = "sustained"
WEIGHT = 25.0
RANKS = 1

# In turn; a GEMM by its type.
KINDS = (
    *("bf16", "fp8", "attention", "bf16", "fp16", "bf16", "copy", "bf16"),
    *("tf32", "bf16", "attention", "bf16", "fp8", "bf16", "fp32", "softmax"),
)
MOST_FLOPS = 8e12


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """Large ones: half linear layers of real models, half any size."""
    attentions = (shape for shape in attention.shapes(seed, 50 * count + 50) if _long(shape))
    numbered = enumerate(islice(points(seed, 7), count))
    return (_shape(KINDS[number % len(KINDS)], point, attentions) for number, point in numbered)


def run(shape: Measurement, session: Session) -> Measurement:
    """Back to back until the power has settled."""
    return session.sustained(_work(shape, session), shape)


def _work(shape: Measurement, session: Session) -> Callable[[], object]:
    if shape.op == "gemm":
        return gemm.work(shape, session)
    if shape.op == "attention":
        return attention.work(shape, session)
    from calibration.bench._kernels import work  # noqa: PLC0415  (imports PyTorch)

    return work(shape, session)


def _shape(kind: str, point: tuple[float, ...], attentions: Iterator[Measurement]) -> Measurement:
    if kind == "attention":
        return replace(next(attentions), mode="sustained")
    if kind in ("copy", "softmax"):
        rows, cols = aligned(log_size(point[0], 2**14, 2**17), 64), pick(point[1], (1024, 2048, 4096))
        words: dict[str, Any] = {"direction": "fwd", "kernel": "eager", "mode": "sustained"}
        return Measurement(op=kind, dtype="bf16", rows=rows, cols=cols, **words)
    layout = "tn" if kind == "fp8" else pick(point[0], gemm.LAYOUTS)
    sizes = gemm.capped(_sizes(point, layout), kind)
    return Measurement(op="gemm", dtype=kind, batch=1, layout=layout, mode="sustained", **sizes)


def _sizes(point: tuple[float, ...], layout: str) -> dict[str, int]:
    if point[1] < 0.5:
        values = [aligned(log_size(share, 1024, 16384), 128) for share in point[2:5]]
        return dict(zip("mnk", values, strict=True))
    outputs, inputs = projection(0.3 + 0.7 * point[2], point[3] / 2, point[4])
    tokens = aligned(log_size(point[5], 2048, 32768), 512)
    order = {"tn": (tokens, outputs, inputs), "nn": (tokens, inputs, outputs), "nt": (outputs, inputs, tokens)}
    return dict(zip("mnk", order[layout], strict=True))


def _long(shape: Measurement) -> bool:
    """Enough work to fill the GPU."""
    tokens, heads = (shape.batch or 1) * (shape.seq_q or 1), shape.heads or 1
    return tokens * heads * (shape.seq_q or 1) >= 2**29
