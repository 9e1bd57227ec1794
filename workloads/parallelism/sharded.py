"""What sharding by layer (FSDP) adds to computation: copies between buckets and parameters.

FSDP2 gathers the parameters of a layer into one buffer and copies them into place; before gradients are
reduced they are cast and copied into a bucket.
"""

from typing import NamedTuple

from workloads.graph import Block, Segment, Work
from workloads.pieces import kernel_work
from workloads.shard import Shard


class Copied(NamedTuple):
    """Elements that are copied for a unit: `gathered` of the type of activations, and one for each gradient."""

    gathered: float
    gradients: float


def with_copies(shard: Shard, segment: Segment, kind: str, copied: Copied) -> Segment:
    """`segment`, a pass of some kind (F, or B and a mark), with the copies of a unit where the stack makes them."""
    backward = kind != "F"
    if not shard.stack.data.copies or not (shard.gathers_each_pass or (shard.gathers_once and not backward)):
        return segment
    cast = "cast" if shard.reduced_dtype == "fp32" else "copy"
    work = _copy(shard, "copy", copied.gathered) + (_copy(shard, cast, copied.gradients) if backward else ())
    block = Block(name="copies", phase="backward" if backward else "forward", pieces=(work,), unit=True)
    return Segment(name=segment.name, blocks=((block, 1), *segment.blocks))


def into_bucket(shard: Shard, parameters: float) -> Segment:
    """The summed gradients of a unit on their way to be reduced."""
    work = _copy(shard, "copy", parameters, shard.reduced_dtype)
    block = Block(name="copies", phase="backward", pieces=(work,), unit=True)
    return Segment(name="backward", blocks=((block, 1),))


def _copy(shard: Shard, kernel: str, elements: float, dtype: str = "") -> tuple[Work, ...]:
    return kernel_work(shard, (kernel,), 1, round(elements), "fwd", dtype)
