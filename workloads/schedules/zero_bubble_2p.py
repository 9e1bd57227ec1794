"""Zero-bubble with twice the memory: hardly a bubble where updates wait for nobody (ZB-2p, arXiv:2401.10241)."""

from collections.abc import Sequence

from workloads.planner import planned
from workloads.routes import around as routes
from workloads.schedules import Slot

__all__ = ["SPLITS", "WORDS", "faults", "order", "routes"]

WORDS = ("ZB-2p",)
SPLITS = True


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Sequence[Slot]:
    """As planned with what 2 `stages` micro-batches keep."""
    return planned(routes(stages, chunks), micro_batches, 2 * stages)[stage]


def faults(stages: int, chunks: int, micro_batches: int) -> list[str]:  # noqa: ARG001
    """One chunk a stage."""
    return [] if chunks == 1 else [f"zero_bubble_2p runs one chunk a stage, not vp = {chunks}; try zero_bubble_v"]
