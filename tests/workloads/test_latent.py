"""Latent attention, shared experts and dense first layers, as DeepSeek-V2 and V3 have them."""

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

from calibration.cost.physics import Physics
from sim.catalog import stack
from sim.memory import peak_memory
from sim.price import price
from sim.step import simulate
from tests.conftest import LLAMA, SIMPLE, changed, cluster, make_job, make_shard
from workloads.build import build
from workloads.catalog import model as catalogued
from workloads.errors import WorkloadError
from workloads.graph import leaf_runs
from workloads.layout import Layout, chunk_layers
from workloads.model import check, step_model_flops
from workloads.ops import Attention, Gemm, Pointwise
from workloads.shard import Shard
from workloads.stage import (
    Blocks,
    chunk_parameters,
    kinds,
    layer_kept_bytes,
    layer_parameters,
    parameters_of,
    stage_chunks,
)

# h 64, 8 heads of 8 + 4 columns and values of 8, 8 experts of 64 columns, one shared, 3 dense layers of 256.
LATENT = replace(
    LLAMA,
    name="small-latent",
    kv_heads=8,
    head_dim=12,
    ffn=64,
    experts=8,
    topk=2,
    shared_ffn=64,
    dense_layers=3,
    dense_ffn=256,
    kv_rank=16,
    q_rank=24,
    rope_dim=4,
    value_dim=8,
)
EVEN = replace(LATENT, dense_layers=0, dense_ffn=0)
ATTENTION = 64 * (24 + 16 + 4) + 24 * 8 * 12 + 16 * 8 * (8 + 8) + 8 * 8 * 64


def shard_of(model=LATENT, **layout: object) -> Shard:
    return make_shard(model, "megatron-core", **layout)


def runs_of(shard: Shard, kind: type) -> dict:
    return {op: often for op, often in leaf_runs(build(shard)).items() if isinstance(op, kind)}


def test_parameters_counted_on_paper():
    """Down, up and out; the norms of what was projected down; the router, the experts and the shared one."""
    norms = 24 + 16 + 2 * 64
    expert = 3 * 64 * 64
    assert LATENT.attention_matmul_parameters == ATTENTION
    assert LATENT.dense.layer_parameters == ATTENTION + norms + 3 * 64 * 256
    assert EVEN.layer_parameters == ATTENTION + norms + 64 * 8 + expert
    routed = EVEN.layer_parameters + 8 * expert
    assert EVEN.parameters - LATENT.parameters == 3 * (routed - LATENT.dense.layer_parameters)


@pytest.mark.parametrize("rank", [0, 24])
def test_queries_may_be_projected_at_once(rank):
    query = 64 * 8 * 12 if rank == 0 else 64 * rank + rank * 8 * 12
    assert replace(LATENT, q_rank=rank).attention_matmul_parameters - query == ATTENTION - 64 * 24 - 24 * 8 * 12


@pytest.mark.parametrize("layout", [{}, {"ep": 2, "dp": 2}, {"pp": 2}, {"pp": 3}, {"pp": 2, "vp": 4}], ids=str)
def test_the_gemms_of_a_step_are_those_of_the_model(layout):
    """On all ranks together; attention is not among them."""
    shard = shard_of(training={"global_batch": 12, "micro_batch": 1}, **layout)
    attention = 3.0 * 12 * 64 * LATENT.attention_flops_per_token(64, causal=False)
    gemms = sum(often * op.flops for op, often in runs_of(shard, Gemm).items())
    ranks = shard.layout.gpus / shard.layout.pp
    assert gemms * ranks == pytest.approx(step_model_flops(LATENT, 64, 12) - attention, rel=1e-9)


def test_attention_counts_keys_and_values_of_different_sizes():
    """2 s (a d_k + a d_v) FLOPs a token: 8 heads of 12 and of 8."""
    assert LATENT.attention_flops_per_token(64, causal=False) == 8 * 2 * 64 * 8 * (12 + 8)
    forward, backward = sorted(runs_of(shard_of(), Attention), key=lambda op: op.direction, reverse=True)
    pairs = 64 * 65 / 2
    assert (forward.flops, backward.flops) == (2 * 8 * pairs * (12 + 8), 2 * 8 * pairs * (3 * 12 + 2 * 8))
    assert (forward.bytes, backward.bytes) == (2 * 2 * 64 * 8 * (12 + 8), 2 * 2 * 2 * 64 * 8 * (12 + 8))


