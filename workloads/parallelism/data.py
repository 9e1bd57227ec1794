"""Data parallelism, plain and sharded (ZeRO, FSDP): the messages that keep replicas equal.

ZeRO shards optimizer states (1), gradients (2) and parameters (3) over the data-parallel ranks (Rajbhandari
et al., arXiv:1910.02054); FSDP is ZeRO 3 layer by layer (Zhao et al., arXiv:2304.11277). With a `zero_group`
smaller than the data-parallel ranks, groups replicate each other, and gradients are all-reduced across them.
Experts are spread over `ep` of the data-parallel ranks, so every ep-th of these holds the same ones.
"""

from typing import NamedTuple

from workloads.graph import Message
from workloads.layout import Layout
from workloads.ops import DTYPE_BYTES, Collective, CollectiveKind
from workloads.parameters import Parameters
from workloads.shard import Shard

STREAM = "dp"
DIMENSION = "dp"


def reduce_gradients(shard: Shard, parameters: Parameters) -> Message | None:
    """Sum the gradients of one rank's parameters over the replicas; None where each is the only one of its kind."""
    if shard.training.task == "lora" or shard.training.layers_alone:
        return None
    dense, experts = _replicas(shard.layout)
    return _message(*_reduced(shard, parameters.dense, dense), *_reduced(shard, parameters.experts, experts))


class _Replicas(NamedTuple):
    """Ranks that hold the same parameters, how many of them share a shard out, and how far apart they stand."""

    ranks: int
    shards: int
    stride: int


def _replicas(layout: Layout) -> tuple[_Replicas, _Replicas]:
    """Of dense parameters, and of experts."""
    dense = _Replicas(layout.data_ranks, layout.shards, layout.tp)
    return dense, _Replicas(layout.expert_data_ranks, layout.expert_shards, layout.expert_tp * layout.ep)


def _reduced(shard: Shard, parameters: float, over: _Replicas) -> tuple[Collective, ...]:
    if over.ranks == 1 or not parameters:
        return ()
    size = parameters * DTYPE_BYTES[shard.reduced_dtype]
    zero = shard.layout.zero
    if zero == 0 or (zero < 3 and shard.stack.data.zero_gradients == "all_reduce"):
        return (_sum(shard, "all_reduce", size, over.ranks, over.stride),)
    replicas = over.ranks // over.shards
    scatter = (_sum(shard, "reduce_scatter", size, over.shards, over.stride),) if over.shards > 1 else ()
    across = _sum(shard, "all_reduce", size / over.shards, replicas, over.stride * over.shards)
    return (*scatter, across) if replicas > 1 else scatter


def gathered_bytes(shard: Shard, parameters: float, matrices: float = 0.0) -> float:
    """Of parameters in the type that computes. `matrices`: those of them that stand in the layers' dense GEMMs."""
    narrow = matrices if shard.gathers_narrow else 0.0
    return (parameters - narrow) * shard.precision.activation_bytes + narrow * DTYPE_BYTES[shard.precision.gemm]


def gather_parameters(shard: Shard, parameters: Parameters, matrices: float = 0.0) -> Message | None:
    """Collect parameters that ZeRO has sharded; None where it shards none. `matrices` as in `gathered_bytes`."""
    dense, experts = _replicas(shard.layout)
    return _message(
        *_gathered(shard, gathered_bytes(shard, parameters.dense, matrices), dense),
        *_gathered(shard, gathered_bytes(shard, parameters.experts), experts),
    )


def _gathered(shard: Shard, size: float, over: _Replicas) -> tuple[Collective, ...]:
    if over.shards == 1 or not size:
        return ()
    dtype = shard.precision.activation
    return (Collective(op="all_gather", bytes=size, ranks=over.shards, stride=over.stride, dtype=dtype),)


def _message(*ops: Collective) -> Message | None:
    return Message(name=ops[0].op, ops=ops, dimension=DIMENSION) if ops else None


def _sum(shard: Shard, kind: CollectiveKind, size: float, ranks: int, stride: int) -> Collective:
    return Collective(op=kind, bytes=size, ranks=ranks, stride=stride, dtype=shard.reduced_dtype)
