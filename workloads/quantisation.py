"""Casts to the 8- or 4-bit type of the GEMMs of a linear layer, with one scale for a tensor or one for each row.

A GEMM wants its scales along the dimension that is summed over. So with a scale for each row the weight, its input and
the gradient of its output are each cast twice: along one dimension for one GEMM, along the other, transposed, for the
next.
"""

from typing import NamedTuple

from workloads.graph import Work
from workloads.pieces import kernel_work
from workloads.shard import Shard


class Quantised(NamedTuple):
    """Casts before the forward GEMMs, before those of the data gradient, and of the weight gradient."""

    forward: tuple[Work, ...] = ()
    data: tuple[Work, ...] = ()
    weights: tuple[Work, ...] = ()


def quantised(shard: Shard, inputs: int, outputs: tuple[int, ...]) -> Quantised:
    """Of [tokens, inputs] -> [tokens, each of outputs]."""
    kernels, columns = shard.kernels, sum(outputs)
    if shard.precision.scales == "tensor":
        cast = shard.split_tokens if shard.gathers_narrow_inputs else shard.tokens
        held = columns // shard.layout.shards if shard.gathers_narrow else columns
        weight = kernel_work(shard, kernels.quantise_weights, held, inputs, "fwd")
        return Quantised(
            forward=(*kernel_work(shard, kernels.quantise, cast, inputs, "fwd"), *weight),
            data=kernel_work(shard, kernels.quantise, shard.tokens, columns, "fwd"),
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
