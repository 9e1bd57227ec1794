"""Expert parallelism: tokens travel to the ranks of their experts and back (Lepikhin et al., arXiv:2006.16668).

Rows are dealt evenly. Under tensor parallelism a rank sends its part of the sequence; where the tensor-parallel ranks
split each expert, what has arrived is gathered over them, and their partial sums are reduced and scattered.
"""

from dataclasses import replace

from workloads.graph import Block, Work
from workloads.ops import Collective, CollectiveKind, Exchange
from workloads.parallelism import tensor
from workloads.routing import Routing
from workloads.shard import Shard

STREAM = "ep"


def to_experts(shard: Shard, *, new: bool) -> tuple[Work, ...]:
    """A row for each token and each of its experts. How many rows go where is `new`, or known from the way there."""
    counted = new and shard.stack.host.reads_counts
    return (*(work._replace(counted=counted) for work in _exchanged(shard)), *_split(shard, "all_gather"))


def from_experts(shard: Shard) -> tuple[Work, ...]:
    """The same rows back."""
    return (*_split(shard, "reduce_scatter"), *_exchanged(shard))


def beside(block: Block) -> Block:
    """The same with its exchanges beside the computation: two passes run at a time, one computes while one sends."""
    exchanges = tuple(work._replace(counted=False) for work in block.work if work.stream == STREAM)
    if not exchanges:
        return block
    pieces = tuple(tuple(work for work in piece if work.stream != STREAM) for piece in block.pieces)
    return replace(block, pieces=pieces, beside=exchanges)


def _exchanged(shard: Shard) -> tuple[Work, ...]:
    layout = shard.layout
    if layout.ep == 1:
        return ()
    if shard.sends_once:
        return (Work(_once(shard), STREAM),)
    return (Work(_collective(shard, "all_to_all", _rows_bytes(shard), layout.ep, layout.expert_tp), STREAM),)


def _once(shard: Shard) -> Exchange:
    model = shard.model
    return Exchange(
        bytes=_rows_bytes(shard) / model.topk,
        ranks=shard.layout.ep,
        stride=shard.layout.expert_tp,
        routing=Routing(model.experts, model.topk, model.expert_groups, model.topk_groups),
        dtype=shard.precision.activation,
    )


def _split(shard: Shard, kind: CollectiveKind) -> tuple[Work, ...]:
    tp = shard.layout.expert_tp
    return (Work(_collective(shard, kind, _rows_bytes(shard) * tp, tp, 1), tensor.STREAM),) if tp > 1 else ()


def _rows_bytes(shard: Shard) -> float:
    return shard.routed_tokens * shard.model.hidden * shard.precision.activation_bytes


def _collective(shard: Shard, kind: CollectiveKind, size: float, ranks: int, stride: int) -> Collective:
    return Collective(op=kind, bytes=size, ranks=ranks, stride=stride, dtype=shard.precision.activation)
