"""What sharding by layer (FSDP) adds to computation: copies between buckets and parameters.

FSDP2 gathers the parameters of a layer into one buffer and copies them into place; before gradients are
reduced they are cast and copied into a bucket.
"""

from workloads.graph import Block, Segment
from workloads.ops import Direction
from workloads.parallelism.data import gradient_dtype
from workloads.pieces import kernel_work
from workloads.shard import Shard


def with_copies(shard: Shard, segment: Segment, direction: str, parameters: float) -> Segment:
    """`segment` with the copies of a unit of `parameters`, where the stack makes them."""
    if not shard.stack.data.copies or not shard.layout.gathers_each_pass:
        return segment
    cast = "cast" if gradient_dtype(shard) == "fp32" else "copy"
    kernels = ("copy",) if direction == "F" else ("copy", cast)
    forward: Direction = "fwd"
    block = Block(
        name="copies",
        phase="forward" if direction == "F" else "backward",
        pieces=(kernel_work(shard, kernels, 1, round(parameters), forward),),
        unit=True,
    )
    return Segment(name=segment.name, blocks=((block, 1), *segment.blocks))
