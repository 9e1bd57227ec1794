"""Interleaved 1F1B: each stage holds several model chunks (Narayanan et al., SC21, arXiv:2104.04473).

Micro-batches go through the chunks in rounds of `stages`, so the bubble shrinks by the number of chunks.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import Literal

from workloads.routes import around as routes
from workloads.schedules import Slot

__all__ = ["SPLITS", "WORDS", "faults", "order", "routes"]

WORDS = ("interleaved 1F1B", "1F1B-I")
SPLITS = False


def order(stage: int, stages: int, chunks: int, micro_batches: int) -> Iterator[Slot]:
    """Warm-up of (stages - stage - 1) * 2 + (chunks - 1) * stages forwards, then one forward, one backward."""
    total = micro_batches * chunks
    warm_up = min((stages - stage - 1) * 2 + (chunks - 1) * stages, total)
    forward, backward = (_slots(direction, stages, chunks, micro_batches) for direction in ("F", "B"))
    yield from forward[:warm_up]
    yield from chain.from_iterable(zip(forward[warm_up:], backward, strict=False))
    yield from backward[total - warm_up :]


@lru_cache(maxsize=2)
def _slots(direction: Literal["F", "B"], stages: int, chunks: int, micro_batches: int) -> list[Slot]:
    """All passes in one direction: the same for every stage, so made once for all of them."""
    return [_slot(direction, index, stages, chunks, micro_batches) for index in range(micro_batches * chunks)]


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