def test_unfused_attention_multiplies_keys_and_values_of_different_sizes():
    """Of 8 layers, columns of keys in one product forward and two backward, and those of values likewise."""
    shard = shard_of(on=changed(stack("megatron-core"), attention="unfused"))
    columns = Counter[int]()
    for op, often in runs_of(shard, Gemm).items():
        columns[min(op.n, op.k)] += round(often) * (op.batch == 8)
    passes = 8 * shard.training.global_batch // shard.training.micro_batch
    assert (columns[8], columns[12]) == (3 * passes, 3 * passes)


@pytest.mark.parametrize(("direction", "flops"), [("fwd", (12 + 8) / (8 + 8)), ("bwd", (3 * 12 + 2 * 8) / (5 * 8))])
def test_attention_with_narrow_values_runs_at_the_rate_of_one_that_is_narrow_altogether(direction, flops):
    (latent,) = (op for op in runs_of(shard_of(), Attention) if op.direction == direction)
    narrow = replace(latent, head_dim=8, value_dim=0)
    paid = price([latent, narrow], cluster(), Physics())
    assert paid[latent].seconds == pytest.approx(flops * paid[narrow].seconds)


def test_megatron_takes_keys_and_values_apart_in_one_kernel():
    """64 tokens, 8 heads: 4 rotated columns of queries; 8 of keys and 8 of values."""
    (queries,) = (op for op in runs_of(shard_of(), Pointwise) if (op.op, op.direction) == ("mla_rope_queries", "fwd"))
    (keys,) = (op for op in runs_of(shard_of(), Pointwise) if (op.op, op.direction) == ("mla_rope_keys", "fwd"))
    assert (queries.elements, keys.elements) == (64 * 8 * 4, 64 * 8 * (8 + 8))


