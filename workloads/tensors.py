"""Tensors that the parameters of a rank lie in: a trainer may go through them one by one."""

from workloads.model import Model
from workloads.parameters import Parameters, summed
from workloads.shard import Shard
from workloads.stack import Stack
from workloads.stage import Blocks, Chunk, kinds


def chunk_tensors(shard: Shard, chunk: Chunk) -> Parameters:
    """How many a rank has of a chunk, with the embedding and the head where they are."""
    layers = [layer_tensors(kind.shard) * len(part) for kind, part in kinds(Blocks(shard=shard), chunk)]
    norm = _of_norm(shard.model)
    return summed(layers) + Parameters(dense=(1 if chunk.first else 0) + (1 + norm if chunk.last else 0))


def layer_tensors(shard: Shard) -> Parameters:
    """Of one layer: weights and biases of linear layers, and norms. Every expert has its own."""
    model, stack = shard.model, shard.stack
    mlp = _of_mlp(model, stack)
    dense = _of_attention(model, stack) + 2 * _of_norm(model)
    dense += 1 + 3 * _of_norm(model) if shard.predicts else 0
    if not model.experts:
        return Parameters(dense=dense + mlp)
    router, shared = 1 + (model.biases == "all"), mlp if model.shared_ffn else 0
    return Parameters(dense=dense + router + shared, experts=shard.experts * mlp)


def _of_attention(model: Model, stack: Stack) -> int:
    if model.kv_rank:
        down_up_and_norm = 3
        return 1 + down_up_and_norm + (down_up_and_norm if model.q_rank else 1)
    weights = 2 if stack.fused_projections else 4
    biases = {"none": 0, "qkv": weights - 1}.get(model.biases, weights)
    return weights + biases + (2 if model.qk_norm else 0) + (1 if model.sinks else 0)


def _of_mlp(model: Model, stack: Stack) -> int:
    """Of one MLP, or of one expert."""
    one_gemm = stack.fused_projections and stack.fused_gate
    weights = 3 if model.gated and not one_gemm else 2
    return weights * (2 if model.biases == "all" else 1)


def _of_norm(model: Model) -> int:
    return 2 if model.norm == "layer_norm" and model.norm_bias else 1
