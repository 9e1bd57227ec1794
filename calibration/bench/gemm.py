"""GEMMs in three layouts and five types: any size, and the linear layers of real models.

C[m, n] = A[m, k] B[k, n] through `torch.mm`, fp8 through `torch._scaled_mm`, which knows the layout tn alone.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from calibration.bench._sampling import aligned, log_size, pick, points, weighted
from calibration.bench._session import Session, UnsupportedError, measured
from calibration.bench._shapes import projection
from calibration.table import Measurement

NAME = "gemm"
WEIGHT = 17.0
RANKS = 1

DTYPES = (("bf16", 0.66), ("fp8", 0.10), ("fp16", 0.08), ("tf32", 0.08), ("fp32", 0.08))
KINDS = (("wide", 0.18), ("middle", 0.27), ("real", 0.55))
LAYOUTS = ("tn", "nn", "nt")
LARGEST = 65536
# Longest GEMM of each type: about ten milliseconds on a GPU of 2024.
FLOPS = {"bf16": 8e12, "fp16": 8e12, "fp8": 1.5e13, "tf32": 3e12, "fp32": 5e11}
MOST_ELEMENTS = 2**31


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """Of every kind, type and layout from the start."""
    return islice(map(_shape, points(seed, 8)), count)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst."""
    return measured(shape, session.burst(work(shape, session)))


def work(shape: Measurement, session: Session) -> Callable[[], object]:
    """What computes the GEMM once, into memory that is there already."""
    torch, m, n, k = session.torch, shape.m or 1, shape.n or 1, shape.k or 1
    if shape.dtype == "fp8":
        return _scaled(session, m, n, k)
    if shape.dtype == "tf32" and session.facts.vendor == "amd":
        raise UnsupportedError("PyTorch on ROCm computes fp32 in full")
    torch.set_float32_matmul_precision("high" if shape.dtype == "tf32" else "highest")
    left, right = operands(shape, session)
    out = torch.empty(*left.shape[:-1], n, dtype=left.dtype, device=session.device)
    product = torch.mm if left.dim() == 2 else torch.bmm
    return lambda: product(left, right, out=out)


def operands(shape: Measurement, session: Session) -> tuple[Any, Any]:
    """A and B in the memory order of the layout; batched where there is more than one."""
    batch = (shape.batch,) if shape.batch and shape.batch > 1 else ()
    m, n, k = shape.m or 1, shape.n or 1, shape.k or 1
    first, second = {"tn": (False, True), "nn": (False, False), "nt": (True, False)}[shape.layout or "tn"]
    left = session.random(*batch, *((k, m) if first else (m, k)), dtype=shape.dtype)
    right = session.random(*batch, *((n, k) if second else (k, n)), dtype=shape.dtype)
    return left.mT if first else left, right.mT if second else right


def capped(shape: dict[str, int], dtype: str) -> dict[str, Any]:
    """With the largest sizes halved until the GEMM is short enough and its operands fit."""
    sizes = dict(shape)
    while _flops(sizes) > FLOPS[dtype] or _elements(sizes) > MOST_ELEMENTS:
        largest = max(("k", "n", "m"), key=lambda name: sizes[name])
        sizes[largest] = -(-sizes[largest] // 2)
    step = 16 if dtype == "fp8" else 1
    return {name: value if name == "m" else aligned(value, step) for name, value in sizes.items()}


def _shape(point: tuple[float, ...]) -> Measurement:
    kind, dtype = weighted(point[0], KINDS), weighted(point[1], DTYPES)
    layout = "tn" if dtype == "fp8" else pick(point[2], LAYOUTS)
    sizes = _layer(point, layout) if kind == "real" else _any(point, kind)
    return Measurement(op=NAME, dtype=dtype, batch=1, layout=layout, **capped(sizes, dtype))


def _any(point: tuple[float, ...], kind: str) -> dict[str, int]:
    """Log-uniform: a third in multiples of 64, a third of 8, a third as they fall."""
    smallest, largest = (1, LARGEST) if kind == "wide" else (128, 32768)
    sizes = [log_size(share, smallest, largest) for share in point[3:6]]
    step = pick(point[6], (64, 8, 1))
    return {name: aligned(size, step) if size >= step else size for name, size in zip("mnk", sizes, strict=True)}


def _layer(point: tuple[float, ...], layout: str) -> dict[str, int]:
    """Forward, data gradient or weight gradient of a linear layer of a real model."""
    outputs, inputs = projection(point[3], point[4], point[5])
    tokens = aligned(log_size(point[6], 256, 65536), pick(point[7], (512, 128, 128, 1)))
    named = {
        "tn": (tokens, outputs, inputs),
        "nn": (tokens, inputs, outputs),
        "nt": (outputs, inputs, tokens),
    }
    return dict(zip("mnk", named[layout], strict=True))


def _scaled(session: Session, m: int, n: int, k: int) -> Callable[[], object]:
    """8-bit operands with a scale each, accumulated the fast way, as training does it."""
    torch = session.torch
    left, right = session.random(m, k, dtype="fp8"), session.random(n, k, dtype="fp8").t()
    one = torch.ones((), device=session.device)
    options = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True}
    return lambda: torch._scaled_mm(left, right, **options)


def _flops(sizes: dict[str, int]) -> float:
    return 2.0 * sizes["m"] * sizes["n"] * sizes["k"]


def _elements(sizes: dict[str, int]) -> int:
    m, n, k = sizes["m"], sizes["n"], sizes["k"]
    return max(m * k, n * k, m * n)
