"""Zero-bubble in a V: two chunks a stage, down and up again, with the memory of 1F1B (ZB-V, arXiv:2401.10241)."""

from collections.abc import Sequence

from workloads.planner import planned
from workloads.routes import there_and_back as routes
from workloads.schedules import Slot

__all__ = ["SPLITS", "WORDS", "faults", "order", "routes"]

WORDS = ("ZB-V",)
SPLITS = True


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Sequence[Slot]:
    """As planned with what 2 `stages` chunks keep: `stages` micro-batches through both."""
    return planned(routes(stages, chunks), micro_batches, 2 * stages)[stage]


def faults(stages: int, chunks: int, micro_batches: int) -> list[str]:  # noqa: ARG001
    """Two chunks a stage, and somewhere to go."""
    found = []
    if chunks != 2:
        found.append(f"zero_bubble_v runs two chunks a stage, not vp = {chunks}")
    if stages < 2:
        found.append("zero_bubble_v needs pp of 2 or more")
    return found
