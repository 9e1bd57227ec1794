"""The end of a step over many parameter tensors: AdamW fused and foreach, SGD, clipping, norms, copies.

`rows` tensors of `cols` fp32 elements each, as the parameters of a model are.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from calibration.bench._sampling import log_size, points
from calibration.bench._session import Session, measured
from calibration.table import Measurement

NAME = "optimizer"
WEIGHT = 2.2
RANKS = 1

KERNELS = (
    *("adamw_fused", "adamw_foreach", "sgd", "grad_norm", "clip"),
    *("adamw_fused", "unscale", "cast_master", "accumulate", "zero"),
)
FEWEST, MOST = 2**16, 2**29
MOST_TENSORS = 256
GAP_S = 1e-3


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """64 Ki to 512 Mi parameters in 1 to 256 tensors."""
    numbered = enumerate(islice(points(seed, 2), count))
    return (_shape(number, point) for number, point in numbered)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst."""
    return measured(shape, session.burst(WORKS[shape.op](session, shape), gap_s=GAP_S, warm_up=3))


def _shape(number: int, point: tuple[float, ...]) -> Measurement:
    tensors = log_size(point[0], 1, MOST_TENSORS)
    elements = max(1, log_size(point[1], FEWEST, MOST) // tensors)
    return Measurement(op=KERNELS[number % len(KERNELS)], dtype="fp32", direction="fwd", rows=tensors, cols=elements)


Works = Callable[[Session, Measurement], Callable[[], object]]


def _tensors(session: Session, shape: Measurement, dtype: str = "fp32") -> list[Any]:
    return [session.random(shape.cols or 1, dtype=dtype) for _ in range(shape.rows or 1)]


def _step(kind: str, **options: Any) -> Works:
    def work(session: Session, shape: Measurement) -> Callable[[], object]:
        parameters = [tensor.requires_grad_() for tensor in _tensors(session, shape)]
        for parameter in parameters:
            parameter.grad = session.torch.randn_like(parameter)
        optimizer = getattr(session.torch.optim, kind)(parameters, lr=1e-6, **options)
        step: Callable[[], object] = optimizer.step
        return step

    return work


def _norm(session: Session, shape: Measurement) -> Callable[[], object]:
    torch, gradients = session.torch, _tensors(session, shape)
    return lambda: torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def _clip(session: Session, shape: Measurement) -> Callable[[], object]:
    torch, gradients = session.torch, _tensors(session, shape)
    factor = torch.ones((), device=session.device)
    return lambda: torch._foreach_mul_(gradients, factor)


def _unscale(session: Session, shape: Measurement) -> Callable[[], object]:
    torch, gradients = session.torch, _tensors(session, shape)
    found, inverse = torch.zeros(1, device=session.device), torch.ones(1, device=session.device)
    return lambda: torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, inverse)


def _cast(session: Session, shape: Measurement) -> Callable[[], object]:
    narrow, wide = _tensors(session, shape, "bf16"), _tensors(session, shape)
    return lambda: session.torch._foreach_copy_(narrow, wide)


def _accumulate(session: Session, shape: Measurement) -> Callable[[], object]:
    wide, narrow = _tensors(session, shape), _tensors(session, shape, "bf16")
    return lambda: [total.add_(part) for total, part in zip(wide, narrow, strict=True)]


def _zero(session: Session, shape: Measurement) -> Callable[[], object]:
    gradients = _tensors(session, shape)
    return lambda: session.torch._foreach_zero_(gradients)


WORKS: Mapping[str, Works] = {
    "adamw_fused": _step("AdamW", fused=True),
    "adamw_foreach": _step("AdamW", foreach=True),
    "sgd": _step("SGD", momentum=0.9, foreach=True),
    "grad_norm": _norm,
    "clip": _clip,
    "unscale": _unscale,
    "cast_master": _cast,
    "accumulate": _accumulate,
    "zero": _zero,
}
