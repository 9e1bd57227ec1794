"""Tensor parallelism, with and without sequence parallelism.

A column-parallel layer splits its outputs, the row-parallel layer behind it its inputs (Shoeybi et al.,
arXiv:1909.08053). Without sequence parallelism the sums are all-reduced; with it, activations outside the
two are split along the sequence, and the all-reduce becomes a reduce-scatter behind and an all-gather in
front (Korthikanti et al., arXiv:2205.05198).
"""

from dataclasses import replace
from itertools import chain

from workloads.autocast import DATA
from workloads.graph import HIDDEN, Work
from workloads.ops import DTYPE_BYTES, Collective, CollectiveKind, Gemm
from workloads.pieces import Piece, kernel_work
from workloads.shard import Shard

STREAM = "tp"


def column(shard: Shard, piece: Piece, *, narrow: bool = True) -> Piece:
    """A layer whose output columns are split: its input is needed whole. `narrow` as of `linear`."""
    if shard.layout.tp == 1:
        return piece
    if shard.stack.reduces_each and not shard.layout.sequence_parallel:
        return replace(piece, backward=_behind_each(shard, piece.backward))
    reduced = _behind_data(shard, piece.backward)
    if not shard.layout.sequence_parallel:
        return replace(piece, backward=reduced)
    dtype = _gathered_dtype(shard, piece.name) if narrow else shard.precision.activation
    gather = _collective(shard, "all_gather", dtype)
    forward = _beside(shard, gather, (*_copies(shard, dtype), *piece.forward), before=True)
    if shard.stack.keeps_gathered:
        return replace(piece, forward=forward, backward=reduced)
    again = _until_weights(gather, reduced)
    return replace(piece, forward=forward, backward=again, saved_bytes=piece.saved_bytes / shard.layout.tp)


def row(shard: Shard, piece: Piece) -> Piece:
    """A layer whose input rows are split: its outputs are partial sums."""
    if shard.layout.tp == 1:
        return piece
    if not shard.layout.sequence_parallel:
        return replace(piece, forward=(*piece.forward, _collective(shard, "all_reduce")))
    dtype = _gathered_dtype(shard)
    scatter, gather = _collective(shard, "reduce_scatter"), _collective(shard, "all_gather", dtype)
    return replace(
        piece,
        forward=_beside(shard, scatter, (*piece.forward, *_copies(shard)), before=False),
        backward=_beside(shard, gather, (*_copies(shard, dtype), *piece.backward), before=True),
        output_bytes=piece.output_bytes / shard.layout.tp,
    )


def gathered(shard: Shard, piece: Piece) -> Piece:
    """A column-parallel layer whose output every rank needs whole, or its part of the sequence of it."""
    if shard.layout.tp == 1:
        return piece
    gather = _collective(shard, "all_gather")
    again = (gather,) if shard.layout.sequence_parallel else ()
    return replace(piece, forward=(*piece.forward, gather), backward=(*again, *piece.backward))


