"""GPT-OSS: sinks, biases of experts, clamped gates, and rotary positions that also scale."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.conftest import LLAMA, changed, make_job, make_shard
from workloads import transformer
from workloads.build import build
from workloads.catalog import model as catalogued
from workloads.errors import WorkloadError
from workloads.graph import leaf_runs
from workloads.hf import model_from_config
from workloads.model import Model, check
from workloads.ops import Gemm, Pointwise
from workloads.pieces import Piece
from workloads.stage import Blocks, layer_kept_bytes, layer_parameters

# Attention of h 2880: 64 heads and twice 8 of 64 columns, and back. An expert: gate and up of 2880 columns, and down.
ATTENTION = 2880 * 80 * 64 + 64 * 64 * 2880
EXPERT = 3 * 2880 * 2880
OSS = replace(
    LLAMA, name="small-oss", ffn=64, experts=8, topk=2, biases="all", sinks=True, clamped=True, rope_scaled=True
)
PLAIN = replace(OSS, biases="none", sinks=False, clamped=False, rope_scaled=False)
TOKENS = 64  # of a micro-batch


def pieces(model: Model, stack: str = "megatron-core", **layout: object) -> dict[str, Piece]:
    return {piece.name: piece for piece in transformer.layer(make_shard(model, stack, **layout))}


def kernels(piece: Piece) -> list[str]:
    return [work.op.op for work in piece.forward if isinstance(work.op, Pointwise)]


def kept(model: Model, recompute: str) -> float:
    shard = make_shard(model, "megatron-core", training={"recompute": recompute})
    return layer_kept_bytes(Blocks(shard=shard), recomputed=True)


@pytest.mark.parametrize(("name", "layers", "experts"), [("gpt-oss-20b", 24, 32), ("gpt-oss-120b", 36, 128)])
def test_parameters_by_hand(name, layers, experts):
    """Weights, biases, sinks of 64 heads, two norms, router; embedding and head apart."""
    attention = ATTENTION + (80 * 64 + 2880) + 64
    routed = experts * (EXPERT + 2 * 2880 + 2880) + experts * (2880 + 1)
    ends = 2 * 201_088 * 2880 + 2880
    assert catalogued(name).parameters == layers * (attention + routed + 2 * 2880) + ends


def test_parameters_are_the_published_ones():
    """gpt-oss model card (arXiv:2508.10925), Table 1: 116.83 and 20.91 billion; 5.13 and 3.61 for a token."""
    large, small = catalogued("gpt-oss-120b"), catalogued("gpt-oss-20b")
    assert (large.parameters, small.parameters) == (116_829_156_672, 20_914_757_184)
    active = [model.matmul_flops_per_token / 2 for model in (large, small)]  # the head is among them, the embedding not
    assert active == pytest.approx([5.13e9, 3.61e9], rel=1e-3)


def test_a_configuration_has_what_the_code_has():
    model = catalogued("gpt-oss-120b")
    assert (model.head_dim, model.heads, model.kv_heads, model.biases) == (64, 64, 8, "all")
    assert (model.window, model.full_every, model.sinks, model.clamped, model.rope_scaled) == (128, 2, True, True, True)
    config = {
        **{"architectures": ["GptOssForCausalLM"], "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 64},
        **{"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512, "max_position_embeddings": 64},
        **{"num_local_experts": 8, "num_experts_per_tok": 2},
    }
    model = model_from_config(config, "bare")
    assert (model.head_dim, model.window, model.full_every, model.rope_scaled) == (64, 128, 2, False)
    with pytest.raises(WorkloadError, match="'attention_bias' False is not covered"):
        model_from_config(config | {"attention_bias": False}, "bare")


def test_half_of_the_attention_is_in_windows():
    """4096 tokens, 18 layers each: 4 x 64 x 64 FLOPs for each of (4097 / 2 + 128 - 128 x 127 / 8192) keys."""
    keys = 4097 / 2 + 128 - 128 * 127 / (2 * 4096)
    assert catalogued("gpt-oss-120b").attention_flops_per_token(4096, causal=True) == 18 * 4 * 64 * 64 * keys


def test_experts_are_spread_with_their_biases():
    found = layer_parameters(make_shard(OSS, "megatron-core", ep=4, dp=4))
    assert found.experts == 2 * (3 * 64 * 64 + 2 * 64 + 64)
    assert found.dense + 4 * found.experts == OSS.layer_parameters + OSS.layer_expert_parameters


def test_megatron_adds_the_last_bias_in_kernels_of_its_own_and_the_first_in_its_product():
    """64 x 2 rows from each rank."""
    found = pieces(OSS, ep=4, dp=4)
    assert "experts up bias" not in found
    bias = found["experts down bias"]
    assert kernels(bias) == ["row_bias_fp32"]
    assert {work.op.groups for work in (*bias.forward, *bias.backward)} == {OSS.experts // 4}
    assert {(work.op.rows, work.op.cols) for work in (*bias.forward, *bias.backward)} == {(TOKENS * 2, 64)}
    assert bias.saved_bytes == 0


def test_other_stacks_add_a_bias_behind_each_product():
    found = pieces(replace(OSS, sinks=False), "torchtitan")
    assert kernels(found["experts up bias"]) == kernels(found["experts down bias"]) == ["bias_add"]
    assert {work.op.cols for work in found["experts up bias"].forward} == {2 * 64}


def test_a_model_without_them_has_none_of_these_kernels():
    runs = [work.op for piece in pieces(PLAIN).values() for work in (*piece.forward, *piece.backward)]
    names = {op.op for op in runs if isinstance(op, Pointwise)}
    assert names.isdisjoint({"row_bias_fp32", "bias_add", "clamp_halves", "rope_eager", "sink_gradient"})


def test_clamps_are_kernels_in_front_of_the_activation_and_keep_their_input():
    """Gate and up of 64 columns for 64 x 2 rows in 16 bits, once more than without clamps."""
    found = pieces(OSS)
    assert kernels(found["experts activation"]) == ["clamp_halves"]
    assert kernels(found["experts gate"]) == kernels(pieces(PLAIN)["experts activation"]) == ["weighted_swiglu"]
    rows = TOKENS * 2 * 2 * 64 * 2
    assert kept(replace(OSS, sinks=False), "none") - kept(replace(OSS, clamped=False), "none") == rows


def test_the_host_waits_in_front_of_a_clamped_activation_going_forward():
    """For a number that is copied to the GPU."""
    found = pieces(OSS)["experts gate"]
    assert ([work.counted for work in found.forward], [work.counted for work in found.backward]) == ([True], [False])
    plain = pieces(PLAIN)["experts activation"]
    assert not any(work.counted for work in plain.forward)


def test_gradients_of_sinks_take_a_kernel_for_the_rows_of_all_heads():
    ops = [work.op for work in pieces(OSS)["attention"].backward if isinstance(work.op, Pointwise)]
    assert [(op.op, op.rows, op.direction) for op in ops] == [("sink_gradient", TOKENS * OSS.heads, "bwd")]


def test_activations_that_are_run_again_keep_the_input_of_the_clamps_alone():
    """The clamped inputs and the input of the last product are made again."""
    assert kept(OSS, "none") - kept(OSS, "selective:moe_act") == TOKENS * 2 * (2 * 64 + 64) * 2
    assert kept(OSS, "selective:moe_act") == kept(PLAIN, "selective:moe_act")
    again = Blocks(shard=make_shard(OSS, "megatron-core", training={"recompute": "selective:moe_act"})).again
    assert Counter(work.op.op for work in again.work) == {"clamp_halves": 1, "weighted_swiglu": 1}


def test_rotary_positions_that_scale_are_not_fused():
    assert kernels(pieces(OSS)["rope"]) == ["rope_eager", "copy"]
    assert kernels(pieces(PLAIN)["rope"]) == ["rope_te"]


def test_sinks_are_fused_where_the_stack_has_such_a_kernel():
    assert make_job(OSS, "megatron-core").shard().attention == "flash"
    assert make_job(PLAIN, "nemo").shard().attention == "flash"
    job = make_job(OSS, "nemo")
    with pytest.raises(WorkloadError, match="nemo has no fused kernel for the sinks of small-oss"):
        job.shard()
    assert replace(job, attention="unfused").shard().attention == "unfused"
    assert replace(job, stack=changed(job.stack, fused_sinks=True)).shard().attention == "flash"


def test_products_are_those_of_a_model_without_these():
    """They cost kernels and memory, no matrix products."""
    gemms = [
        sum(
            op.flops * often
            for op, often in leaf_runs(build(make_shard(model, "megatron-core"))).items()
            if isinstance(op, Gemm)
        )
        for model in (OSS, PLAIN)
    ]
    assert gemms[0] == gemms[1]


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ({"shared_ffn": 64}, "biases of shared experts"),
        ({"gated": False}, "clamped is of gated activations"),
        ({"positions": "alibi"}, "rope_scaled is of rotary positions"),
        ({"sinks": 1}, "sinks is 1; true or false is right"),
    ],
)
def test_what_is_not_covered_is_said(sizes, fault):
    assert any(fault in found for found in check(replace(OSS, **sizes)))
