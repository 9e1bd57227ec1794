"""Linear layers on one rank: the GEMMs of the forward pass, the data gradient and the weight gradient."""

from workloads.graph import Work
from workloads.ops import DTYPE_BYTES, Gemm, Layout
from workloads.pieces import Piece, kernel_work
from workloads.shard import Shard

# The name under which data gradients are known: their communication can run beside the weight gradients.
DATA = "data"


def linear(
    shard: Shard, name: str, inputs: int, outputs: tuple[int, ...], *, narrow: bool = True, bias: bool = False
) -> Piece:
    """Linear layers over one input: [tokens, inputs] -> [tokens, each of outputs], without communication.

    Args:
        narrow: whether the GEMMs run in the 8- or 4-bit type of the precision, where it has one.
    """
    cast = narrow and shard.precision.quantised
    dtype = shard.precision.gemm if narrow or not shard.precision.quantised else shard.precision.activation
    return Piece(
        name=name,
        kind="gemm",
        forward=(
            *_casts(shard, cast, inputs),
            *(kernel_work(shard, shard.kernels.quantise_weights, sum(outputs), inputs, "fwd") if cast else ()),
            *(_gemm(shard, (shard.tokens, n, inputs), "tn", dtype) for n in outputs),
        ),
        backward=(
            *_casts(shard, cast, sum(outputs)),
            *(_gemm(shard, (shard.tokens, inputs, n), "nn", dtype, DATA) for n in outputs),
            *_summed(shard, inputs, len(outputs)),
            *_weight_gradients(shard, inputs, outputs, dtype),
            *(kernel_work(shard, ("bias_add",), shard.tokens, sum(outputs), "bwd") if bias else ()),
        ),
        saved_bytes=shard.tokens * inputs * DTYPE_BYTES[dtype if cast else shard.precision.activation],
        output_bytes=shard.tokens * sum(outputs) * shard.precision.activation_bytes,
    )


def _gemm(shard: Shard, mnk: tuple[int, int, int], layout: Layout, dtype: str, name: str = "") -> Work:
    m, n, k = mnk
    return Work(Gemm(m=m, n=n, k=k, layout=layout, dtype=dtype, out_dtype=shard.precision.activation), name=name)


def _casts(shard: Shard, cast: bool, columns: int) -> tuple[Work, ...]:
    kernels = shard.kernels.quantise if cast else ()
    return kernel_work(shard, kernels, shard.tokens, columns, "fwd")


def _summed(shard: Shard, columns: int, parts: int) -> tuple[Work, ...]:
    """Several layers over one input: their data gradients are added up."""
    adds = kernel_work(shard, ("add",) * (parts - 1), shard.tokens, columns, "fwd")
    return tuple(work._replace(name=DATA) for work in adds)


def _weight_gradients(shard: Shard, inputs: int, outputs: tuple[int, ...], dtype: str) -> tuple[Work, ...]:
    """Adapters train no weights of the layers. Fused accumulation reads and writes the fp32 buffer."""
    if shard.training.task == "lora":
        return ()
    fused = shard.stack.fused_gradient_accumulation
    out = "fp32" if fused else shard.precision.activation
    return tuple(
        Work(Gemm(m=n, n=inputs, k=shard.tokens, layout="nt", dtype=dtype, out_dtype=out, accumulate=fused))
        for n in outputs
    )
