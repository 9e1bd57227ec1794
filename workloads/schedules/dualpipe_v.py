"""DualPipeV: half of a DualPipe, folded into a V: one copy of the model is enough (github.com/deepseek-ai/DualPipe)."""

from collections.abc import Iterator

from workloads.routes import there_and_back as routes
from workloads.schedules import Slot
from workloads.schedules.dualpipe import in_pairs

__all__ = ["SPLITS", "WORDS", "faults", "order", "routes"]

WORDS = ("DualPipeV",)
SPLITS = True


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Iterator[Slot]:  # noqa: ARG001
    """Of the first half of a DualPipe of twice as many stages; what goes to its other half comes back on chunk 1."""
    return in_pairs(stage, stages, micro_batches)


def faults(stages: int, chunks: int, micro_batches: int) -> list[str]:
    """Two chunks a stage, and micro-batches for both."""
    found = []
    if stages < 2:
        found.append("dualpipe_v needs pp of 2 or more")
    if chunks != 2:
        found.append(f"dualpipe_v runs two chunks a stage, not vp = {chunks}")
    if micro_batches < 2 * stages:
        found.append(f"dualpipe_v needs 2 pp = {2 * stages} micro-batches or more, not {micro_batches}")
    return found
