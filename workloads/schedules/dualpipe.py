"""DualPipe: two copies of the model, micro-batches from both ends, passes in pairs (DeepSeek-V3, arXiv:2412.19437).

The order is that of github.com/deepseek-ai/DualPipe. With `layout.expert_overlap` the exchanges of experts in each pair
run beside the computation of both passes.
"""

from collections.abc import Iterator
from itertools import count

from workloads.routes import both_ways as routes
from workloads.schedules import Direction, Slot

__all__ = ["SPLITS", "WORDS", "faults", "in_pairs", "order", "routes"]

WORDS = ("DualPipe",)
SPLITS = True


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Iterator[Slot]:  # noqa: ARG001
    """Of a stage and of its mirror image alike, with the routes exchanged."""
    second, half = stage >= stages // 2, micro_batches // 2
    from_end = min(stage, stages - 1 - stage)
    for slot in in_pairs(from_end, stages // 2, half):
        chunk = slot.chunk ^ second
        yield slot._replace(chunk=chunk, micro_batch=slot.micro_batch + (half if chunk else 0))


def in_pairs(from_end: int, half: int, micro_batches: int) -> Iterator[Slot]:
    """Passes of a stage so far from the nearer end of a pipeline of twice `half` stages.

    Chunk 0 is of the route that begins at that end; micro-batches are of each route.
    """
    numbers = {(direction, chunk): count() for direction in "FBW" for chunk in (0, 1)}
    put_off: list[Slot] = []

    def run(direction: Direction, chunk: int) -> Slot:
        key = "B" if direction == "I" else direction
        slot = Slot(direction, next(numbers[key, chunk]), chunk)
        if direction == "I":
            put_off.append(slot._replace(direction="W"))
        return slot

    inner, outer = half - from_end - 1, from_end + 1
    yield from (run("F", 0) for _ in range(2 * inner))
    for _ in range(outer):
        yield from (run("F", 0), run("F", 1))
    for _ in range(inner):
        yield run("I", 1)
        yield put_off.pop(0)
        yield run("F", 1)
    for _ in range(micro_batches - 2 * half + outer):
        yield from (run("B", 1), run("F", 0), run("B", 0), run("F", 1))
    for _ in range(inner):
        yield from (run("B", 1), run("B", 0), run("F", 1))
    whole = outer  # of the last 2 `outer` backward passes, the first half; the second half is taken apart
    for index in range(2 * outer):
        yield run("B" if index < whole else "I", 1 - index % 2)
    for _ in range(inner):
        yield put_off.pop(0)
        yield run("I", 0)
    yield from put_off


def faults(stages: int, chunks: int, micro_batches: int) -> list[str]:
    """Two halves of stages and of micro-batches."""
    found = []
    if chunks != 1:
        found.append(f"dualpipe holds each part of the model twice, and takes vp = 1, not {chunks}; try dualpipe_v")
    if stages % 2:
        found.append(f"dualpipe needs an even pp, not {stages}")
    if micro_batches % 2 or micro_batches < 2 * stages:
        found.append(
            f"dualpipe needs an even number of micro-batches, of 2 pp = {2 * stages} or more, not {micro_batches}"
        )
    return found
