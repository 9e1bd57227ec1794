"""Linear layers on one rank: the GEMMs of the forward pass, the data gradient and the weight gradient."""

from dataclasses import replace

from workloads.adapters import with_adapter
from workloads.autocast import DATA, autocasts
from workloads.graph import Work
from workloads.ops import DTYPE_BYTES, Gemm, Layout
from workloads.pieces import Piece, kernel_work, of_weights
from workloads.quantisation import Quantised, quantised
from workloads.shard import Shard


def linear(
    shard: Shard,
    name: str,
    inputs: int,
    outputs: tuple[int, ...],
    *,
    narrow: bool = True,
    bias: bool = False,
    behind_norm: bool = False,
    row_parallel: bool = False,
) -> Piece:
    """Linear layers over one input: [tokens, inputs] -> [tokens, each of outputs], without communication.

    Args:
        narrow: whether the GEMMs run in the 8- or 4-bit type of the precision, where it has one.
        behind_norm: whether the input comes from a norm, in the residual's type.
        row_parallel: whether tensor parallelism splits the inputs, and not the outputs.
    """
    dtype = shard.precision.gemm if narrow or not shard.precision.quantised else shard.precision.activation
    narrowed = Quantised()
    if narrow and shard.precision.quantised:
        narrowed = quantised(shard, name, inputs, outputs, behind_norm=behind_norm, row_parallel=row_parallel)
    copies = autocasts(shard, inputs, outputs, behind_norm=behind_norm)
    piece = Piece(
        name=name,
        kind="gemm",
        forward=(
            *copies.forward,
            *narrowed.forward,
            *(_gemm(shard, (shard.tokens, n, inputs), "tn", dtype) for n in outputs),
        ),
        backward=(
            *narrowed.data,
            *(_gemm(shard, (shard.tokens, inputs, n), "nn", dtype, DATA) for n in outputs),
            *copies.data,
            *_summed(shard, inputs, len(outputs), shard.residual_dtype if behind_norm else ""),
            *of_weights((*narrowed.weights, *_weight_gradients(shard, inputs, outputs, dtype), *copies.weights)),
            *(kernel_work(shard, ("bias_add",), shard.tokens, sum(outputs), "bwd") if bias else ()),
        ),
        saved_bytes=shard.tokens * inputs * _saved_width(shard, name, dtype) + copies.bytes,
        output_bytes=shard.tokens * sum(outputs) * shard.precision.activation_bytes,
    )
    return with_adapter(shard, piece, inputs, sum(outputs), row_parallel=row_parallel)


def _saved_width(shard: Shard, name: str, dtype: str) -> float:
    """Bytes of an input as it is kept: narrow where GEMMs are, but not where tf32 reads fp32.

    A frozen layer has no weight gradient to keep it for, but where an adapter, which is not narrow, reads it too.
    """
    if shard.frozen:
        return shard.precision.activation_bytes if shard.adapted(name) else 0.0
    return DTYPE_BYTES[dtype] if shard.precision.quantised else shard.precision.activation_bytes


def _gemm(shard: Shard, mnk: tuple[int, int, int], layout: Layout, dtype: str, name: str = "") -> Work:
    m, n, k = mnk
    gemm = Gemm(m=m, n=n, k=k, layout=layout, dtype=dtype, out_dtype=shard.precision.activation)
    return Work(added_up(gemm), name=name)


def added_up(gemm: Gemm) -> Gemm:
    """Gradients in 8 bits are added up more exactly (`_2X_ACC_DGRAD` of Transformer Engine; torchao alike)."""
    return replace(gemm, split_accumulator=gemm.dtype == "fp8" and gemm.layout != "tn")


def _summed(shard: Shard, columns: int, parts: int, dtype: str) -> tuple[Work, ...]:
    """Several layers over one input: their data gradients are added up."""
    adds = kernel_work(shard, ("add",) * (parts - 1), shard.tokens, columns, "fwd", dtype)
    return tuple(work._replace(name=DATA) for work in adds)


def _weight_gradients(shard: Shard, inputs: int, outputs: tuple[int, ...], dtype: str) -> tuple[Work, ...]:
    """Adapters train no weights of the layers. Fused accumulation reads and writes the buffer."""
    if shard.frozen:
        return ()
    fused, out = shard.stack.fused_gradient_accumulation, shard.weight_gradient_dtype
    return tuple(
        Work(added_up(Gemm(m=n, n=inputs, k=shard.tokens, layout="nt", dtype=dtype, out_dtype=out, accumulate=fused)))
        for n in outputs
    )
