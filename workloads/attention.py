"""The attention core: softmax(Q K^T) V of one rank, fused or as separate kernels."""

from dataclasses import replace

from workloads.graph import Work
from workloads.ops import Attention, Direction, Gemm, Layout
from workloads.parallelism import context
from workloads.pieces import Piece, behind_wait, kernel_work
from workloads.shard import Shard


def core(shard: Shard) -> Piece:
    """The core that the stack or the job names, and the copies around it."""
    piece = _read(shard, flash(shard) if shard.attention == "flash" else unfused(shard))
    context = kernel_work(shard, shard.kernels.context, shard.tokens, _columns(shard), "fwd")
    split = kernel_work(shard, shard.kernels.split, shard.tokens, _qkv_columns(shard), "bwd")
    return replace(piece, forward=(*piece.forward, *context), backward=(*piece.backward, *split))


def _read(shard: Shard, piece: Piece) -> Piece:
    """With its first kernel behind a wait for the GPU, where the stack reads the longest sequence of the batch."""
    return replace(piece, forward=behind_wait(piece.forward)) if shard.stack.host.reads_lengths else piece


def flash(shard: Shard) -> Piece:
    """One kernel; keeps queries, keys, values and a log-sum-exp of each row (Dao et al., arXiv:2205.14135).

    Backward it also needs its output, which the projection behind it keeps anyway, unless ranks exchange it in between.
    """
    statistics = 4.0 * shard.tokens * shard.heads
    output = _columns(shard) * shard.tokens * shard.precision.activation_bytes
    return Piece(
        name="attention",
        kind="core",
        forward=context.attention(shard, _kernel(shard, "fwd")),
        backward=(*context.attention(shard, _kernel(shard, "bwd")), *_sinks(shard)),
        saved_bytes=_qkv_bytes(shard) + statistics + (output if shard.exchanges_heads else 0.0),
        output_bytes=output,
    )


def unfused(shard: Shard) -> Piece:
    """Two batched GEMMs around a softmax whose scores are kept: [batch x heads x seq, seq]."""
    rows, cols = shard.training.micro_batch * shard.core_heads * shard.core_sequence, shard.core_sequence
    keys, values = shard.model.head_dim, shard.model.value_head_dim
    softmax = _softmax(shard)
    scores = shard.saved_bytes(softmax, float(rows) * cols)
    return Piece(
        name="attention",
        kind="core",
        forward=(
            _scores(shard, keys, "tn"),
            *kernel_work(shard, softmax, rows, cols, "fwd"),
            _values(shard, values, "nn"),
        ),
        backward=(
            _scores(shard, values, "tn"),
            _values(shard, values, "nt"),
            *kernel_work(shard, softmax[::-1], rows, cols, "bwd"),
            _values(shard, keys, "nn"),
            _values(shard, keys, "nt"),
        ),
        saved_bytes=_qkv_bytes(shard) + scores,
        core_bytes=scores,
        output_bytes=_columns(shard) * shard.tokens * shard.precision.activation_bytes,
    )


def _softmax(shard: Shard) -> tuple[str, ...]:
    """The kernels of the stack; a fused one may want a multiple of some number of heads, and falls back on others."""
    fits = shard.training.micro_batch * shard.core_heads % shard.stack.fused_softmax_heads == 0
    return shard.kernels.softmax if fits or not shard.kernels.softmax_fallback else shard.kernels.softmax_fallback


def _kernel(shard: Shard, direction: Direction) -> Attention:
    return Attention(
        batch=shard.training.micro_batch,
        seq_q=shard.core_sequence,
        seq_kv=shard.core_sequence,
        heads=shard.core_heads,
        kv_heads=shard.core_kv_heads,
        head_dim=shard.model.head_dim,
        dtype=shard.precision.activation,
        causal=shard.model.family != "bert",
        window=shard.window,
        direction=direction,
        kernel=shard.stack.flash_kernel,
        value_dim=shard.model.value_dim,
    )


def _sinks(shard: Shard) -> tuple[Work, ...]:
    """What the gradients of sinks take beside the kernel, where it does not find them on the way."""
    if not shard.model.sinks:
        return ()
    return kernel_work(shard, shard.kernels.sinks, shard.tokens * shard.core_heads, shard.model.value_head_dim, "bwd")


def _scores(shard: Shard, columns: int, layout: Layout) -> Work:
    """Q K^T, or the gradient of the probabilities: [seq, seq] from [seq, columns of a head]."""
    return _batched(shard, shard.core_sequence, columns, layout)


def _values(shard: Shard, columns: int, layout: Layout) -> Work:
    """Probabilities times values, or the like: [seq, columns of a head] from [seq, seq]."""
    return _batched(shard, columns, shard.core_sequence, layout)


def _batched(shard: Shard, n: int, k: int, layout: Layout) -> Work:
    dtype = shard.precision.activation if shard.precision.quantised else shard.precision.gemm
    return Work(
        Gemm(
            m=shard.core_sequence,
            n=n,
            k=k,
            batch=shard.training.micro_batch * shard.core_heads,
            layout=layout,
            dtype=dtype,
            out_dtype=shard.precision.activation,
        )
    )


def _columns(shard: Shard) -> int:
    return shard.heads * shard.model.value_head_dim


def _qkv_columns(shard: Shard) -> int:
    model = shard.model
    return (shard.heads + shard.kv_heads) * model.head_dim + shard.kv_heads * model.value_head_dim


def _qkv_bytes(shard: Shard) -> float:
    return shard.tokens * _qkv_columns(shard) * shard.precision.activation_bytes
