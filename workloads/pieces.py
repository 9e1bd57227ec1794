"""A layer as pieces: each knows its forward and backward work and what it keeps in between.

The same pieces give the time of a layer (their work) and its memory (what they save), under every kind of
recomputation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from workloads.graph import Work
from workloads.ops import DTYPE_BYTES, Direction, Pointwise, traffic_table
from workloads.shard import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Work that belongs together, such as one linear layer with its communication.

    Args:
        kind: `core` is the attention core, which selective recomputation runs again.
        saved_bytes: kept from the forward to the backward pass.
        core_bytes: the part of `saved_bytes` that selective recomputation gives up (scores and masks).
        output_bytes: of what it hands on.
    """

    name: str
    kind: Literal["gemm", "core", "pointwise"]
    forward: tuple[Work, ...]
    backward: tuple[Work, ...]
    saved_bytes: float
    core_bytes: float = 0.0
    output_bytes: float = 0.0


def pointwise(
    shard: Shard, name: str, kernels: tuple[str, ...], rows: int, cols: int, dtype: str = "", groups: int = 1
) -> Piece:
    """A chain of memory-bound kernels over a [rows, cols] tensor, of the activations' type or another.

    Those that the table has no backward direction of are not differentiated: they find indices. Rows may be in groups.
    """
    differentiated = tuple(kernel for kernel in kernels[::-1] if (kernel, "bwd") in traffic_table())
    return Piece(
        name=name,
        kind="pointwise",
        forward=kernel_work(shard, kernels, rows, cols, "fwd", dtype, groups),
        backward=kernel_work(shard, differentiated, rows, cols, "bwd", dtype, groups),
        saved_bytes=shard.saved_bytes(kernels, float(rows) * cols, dtype),
        output_bytes=rows * cols * DTYPE_BYTES[dtype or shard.precision.activation],
    )


def kernel_work(
    shard: Shard,
    kernels: tuple[str, ...],
    rows: int,
    cols: int,
    direction: Direction,
    dtype: str = "",
    groups: int = 1,
) -> tuple[Work, ...]:
    """One kernel after the other over the same tensor."""
    of = dtype or shard.precision.activation
    return tuple(
        Work(Pointwise(op=kernel, rows=rows, cols=cols, dtype=of, direction=direction, groups=groups))
        for kernel in kernels
    )


def of_weights(works: tuple[Work, ...]) -> tuple[Work, ...]:
    """Work that only gradients of weights need."""
    return tuple(work._replace(weights=True) for work in works)


def for_weights(piece: Piece) -> tuple[Work, ...]:
    """Of the backward work of a piece, what only gradients of weights need."""
    return _by_itself(work for work in piece.backward if work.weights)


def for_inputs(piece: Piece) -> tuple[Work, ...]:
    """The rest of it."""
    return _by_itself(work for work in piece.backward if not work.weights)


def _by_itself(works: Iterable[Work]) -> tuple[Work, ...]:
    """Work that waits for nothing among the rest."""
    part = tuple(works)
    names = {work.name for work in part}
    return tuple(work if work.waits in names else work._replace(waits="") for work in part)


def behind_wait(works: tuple[Work, ...]) -> tuple[Work, ...]:
    """With the first of them behind a wait of the host for the GPU."""
    first, *rest = works
    return (first._replace(counted=True), *rest)
