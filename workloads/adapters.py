"""Adapters of low rank beside linear layers whose weights are frozen (LoRA, Hu et al., arXiv:2106.09685).

Both products are narrow, so reading and writing activations is what they cost; the rank hardly matters.
"""

from dataclasses import replace

from workloads.autocast import DATA
from workloads.graph import Work
from workloads.ops import Collective, Gemm, Layout
from workloads.pieces import Piece, kernel_work
from workloads.shard import Shard

RANK = 16  # as in MLPerf Training's fine-tuning of Llama 2 70B


def with_adapter(shard: Shard, piece: Piece, inputs: int, outputs: int, *, row_parallel: bool) -> Piece:
    """A linear layer, [tokens, inputs] -> [tokens, outputs], and the adapter beside it where it has one.

    Args:
        row_parallel: whether tensor parallelism splits the inputs. The adapter's second product is split by its
            outputs all the same, and an all-to-all makes parts of the sequence of them (NeMo's `all2all_hp2sp`).
    """
    if not shard.adapted(piece.name):
        return piece
    split = row_parallel and shard.layout.tp > 1
    wide = outputs // shard.layout.tp if split else outputs
    summed = shard.split_tokens if split else shard.tokens
    exchange = (_exchange(shard, wide),) if split else ()
    return replace(
        piece,
        forward=(
            *piece.forward,
            _product(shard, "tn", shard.tokens, RANK, inputs),
            _product(shard, "tn", shard.tokens, wide, RANK),
            *exchange,
            *_sum(shard, summed, outputs),
        ),
        backward=(
            *exchange,
            _product(shard, "nn", shard.tokens, RANK, wide),
            _product(shard, "nt", wide, RANK, shard.tokens)._replace(along=True),
            _product(shard, "nn", shard.tokens, inputs, RANK),
            _product(shard, "nt", RANK, inputs, shard.tokens)._replace(along=True),
            *piece.backward,
            *_sum(shard, shard.tokens, inputs, name=DATA),
        ),
    )


def _sum(shard: Shard, rows: int, columns: int, name: str = "") -> tuple[Work, ...]:
    return tuple(work._replace(name=name, along=True) for work in kernel_work(shard, ("add",), rows, columns, "fwd"))


def _product(shard: Shard, layout: Layout, m: int, n: int, k: int) -> Work:
    dtype = shard.precision.activation
    return Work(Gemm(m=m, n=n, k=k, layout=layout, dtype=dtype, out_dtype=dtype))


def _exchange(shard: Shard, columns: int) -> Work:
    size = shard.tokens * columns * shard.precision.activation_bytes
    return Work(Collective(op="all_to_all", bytes=size, ranks=shard.layout.tp, dtype=shard.precision.activation), "tp")
