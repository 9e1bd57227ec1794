"""Data parallelism, plain and sharded (ZeRO, FSDP): the messages that keep replicas equal.

ZeRO shards optimizer states (1), gradients (2) and parameters (3) over the data-parallel ranks (Rajbhandari
et al., arXiv:1910.02054); FSDP is ZeRO 3 layer by layer (Zhao et al., arXiv:2304.11277). With a `zero_group`
smaller than the data-parallel ranks, groups replicate each other, and gradients are all-reduced across them.
"""

from workloads.graph import Message
from workloads.ops import DTYPE_BYTES, Collective
from workloads.shard import Shard

STREAM = "dp"
DIMENSION = "dp"


def gradient_dtype(shard: Shard) -> str:
    """On the wire."""
    return "fp32" if shard.stack.storage.reduce == "fp32" else shard.precision.activation


def reduce_gradients(shard: Shard, parameters: float) -> tuple[Message, ...]:
    """Sum the gradients of `parameters` (one rank's, before sharding) over the replicas."""
    layout = shard.layout
    size = parameters * DTYPE_BYTES[gradient_dtype(shard)]
    if layout.data_ranks == 1:
        return ()
    if layout.zero == 0 or (layout.zero < 3 and shard.stack.data.zero_gradients == "all_reduce"):
        return (_message(shard, "all_reduce", size, layout.data_ranks, layout.tp),)
    replicas = layout.data_ranks // layout.shards
    scatter = _message(shard, "reduce_scatter", size, layout.shards, layout.tp)
    if replicas == 1:
        return (scatter,)
    across = _message(shard, "all_reduce", size / layout.shards, replicas, layout.tp * layout.shards)
    return (scatter, across)


def gather_parameters(shard: Shard, parameters: float) -> tuple[Message, ...]:
    """Collect the parameters that ZeRO has sharded, in the type that computes."""
    layout = shard.layout
    if layout.shards == 1:
        return ()
    size = parameters * DTYPE_BYTES[shard.precision.activation]
    op = Collective(
        op="all_gather", bytes=size, ranks=layout.shards, stride=layout.tp, dtype=shard.precision.activation
    )
    return (Message(name="all_gather", op=op, dimension=DIMENSION),)


def _message(shard: Shard, kind: str, size: float, ranks: int, stride: int) -> Message:
    op = Collective(
        op="all_reduce" if kind == "all_reduce" else "reduce_scatter",
        bytes=size,
        ranks=ranks,
        stride=stride,
        dtype=gradient_dtype(shard),
    )
    return Message(name=kind, op=op, dimension=DIMENSION)
