"""Context parallelism: the sequence is split, and attention needs the keys and values of all of it.

`ring` passes blocks of keys and values around while the blocks at hand are computed (Liu et al.,
arXiv:2310.01889); with a causal mask, each rank holds an early and a late part of the sequence, so that
all do the same work. `all_gather` collects keys and values first (Llama 3, arXiv:2407.21783). `all_to_all` exchanges
tokens for heads, so that each rank has the whole sequence for some of the heads (DeepSpeed-Ulysses, arXiv:2309.14509).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from workloads.graph import Work
from workloads.ops import Attention, Collective, Direction, Transfer
from workloads.pieces import Piece, kernel_work
from workloads.shard import Shard

STREAM = "cp"


def attention(shard: Shard, whole: Attention) -> tuple[Work, ...]:
    """The fused attention of one rank, `whole` being the kernel for its queries and their own keys."""
    if shard.layout.cp == 1 or shard.exchanges_heads:
        return (Work(whole),)
    return _ring(shard, whole) if shard.layout.context_mode == "ring" else _gathered(shard, whole)


def exchanged(shard: Shard, core: Piece) -> tuple[Piece, ...]:
    """The core with the exchange of queries, keys and values before it and that of its output behind it."""
    if not shard.exchanges_heads:
        return (core,)
    model = shard.model
    query, key = shard.heads * model.head_dim, shard.kv_heads * model.head_dim
    return (_exchange(shard, "tokens for heads", query, key, key), core, _exchange(shard, "heads for tokens", query))


def _exchange(shard: Shard, name: str, *columns: int) -> Piece:
    """Of tensors with so many columns; backward, their gradients go the other way. Nothing of it is kept."""
    return Piece(
        name=name,
        kind="pointwise",
        forward=_all_to_alls(shard, columns, "fwd"),
        backward=_all_to_alls(shard, columns, "bwd"),
        saved_bytes=0.0,
        output_bytes=shard.tokens * sum(columns) * shard.precision.activation_bytes,
    )


def _all_to_alls(shard: Shard, columns: Sequence[int], direction: Direction) -> tuple[Work, ...]:
    """One for each tensor, between copies: into the order of ranks, then of tokens.

    The copies of one tensor run beside the message of another, as in Transformer Engine (flash_attn_a2a_communicate).
    """
    sent, received = list[Work](), list[Work]()
    for number, cols in enumerate(columns):
        copies = kernel_work(shard, shard.kernels.exchanged, shard.tokens, cols, direction)
        name = f"heads{number}"
        sent += [*copies, Work(_all_to_all(shard, cols), STREAM, name=name, asynchronous=True)]
        received += [copy._replace(waits=name) for copy in copies]
    return (*sent, *received)


def _all_to_all(shard: Shard, columns: int) -> Collective:
    return Collective(
        op="all_to_all",
        bytes=shard.tokens * columns * shard.precision.activation_bytes,
        ranks=shard.layout.cp,
        stride=shard.layout.tp,
        dtype=shard.precision.activation,
    )


def _ring(shard: Shard, whole: Attention) -> tuple[Work, ...]:
    """The rank's own block, then the others'; each message runs beside the block before it."""
    steps = shard.layout.cp - 1
    other = replace(whole, causal=False, seq_kv=max(whole.seq_kv // 2, 1) if whole.causal else whole.seq_kv)
    layout, size = shard.layout, _message_bytes(shard, whole)
    send = Work(Transfer(bytes=size, stride=layout.tp, ranks=layout.cp), STREAM, asynchronous=True)
    work = [send._replace(name="kv0"), Work(whole)]
    for step in range(steps):
        if step + 1 < steps:
            work.append(send._replace(name=f"kv{step + 1}", waits=f"kv{step}"))
        work.append(Work(other, waits=f"kv{step}"))
        work.extend(kernel_work(shard, shard.kernels.merge, shard.tokens, whole.heads * whole.dims[1], whole.direction))
    return tuple(work)


def _gathered(shard: Shard, whole: Attention) -> tuple[Work, ...]:
    """All keys and values at once; backward, their gradients are reduced and scattered."""
    cp = shard.layout.cp
    keys = whole.seq_kv * cp // (2 if whole.causal else 1)
    op = Collective(
        op="all_gather",
        bytes=_keys_bytes(shard, whole) * cp,
        ranks=cp,
        stride=shard.layout.tp,
        dtype=whole.dtype,
    )
    work = (Work(op, STREAM), Work(replace(whole, causal=False, seq_kv=keys)))
    if whole.direction == "fwd":
        return work
    return (*work, Work(replace(op, op="reduce_scatter"), STREAM))


def _keys_bytes(shard: Shard, whole: Attention) -> float:
    columns = whole.kv_heads * sum(whole.dims)
    return whole.batch * whole.seq_kv * columns * shard.precision.activation_bytes


def _message_bytes(shard: Shard, whole: Attention) -> float:
    """Keys and values; backward, their gradients travel too."""
    passes: Literal[1, 2] = 1 if whole.direction == "fwd" else 2
    return passes * _keys_bytes(shard, whole)
