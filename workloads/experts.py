"""A mixture of experts on one rank: router, rows by expert, the experts' GEMMs in groups, and the way back.

Tokens are dealt evenly, as a router with a balancing loss or bias aims at; a step with uneven experts takes longer.
Recomputation selective by op runs the GEMMs of experts again: its lists of what is kept do not name grouped ones.
"""

from dataclasses import replace

from workloads.graph import Work
from workloads.linear import added_up
from workloads.ops import DTYPE_BYTES, Gemm, Layout
from workloads.parallelism import expert
from workloads.pieces import Piece, behind_wait, kernel_work, of_weights, pointwise
from workloads.quantisation import whole_casts
from workloads.shard import Shard


def routed(shard: Shard) -> tuple[Piece, ...]:
    """What stands between the norm of the MLP and its residual."""
    columns, hidden = shard.model.ffn // shard.layout.expert_tp, shard.model.hidden
    gates = 2 if shard.model.gated else 1
    fused = shard.stack.fused_projections and shard.stack.fused_gate
    return (
        _router(shard),
        pointwise(shard, "route", shard.kernels.route, _routing(shard), shard.model.experts, "fp32"),
        _dispatch(shard),
        _rows(shard, "arrange", shard.kernels.arrange),
        _grouped(shard, "experts up", hidden, (gates * columns,) if fused else (columns,) * gates),
        *_biased(shard, "experts up bias", shard.kernels.up_bias, gates * columns),
        *_activated(shard, columns),
        _grouped(shard, "experts down", columns, (hidden,)),
        *_biased(shard, "experts down bias", shard.kernels.down_bias, hidden),
        _rows(shard, "restore", shard.kernels.combine if shard.sends_once else shard.kernels.restore),
        _combine(shard),
    )


def _activated(shard: Shard, columns: int) -> tuple[Piece, ...]:
    """The activation; where its inputs are clamped by a kernel of their own, that one and then the activation."""
    gated = shard.kernels.gated_routed or shard.kernels.gated
    kernels = gated if shard.model.gated else shard.kernels.activation(shard.model.activation)
    chain = [shard.kernels.clamp, kernels] if shard.model.clamped and shard.kernels.clamp else [kernels]
    names = ("experts activation", "experts gate")
    pieces = [pointwise(shard, name, each, _arrived(shard), columns) for name, each in zip(names, chain, strict=False)]
    if len(chain) > 1 and shard.stack.host.reads_gates:
        pieces[-1] = replace(pieces[-1], forward=behind_wait(pieces[-1].forward))
    return tuple(pieces)


def _biased(shard: Shard, name: str, kernels: tuple[str, ...], columns: int) -> tuple[Piece, ...]:
    """A bias for the rows of each expert, where kernels of their own add it."""
    if shard.model.biases != "all" or not kernels:
        return ()
    return (pointwise(shard, name, kernels, _arrived(shard), columns, groups=shard.experts),)


def _arrived(shard: Shard) -> int:
    """Rows that the experts of a rank work on."""
    return shard.routed_tokens * shard.layout.expert_tp


def _routing(shard: Shard) -> int:
    """Tokens that a rank finds experts for."""
    return shard.tokens if shard.stack.gathers_routed else shard.split_tokens


def _router(shard: Shard) -> Piece:
    """A narrow linear layer, in the activation type or a wider one that its input is cast to in each pass."""
    rows, inputs, outputs = _routing(shard), shard.model.hidden, shard.model.experts
    width = shard.precision.activation_bytes
    dtype = shard.stack.router_dtype or shard.precision.activation
    casts = ("cast",) if dtype != shard.precision.activation else ()
    cast = kernel_work(shard, casts, rows, inputs, "fwd")
    cast_back = kernel_work(shard, casts, rows, inputs, "bwd")
    alike = Gemm(m=rows, n=outputs, k=inputs, dtype=dtype, out_dtype=dtype)
    return Piece(
        name="router",
        kind="gemm",
        forward=(*cast, Work(alike)),
        backward=(
            Work(replace(alike, n=inputs, k=outputs, layout="nn")),
            *cast_back,
            *of_weights((*cast, Work(replace(alike, m=outputs, n=inputs, k=rows, layout="nt")))),
        ),
        saved_bytes=rows * inputs * width,
        output_bytes=rows * outputs * DTYPE_BYTES[dtype],
    )


