"""1F1B: warm up, then one forward and one backward in turn (PipeDream-Flush, arXiv:2006.09503).

Stage i of p keeps the activations of at most p - i micro-batches.
"""

from collections.abc import Iterator

from workloads.routes import around as routes
from workloads.schedules import Slot

__all__ = ["SPLITS", "WORDS", "faults", "order", "routes"]

WORDS = ("1F1B",)
SPLITS = False


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Iterator[Slot]:  # noqa: ARG001
    """Warm-up forwards, alternation, cool-down backwards."""
    warm_up = min(stages - stage - 1, micro_batches)
    yield from (Slot("F", index, 0) for index in range(warm_up))
    for index in range(micro_batches - warm_up):
        yield Slot("F", warm_up + index, 0)
        yield Slot("B", index, 0)
    yield from (Slot("B", index, 0) for index in range(micro_batches - warm_up, micro_batches))


def faults(stages: int, chunks: int, micro_batches: int) -> list[str]:  # noqa: ARG001
    """One chunk a stage."""
    return [] if chunks == 1 else [f"one_f_one_b runs one chunk a stage, not vp = {chunks}; try interleaved"]
