"""Breadth-first: every micro-batch through chunk 0, then chunk 1, ...; back in reverse (arXiv:2211.05953)."""

from collections.abc import Iterator

from workloads.routes import around as routes
from workloads.schedules import Slot

__all__ = ["SPLITS", "WORDS", "faults", "order", "routes"]

WORDS = ("breadth-first",)
SPLITS = False


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Iterator[Slot]:  # noqa: ARG001
    """Every stage keeps the activations of all micro-batches."""
    for chunk in range(chunks):
        yield from (Slot("F", index, chunk) for index in range(micro_batches))
    for chunk in reversed(range(chunks)):
        yield from (Slot("B", index, chunk) for index in range(micro_batches))


def faults(stages: int, chunks: int, micro_batches: int) -> list[str]:
    """With fewer micro-batches than stages, a chunk would wait for the one before it."""
    found = []
    if chunks > 1 and stages < 2:
        found.append("breadth_first needs pp of 2 or more for vp of 2 or more")
    if chunks > 1 and micro_batches < stages:
        found.append(f"breadth_first needs pp ({stages}) micro-batches or more, not {micro_batches}")
    return found
