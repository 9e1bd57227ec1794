"""Fused attention, forward and backward, through PyTorch's scaled-dot-product attention.

Each backend by itself: FlashAttention-2, and the vendor's library (cuDNN; CK on ROCm).
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from calibration.bench._sampling import aligned, log_size, pick, points, weighted
from calibration.bench._session import Session, UnsupportedError, measured
from calibration.bench._shapes import head_shapes
from calibration.table import Measurement

NAME = "attention"
WEIGHT = 28.0
RANKS = 1

KERNELS = ("flash2", "cudnn")
DTYPES = (("bf16", 0.85), ("fp16", 0.15))
BACKENDS = {"flash2": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "ck": "FLASH_ATTENTION"}
MOST_TOKENS = 65536
MOST_FLOPS = 3e12  # forward, mask not counted
GAP_S = 4e-4


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """512 to 64 Ki tokens, heads of real models under tensor parallelism."""
    return islice(map(_shape, points(seed, 8)), count)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst."""
    return measured(shape, session.burst(work(shape, session), gap_s=GAP_S))


def work(shape: Measurement, session: Session) -> Callable[[], object]:
    """What computes one direction once."""
    torch = session.torch
    inputs = [_input(session, shape, *size) for size in _sizes(shape)]
    forward = _forward(shape, session)
    if shape.direction == "fwd":
        return lambda: forward(*inputs)
    out = forward(*inputs)
    gradient = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True)


def _forward(shape: Measurement, session: Session) -> Callable[..., Any]:
    attention = __import__("torch.nn.attention", fromlist=["sdpa_kernel"])
    compute = session.torch.nn.functional.scaled_dot_product_attention
    _choose_library(shape, session)
    backend = getattr(attention.SDPBackend, BACKENDS[shape.kernel or "flash2"])
    options = {"is_causal": bool(shape.causal), "enable_gqa": shape.heads != shape.kv_heads}

    def forward(*inputs: Any) -> Any:
        with attention.sdpa_kernel(backend):
            return compute(*(tensor.transpose(1, 2) for tensor in inputs), **options)

    return forward


def _choose_library(shape: Measurement, session: Session) -> None:
    """On ROCm the flash backend has two implementations."""
    if session.facts.vendor != "amd":
        return
    choose = getattr(session.torch.backends.cuda, "preferred_rocm_fa_library", None)
    if choose is None and shape.kernel == "ck":
        raise UnsupportedError("this PyTorch has no CK attention")
    if choose is not None:
        choose("ck" if shape.kernel == "ck" else "aotriton")


def _sizes(shape: Measurement) -> list[tuple[int, int]]:
    """(tokens, heads) of Q, K and V."""
    seq_kv, kv_heads = shape.seq_kv or 1, shape.kv_heads or 1
    return [(shape.seq_q or 1, shape.heads or 1), (seq_kv, kv_heads), (seq_kv, kv_heads)]


def _input(session: Session, shape: Measurement, tokens: int, heads: int) -> Any:
    return session.random(shape.batch or 1, tokens, heads, shape.head_dim or 1, dtype=shape.dtype, grad=True)


def _shape(point: tuple[float, ...]) -> Measurement:
    heads, kv_heads, dim = pick(point[0], head_shapes())
    seq = aligned(log_size(point[1], 512, MOST_TOKENS), pick(point[2], (512, 128, 128, 1)))
    seq = min(seq, MOST_TOKENS)
    while _flops(seq, heads, dim) > MOST_FLOPS and heads % 2 == 0:
        heads, kv_heads = heads // 2, max(1, kv_heads // 2)
    kv_heads = next(count for count in range(kv_heads, 0, -1) if heads % count == 0)
    while _flops(seq, heads, dim) > MOST_FLOPS:
        seq //= 2
    most = min(MOST_TOKENS // seq, int(MOST_FLOPS / _flops(seq, heads, dim)))
    return Measurement(
        op=NAME,
        dtype=weighted(point[3], DTYPES),
        batch=log_size(point[4], 1, max(1, most)),
        seq_q=seq,
        seq_kv=seq,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        causal=point[5] < 0.6,
        direction=pick(point[6], ("fwd", "bwd")),
        kernel=pick(point[7], KERNELS),
    )


def _flops(seq: int, heads: int, dim: int) -> float:
    return 4.0 * seq * seq * heads * dim
