"""Zero-bubble: weight gradients wait, to fill bubbles in the memory of 1F1B (ZB-H1, Qi et al., arXiv:2401.10241).

Searched schedules of that memory, ZB-1p, have the same bubble (there, Table 5).
"""

from collections.abc import Iterator

from workloads.routes import around as routes
from workloads.schedules import Slot

__all__ = ["SPLITS", "WORDS", "faults", "order", "routes"]

WORDS = ("ZB-1p", "ZB-H1")
SPLITS = True


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Iterator[Slot]:  # noqa: ARG001
    """1F1B of forward passes and gradients of inputs; those of weights, `stage` micro-batches later."""
    warm_up = min(stages - stage - 1, micro_batches)
    yield from (Slot("F", index, 0) for index in range(warm_up))
    for index in range(micro_batches):
        if warm_up + index < micro_batches:
            yield Slot("F", warm_up + index, 0)
        yield Slot("I", index, 0)
        if index >= stage:
            yield Slot("W", index - stage, 0)
    yield from (Slot("W", index, 0) for index in range(max(micro_batches - stage, 0), micro_batches))


def faults(stages: int, chunks: int, micro_batches: int) -> list[str]:  # noqa: ARG001
    """One chunk a stage."""
    return [] if chunks == 1 else [f"zero_bubble runs one chunk a stage, not vp = {chunks}; try zero_bubble_v"]
