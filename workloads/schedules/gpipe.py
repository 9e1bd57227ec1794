"""GPipe: all micro-batches forward, then all backward (Huang et al., 2019, arXiv:1811.06965)."""

from collections.abc import Iterator

from workloads.routes import around as routes
from workloads.schedules import Slot

__all__ = ["SPLITS", "WORDS", "faults", "order", "routes"]

WORDS = ("GPipe",)
SPLITS = False


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Iterator[Slot]:  # noqa: ARG001
    """Every stage keeps the activations of all micro-batches."""
    yield from (Slot("F", index, 0) for index in range(micro_batches))
    yield from (Slot("B", index, 0) for index in range(micro_batches))


def faults(stages: int, chunks: int, micro_batches: int) -> list[str]:  # noqa: ARG001
    """One chunk a stage."""
    return [] if chunks == 1 else [f"gpipe runs one chunk a stage, not vp = {chunks}; try interleaved"]