def between(shard: Shard, pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Pieces that need the sequence whole in front, and leave partial sums."""
    if shard.layout.tp == 1:
        return pieces
    gather, scatter = _collective(shard, "all_gather"), _collective(shard, "reduce_scatter")
    first, *inner, last = pieces
    opened = replace(first, forward=(gather, *first.forward), backward=(*first.backward, scatter))
    closed = replace(last, forward=(*last.forward, scatter), backward=(gather, *last.backward))
    return (opened, *inner, closed)


def embedding(shard: Shard, piece: Piece) -> Piece:
    """Each rank looks up its part of the vocabulary; the parts are summed."""
    if shard.layout.tp == 1:
        return piece
    if not shard.layout.sequence_parallel:
        return replace(piece, forward=(*piece.forward, _collective(shard, "all_reduce")))
    return replace(
        piece,
        forward=(*piece.forward, _collective(shard, "reduce_scatter")),
        backward=(_collective(shard, "all_gather"), *piece.backward),
    )


def logits(shard: Shard, piece: Piece) -> Piece:
    """The projection onto a split vocabulary. Stacks without a parallel loss gather what the ranks have."""
    projected = column(shard, piece, narrow=False)
    if shard.layout.tp == 1 or shard.stack.parallel_loss:
        return projected
    whole = shard.vocab * shard.layout.tp
    gather = Collective(
        op="all_gather",
        bytes=float(shard.tokens) * whole * shard.precision.activation_bytes,
        ranks=shard.layout.tp,
        dtype=shard.precision.activation,
    )
    copies = kernel_work(shard, shard.kernels.gathered_logits, shard.tokens, whole, "fwd")
    return replace(projected, forward=(*projected.forward, Work(gather, STREAM), *copies))


def loss(shard: Shard, piece: Piece) -> Piece:
    """Cross entropy over a split vocabulary: the maximum, the sum and the target's logit of each token.

    Stacks without it work on all of the logits on every rank.
    """
    if shard.layout.tp == 1:
        return piece
    if not shard.stack.parallel_loss:
        copies = 2 * piece.output_bytes  # the gathered logits and their gradient, beside the rank's own part
        return replace(piece, saved_bytes=piece.saved_bytes + copies)
    op = Collective(op="all_reduce", bytes=4.0 * shard.tokens, ranks=shard.layout.tp, dtype="fp32")
    return replace(piece, forward=(*piece.forward, *(Work(op, STREAM),) * 3))


def _gathered_dtype(shard: Shard, linear: str = "") -> str:
    return shard.precision.gemm if shard.gathers_narrow_inputs(linear) else shard.precision.activation


def _collective(shard: Shard, kind: CollectiveKind, dtype: str = "") -> Work:
    of = dtype or shard.precision.activation
    size = shard.tokens * shard.model.hidden * DTYPE_BYTES[of]
    return Work(Collective(op=kind, bytes=size, ranks=shard.layout.tp, dtype=of), STREAM, name=kind)


def _copies(shard: Shard, dtype: str = "") -> tuple[Work, ...]:
    """Where ranks' parts of the sequence do not lie one after the other in memory, they are put in order."""
    return kernel_work(shard, shard.kernels.gathered, shard.tokens, shard.model.hidden, "fwd", dtype)


def _behind_each(shard: Shard, backward: tuple[Work, ...]) -> tuple[Work, ...]:
    """Reduce the data gradient of every GEMM by itself, before they are added up."""
    reduce = _collective(shard, "all_reduce")._replace(asynchronous=shard.stack.overlap.tensor_backward)
    followed = ((work, reduce) if work.name == DATA and isinstance(work.op, Gemm) else (work,) for work in backward)
    return tuple(chain.from_iterable(followed))


def _behind_data(shard: Shard, backward: tuple[Work, ...]) -> tuple[Work, ...]:
    """Reduce the data gradient as soon as it is there; the weight gradient may run meanwhile."""
    kind: CollectiveKind = "reduce_scatter" if shard.layout.sequence_parallel else "all_reduce"
    reduce = _collective(shard, kind)._replace(asynchronous=shard.stack.overlap.tensor_backward)
    last = max(index for index, work in enumerate(backward) if work.name == DATA)
    copies = _copies(shard) if kind == "reduce_scatter" else ()
    return (*backward[: last + 1], *copies, reduce, *backward[last + 1 :])


def _until_weights(gather: Work, backward: tuple[Work, ...]) -> tuple[Work, ...]:
    """Gather the input again beside the data gradient; the weight gradient is the first to need it."""
    last = max(index for index, work in enumerate(backward) if work.name == "reduce_scatter")
    rest = tuple(work._replace(waits=gather.name) for work in backward[last + 1 : last + 2])
    return (gather._replace(asynchronous=True, weights=True), *backward[: last + 1], *rest, *backward[last + 2 :])


def _beside(shard: Shard, communication: Work, work: tuple[Work, ...], *, before: bool) -> tuple[Work, ...]:
    """Communication before or behind work; in chunks beside it where the stack overlaps tensor parallelism.

    Split into one chunk a rank, only the first (or last) chunk has nothing to run beside.
    """
    if not shard.stack.overlap.in_chunks(shard.training.precision):
        return (communication, *work) if before else (*work, communication)
    op = communication.op
    assert isinstance(op, Collective)
    exposed = communication._replace(op=replace(op, bytes=op.bytes / op.ranks))
    hidden = communication._replace(
        op=replace(op, bytes=op.bytes * (op.ranks - 1) / op.ranks), name=HIDDEN, asynchronous=True
    )
    return (exposed, hidden, *work) if before else (hidden, *work, exposed)
