"""Casts to the 8- or 4-bit type of the GEMMs of a linear layer, with one scale for a tensor or one for each row.

A GEMM wants its scales along the dimension that is summed over. So with a scale for each row the weight, its input and
the gradient of its output are each cast twice: along one dimension for one GEMM, along the other, transposed, for the
next.
"""

from typing import NamedTuple

from workloads.graph import Work
from workloads.pieces import kernel_work
from workloads.shard import Shard

BLOCK_SCALED = ("mxfp8",)  # one scale for some tens of elements: known without a pass over all of them


class Quantised(NamedTuple):
    """Casts before the forward GEMMs, before those of the data gradient, and of the weight gradient."""

    forward: tuple[Work, ...] = ()
    data: tuple[Work, ...] = ()
    weights: tuple[Work, ...] = ()


def quantised(
    shard: Shard,
    name: str,
    inputs: int,
    outputs: tuple[int, ...],
    *,
    behind_norm: bool = False,
    row_parallel: bool = False,
) -> Quantised:
    """Of the linear layer of that name, [tokens, inputs] -> [tokens, each of outputs].

    Args:
        behind_norm: whether a norm writes the input, which some write in 8 bits or know the largest element of.
        row_parallel: whether sequence parallelism gathers the gradient of the output, and not the input.
    """
    kernels, columns = shard.kernels, sum(outputs)
    if shard.precision.scales == "tensor":
        held = columns // shard.layout.shards if shard.gathers_narrow else columns
        weight = kernel_work(shard, kernels.quantise_weights, held, inputs, "fwd")
        normed = behind_norm and not shard.adapted(name)
        gathered = not row_parallel and shard.gathers_narrow_inputs(name)
        return Quantised(
            forward=(*_cast(shard, inputs, gathered=gathered, normed=normed), *weight),
            data=_cast(shard, columns, gathered=row_parallel and shard.gathers_narrow_inputs()),
        )
    rows, transposed = kernels.quantise_rows, kernels.quantise_columns
    return Quantised(
        forward=(
            *kernel_work(shard, rows, shard.tokens, inputs, "fwd"),
            *kernel_work(shard, rows, columns, inputs, "fwd"),
        ),
        data=(
            *kernel_work(shard, rows, shard.tokens, columns, "fwd"),
            *kernel_work(shard, transposed, columns, inputs, "fwd"),
        ),
        weights=(
            *kernel_work(shard, transposed, shard.tokens, columns, "fwd"),
            *kernel_work(shard, transposed, shard.tokens, inputs, "fwd"),
        ),
    )


def whole_casts(shard: Shard) -> tuple[str, ...]:
    """Kernels that cast a tensor for both GEMMs that read it."""
    return shard.kernels.quantise_blocks if shard.precision.gemm in BLOCK_SCALED else shard.kernels.quantise


def _cast(shard: Shard, columns: int, *, gathered: bool, normed: bool = False) -> tuple[Work, ...]:
    """Of a tensor that sequence parallelism may gather behind it; `normed`: that a norm writes."""
    kernels, blocks = shard.kernels, shard.precision.gemm in BLOCK_SCALED
    whole = whole_casts(shard)
    split = whole if blocks else kernels.quantise_split
    if normed and not blocks:
        whole = whole if kernels.quantise_normed is None else kernels.quantise_normed
        split = split if kernels.quantise_normed_split is None else kernels.quantise_normed_split
    # Gradients of weights alone read transposed copies.
    casts = split if gathered or shard.frozen else whole
    behind = kernels.transpose_narrow if gathered and not (blocks or shard.frozen) else ()
    cast = kernel_work(shard, casts, shard.split_tokens if gathered else shard.tokens, columns, "fwd")
    transposed = kernel_work(shard, behind, shard.tokens, columns, "fwd")
    return (*cast, *(work._replace(along=True) for work in transposed))