@pytest.mark.parametrize(("pp", "vp"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_the_first_layers_of_the_model_are_the_dense_ones(pp, vp):
    """Whatever the chunks, three in all, and none behind a layer with experts."""
    shard = shard_of(pp=pp, vp=vp)
    chunks = [(chunk.index * pp + stage, chunk) for stage in range(pp) for chunk in stage_chunks(shard, stage)]
    ordered = [chunk for _, chunk in sorted(chunks, key=lambda pair: pair[0])]
    parts = [part for chunk in ordered for part in kinds(Blocks(shard=shard), chunk)]
    dense = [not kind.shard.model.experts for kind, part in parts for _ in part]
    assert dense == [True] * 3 + [False] * 5


def test_every_layer_of_a_chunk_is_of_one_kind():
    (chunk,) = stage_chunks(shard_of(), 0)
    blocks = Blocks(shard=shard_of())
    for start, stop in product(range(9), range(9)):
        parts = [part for _, part in kinds(blocks, chunk, range(start, stop))]
        assert [layer for part in parts for layer in part] == list(range(start, stop))
    assert [kind.shard.model.experts for kind, _ in kinds(blocks, chunk)] == [0, 8]


def test_parameters_of_all_stages_are_those_of_the_model():
    for pp in (1, 2, 4):
        shard = shard_of(pp=pp)
        total = sum(chunk_parameters(shard, chunk).total for stage in range(pp) for chunk in stage_chunks(shard, stage))
        assert total == LATENT.parameters


def test_what_is_projected_down_is_on_every_tensor_parallel_rank():
    whole, half = (layer_parameters(shard_of(tp=tp, sequence_parallel=tp > 1)).dense for tp in (1, 2))
    copied = 64 * (24 + 16 + 4) + 64 * 8 + 24 + 16 + 2 * 64
    assert half == (whole - copied) / 2 + copied


def test_the_stage_with_the_dense_layers_has_less_to_hold():
    """The first stage keeps the most micro-batches, and is the worst one where all layers are alike."""
    shard = shard_of(pp=2)
    parts = [parameters_of(shard, chunk) for stage in (0, 1) for chunk in stage_chunks(shard, stage)]
    assert parts[0].experts == parts[1].experts / 4
    assert [peak_memory(shard_of(model, pp=2), 1e12).stage for model in (EVEN, LATENT)] == [0, 1]


@pytest.mark.parametrize("recompute", ["none", "selective", "selective:mla_up_proj+moe_act+mlp", "full", "full:2"])
@pytest.mark.parametrize(
    "layout", [{}, {"pp": 2}, {"pp": 3}, {"dp": 2, "ep": 2, "zero": 1}, {"dp": 4, "zero": 3}], ids=str
)
def test_a_step_is_played_however_it_is_split(layout, recompute):
    training = {"global_batch": 12, "micro_batch": 1, "recompute": recompute}
    result = simulate(make_job(LATENT, "megatron-core", training=training, **layout), SIMPLE)
    assert result.step_s > 0


def kept(recompute: str, model=LATENT) -> float:
    blocks = Blocks(shard=shard_of(model, training={"recompute": recompute}))
    return layer_kept_bytes(blocks, recomputed=False)


def test_up_projections_that_are_run_again_leave_queries_keys_and_values_unkept():
    """64 tokens, 8 heads of 12, 12 and 8 columns in 16 bits, and the 4-byte statistic of each row of attention."""
    assert kept("none") - kept("selective:mla_up_proj") == 64 * 8 * ((12 + 12 + 8) * 2 + 4)


def test_activations_of_experts_that_are_run_again_are_the_input_of_the_last_product():
    """Two experts for each of 64 tokens, 64 columns in 16 bits."""
    assert kept("none") - kept("selective:moe_act") == 64 * 2 * 64 * 2


def test_dense_layers_run_their_mlp_again_and_the_others_do_not():
    shard = shard_of(training={"recompute": "selective:mlp"})
    blocks = Blocks(shard=shard)
    (dense, _), _ = kinds(blocks, stage_chunks(shard, 0)[0])
    again = {work.op.n for work in dense.again.work if isinstance(work.op, Gemm)}
    assert again == {2 * 256, 64}
    assert blocks.again.pieces == ()


def test_layers_that_do_not_divide_are_dealt_out_with_the_ends_as_layers():
    """61 layers on 16 stages: 63 with embedding and head, so 15 stages of four and one of three."""
    model = replace(catalogued("deepseek-v3"), mtp_layers=0)
    assert chunk_layers(model, Layout(pp=16)) == (3, *(4,) * 14, 2)
    assert sum(chunk_layers(model, Layout(pp=4, vp=4))) == 61


@pytest.mark.parametrize(("pp", "vp"), [(2, 1), (3, 2), (7, 1), (8, 1), (5, 2), (10, 1), (2, 5)])
def test_every_chunk_of_every_split_has_its_share(pp, vp):
    layers = chunk_layers(LATENT, Layout(pp=pp, vp=vp))
    assert (sum(layers), len(layers)) == (8, pp * vp)
    assert min(layers) >= 0
    assert max(layers) - min(layers) <= 2


def test_more_chunks_than_layers_and_ends_are_refused():
    with pytest.raises(WorkloadError, match="are fewer than pp x vp = 11"):
        shard_of(pp=11)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"experts": 0, "topk": 0}, "are of models with experts"),
        ({"expert_groups": 3}, "of 3 groups of 8 experts"),
        ({"expert_groups": 8, "topk_groups": 1}, "topk 2 from 1 of 8 groups"),
        ({"expert_groups": 2, "topk_groups": 3}, "from 3 of 2 groups"),
        ({"dense_layers": 9}, "dense_layers 9 of 8"),
        ({"dense_ffn": 0}, "of dense_ffn 0 columns"),
        ({"rope_dim": 12}, "needs rope_dim below head_dim"),
        ({"value_dim": 0}, "value_dim"),
        ({"kv_heads": 4}, "kv_heads = heads"),
        ({"kv_rank": 0}, "kv_rank is missing"),
    ],
)
def test_sizes_that_do_not_go_together(change, fault):
    assert any(fault in found for found in check(replace(LATENT, **change)))
