"""Interleaved 1F1B: each stage holds several model chunks (Narayanan et al., SC21, arXiv:2104.04473).

Micro-batches go through the chunks in rounds of `stages`, so the bubble shrinks by the number of chunks.
"""

from collections.abc import Iterator
from typing import Literal

from workloads.schedules import Slot

WORD = "interleaved 1F1B"


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Iterator[Slot]:
    """Warm-up of (stages - stage - 1) * 2 + (chunks - 1) * stages forwards, then one forward, one backward."""
    total = micro_batches * chunks
    warm_up = min((stages - stage - 1) * 2 + (chunks - 1) * stages, total)
    forward = [_slot("F", index, stages, chunks, micro_batches) for index in range(total)]
    backward = [_slot("B", index, stages, chunks, micro_batches) for index in range(total)]
    yield from forward[:warm_up]
    for index in range(total - warm_up):
        yield forward[warm_up + index]
        yield backward[index]
    yield from backward[total - warm_up :]


def _slot(direction: Literal["F", "B"], index: int, stages: int, chunks: int, micro_batches: int) -> Slot:
    """The index-th pass: rounds of `stages` micro-batches through chunk 0, 1, ...; backward in reverse."""
    first, within = divmod(index, stages * chunks)
    width = min(stages, micro_batches - first * stages)
    chunk, offset = divmod(within, width)
    return Slot(direction, first * stages + offset, chunk if direction == "F" else chunks - 1 - chunk)


def faults(stages: int, chunks: int, micro_batches: int) -> list[str]:
    """Megatron demands whole rounds of micro-batches."""
    found = []
    if chunks < 2:
        found.append("interleaved needs vp of 2 or more; one_f_one_b runs vp = 1")
    if stages < 2:
        found.append("interleaved needs pp of 2 or more")
    if micro_batches % stages:
        found.append(f"interleaved needs the micro-batches of a replica ({micro_batches}) divisible by pp ({stages})")
    return found