def _dispatch(shard: Shard) -> Piece:
    """A row for each expert of a token, to the rank that has it."""
    kernels = () if shard.sends_once else shard.kernels.permute
    rows = pointwise(shard, "dispatch", kernels, shard.routed_tokens, shard.model.hidden)
    return Piece(
        name="dispatch",
        kind="pointwise",
        forward=(*rows.forward, *expert.to_experts(shard, new=True)),
        backward=(*expert.from_experts(shard), *rows.backward),
        saved_bytes=rows.saved_bytes,
        output_bytes=rows.output_bytes * shard.layout.expert_tp,
    )


def _combine(shard: Shard) -> Piece:
    """Back to the rank of the token, where its rows are summed up; those that are sent once already are on the way."""
    nothing = pointwise(shard, "combine", (), shard.split_tokens, shard.model.hidden)
    rows = nothing if shard.sends_once else _summed(shard)
    return replace(
        rows,
        forward=(*expert.from_experts(shard), *rows.forward),
        backward=(*rows.backward, *expert.to_experts(shard, new=False)),
    )


def _summed(shard: Shard) -> Piece:
    """The rows of a token, weighted.

    A rank that routed the tokens of all tensor-parallel ranks sums up rows for all of them; those that another rank has
    are zero.
    """
    hidden, rows = shard.model.hidden, _routing(shard) * shard.model.topk
    absent = rows - shard.routed_tokens
    zeros = kernel_work(shard, ("zero",), absent, hidden, "fwd") if absent else ()
    in_order = pointwise(shard, "unsort", shard.kernels.unsort, shard.routed_tokens, hidden)
    summed = pointwise(shard, "combine", shard.kernels.combine, rows, hidden)
    return Piece(
        name="combine",
        kind="pointwise",
        forward=(*zeros, *in_order.forward, *summed.forward),
        backward=(*summed.backward, *in_order.backward),
        saved_bytes=in_order.saved_bytes + summed.saved_bytes,
        output_bytes=summed.output_bytes / shard.model.topk,
    )


def _rows(shard: Shard, name: str, kernels: tuple[str, ...]) -> Piece:
    return pointwise(shard, name, kernels, _arrived(shard), shard.model.hidden)


def _grouped(shard: Shard, name: str, inputs: int, outputs: tuple[int, ...]) -> Piece:
    """Linear layers of all experts of a rank, each over its share of the rows."""
    narrow = shard.precision.quantised and shard.stack.quantises_experts
    dtype = shard.precision.gemm if narrow else shard.precision.activation
    rows, columns = _arrived(shard), sum(outputs)
    return Piece(
        name=name,
        kind="pointwise",
        forward=(*_cast(shard, rows, inputs, narrow=narrow), *(_gemm(shard, "tn", n, inputs, dtype) for n in outputs)),
        backward=(
            *_cast(shard, rows, columns, narrow=narrow),
            *(_gemm(shard, "nn", inputs, n, dtype) for n in outputs),
            *kernel_work(shard, ("add",) * (len(outputs) - 1), rows, inputs, "fwd"),
            *of_weights(tuple(_weight_gradient(shard, n, inputs, dtype) for n in outputs)),
        ),
        saved_bytes=rows * inputs * (DTYPE_BYTES[dtype] if narrow else shard.precision.activation_bytes),
        output_bytes=rows * columns * shard.precision.activation_bytes,
    )


def _cast(shard: Shard, rows: int, columns: int, *, narrow: bool) -> tuple[Work, ...]:
    return kernel_work(shard, whole_casts(shard), rows, columns, "fwd") if narrow else ()


def _gemm(shard: Shard, layout: Layout, columns: int, inner: int, dtype: str) -> Work:
    out = shard.precision.activation
    return _each(shard, Gemm(m=_rows_of_one(shard), n=columns, k=inner, layout=layout, dtype=dtype, out_dtype=out))


def _weight_gradient(shard: Shard, outputs: int, inputs: int, dtype: str) -> Work:
    gemm = Gemm(
        m=outputs,
        n=inputs,
        k=_rows_of_one(shard),
        layout="nt",
        dtype=dtype,
        out_dtype=shard.weight_gradient_dtype,
        accumulate=shard.stack.fused_gradient_accumulation,
    )
    return _each(shard, gemm)


def _each(shard: Shard, gemm: Gemm) -> Work:
    """The GEMM of one expert -> those of all on the rank."""
    streams = shard.stack.grouped_gemms == "streams"
    return Work(replace(added_up(gemm), batch=shard.experts, grouped=True, streams=streams))


def _rows_of_one(shard: Shard) -> int:
    """Rows of one expert, in the mean."""
    return max(1, round(_arrived(shard) / shard.experts))
