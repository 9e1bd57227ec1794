"""Data parallelism, plain and sharded (ZeRO, FSDP): the messages that keep replicas equal.

ZeRO shards optimizer states (1), gradients (2) and parameters (3) over the data-parallel ranks (Rajbhandari
et al., arXiv:1910.02054); FSDP is ZeRO 3 layer by layer (Zhao et al., arXiv:2304.11277). With a `zero_group`
smaller than the data-parallel ranks, groups replicate each other, and gradients are all-reduced across them.
"""

from workloads.graph import Message
from workloads.ops import DTYPE_BYTES, Collective, CollectiveKind
from workloads.shard import Shard

STREAM = "dp"
DIMENSION = "dp"


def gradient_dtype(shard: Shard) -> str:
    """On the wire."""
    wide = shard.stack.storage.reduce == "fp32" and not shard.precision.pure
    return "fp32" if wide else shard.precision.activation


def reduce_gradients(shard: Shard, parameters: float) -> Message | None:
    """Sum the gradients of `parameters` (one rank's, before sharding) over the replicas; None for one replica."""
    layout = shard.layout
    size = parameters * DTYPE_BYTES[gradient_dtype(shard)]
    if layout.data_ranks == 1 or shard.training.task == "lora":
        return None
    if layout.zero == 0 or (layout.zero < 3 and shard.stack.data.zero_gradients == "all_reduce"):
        return _message(_sum(shard, "all_reduce", size, layout.data_ranks, layout.tp))
    replicas = layout.data_ranks // layout.shards
    scatter = _sum(shard, "reduce_scatter", size, layout.shards, layout.tp)
    if replicas == 1:
        return _message(scatter)
    across = _sum(shard, "all_reduce", size / layout.shards, replicas, layout.tp * layout.shards)
    return _message(scatter, across)


def gathered_bytes(shard: Shard, parameters: float, matrices: float = 0.0) -> float:
    """Of parameters in the type that computes. `matrices`: those of them that stand in the layers' GEMMs."""
    narrow = matrices if shard.gathers_narrow else 0.0
    return (parameters - narrow) * shard.precision.activation_bytes + narrow * DTYPE_BYTES[shard.precision.gemm]


def gather_parameters(shard: Shard, size: float) -> Message | None:
    """Collect `size` bytes of parameters that ZeRO has sharded; None where it shards none."""
    layout = shard.layout
    if layout.shards == 1:
        return None
    op = Collective(
        op="all_gather", bytes=size, ranks=layout.shards, stride=layout.tp, dtype=shard.precision.activation
    )
    return _message(op)


def _message(*ops: Collective) -> Message:
    return Message(name=ops[0].op, ops=ops, dimension=DIMENSION)


def _sum(shard: Shard, kind: CollectiveKind, size: float, ranks: int, stride: int) -> Collective:
    return Collective(op=kind, bytes=size, ranks=ranks, stride=stride, dtype=gradient_dtype(shard))
