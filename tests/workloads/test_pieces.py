"""Pieces of a layer: their kernels and GEMMs, forward and backward."""

from dataclasses import replace

import pytest

from sim.catalog import stack
from tests.conftest import GPT, LLAMA, changed, make_shard
from workloads import attention, transformer
from workloads.graph import Work
from workloads.linear import linear
from workloads.ops import Attention, Gemm, Pointwise
from workloads.pieces import pointwise
from workloads.shard import Shard

PLAIN = changed(stack("megatron-lm-2022"), fused_gradient_accumulation=False, kernels={"quantise": ("quantize_fp8",)})


def shard(**keywords) -> Shard:
    return make_shard(**({"on": PLAIN} | keywords))


def gemms(work: tuple[Work, ...]) -> list[tuple[int, int, int, str]]:
    return [(op.m, op.n, op.k, op.layout) for item in work if isinstance(op := item.op, Gemm)]


def kernels(work: tuple[Work, ...]) -> list[str]:
    return [item.op.op for item in work if isinstance(item.op, Pointwise)]


def flops(work: tuple[Work, ...]) -> float:
    return sum(item.op.flops for item in work if isinstance(item.op, Gemm | Attention))


def test_a_linear_layer_is_three_gemms():
    """64 tokens, 10 -> 30: forward, data gradient and weight gradient do the same FLOPs."""
    piece = linear(shard(), "up", 10, (30,))
    assert gemms(piece.forward) == [(64, 30, 10, "tn")]
    assert gemms(piece.backward) == [(64, 10, 30, "nn"), (30, 10, 64, "nt")]
    assert flops(piece.backward) == 2 * flops(piece.forward)


def test_a_linear_layer_keeps_its_input():
    piece = linear(shard(), "up", 10, (30,))
    assert (piece.saved_bytes, piece.output_bytes) == (64 * 10 * 2, 64 * 30 * 2)


def test_several_projections_of_one_input_add_their_gradients():
    piece = linear(shard(), "qkv", 10, (30, 20, 20))
    assert [n for _, n, _, _ in gemms(piece.forward)] == [30, 20, 20]
    assert kernels(piece.backward) == ["add", "add"]
    assert piece.saved_bytes == 64 * 10 * 2


def test_the_gradient_of_a_bias_is_a_sum_over_rows():
    work = linear(shard(), "up", 10, (30,), bias=True).backward
    sums = [(op.op, op.rows, op.cols) for item in work if isinstance(op := item.op, Pointwise)]
    assert sums == [("bias_add", 64, 30)]


def test_fused_accumulation_writes_fp32():
    on = changed(PLAIN, fused_gradient_accumulation=True)
    weights = [item.op for item in linear(shard(on=on), "up", 10, (30,)).backward if item.op.layout == "nt"]
    assert [(op.out_dtype, op.accumulate) for op in weights] == [("fp32", True)]


def test_narrow_gemms_cast_their_inputs_and_keep_them_narrow():
    narrow = shard(training={"precision": "fp8"})
    piece = linear(narrow, "up", 10, (30,))
    assert kernels(piece.forward) == ["quantize_fp8"]
    assert {item.op.dtype for item in piece.forward if isinstance(item.op, Gemm)} == {"fp8"}
    assert piece.saved_bytes == 64 * 10


def test_the_vocabulary_projection_stays_wide():
    head = transformer.head(shard(training={"precision": "fp8"}))
    assert {w.op.dtype for piece in head for w in piece.forward if isinstance(w.op, Gemm)} == {"bf16"}


def test_adapters_leave_the_weight_gradient_out():
    piece = linear(shard(training={"task": "lora"}), "up", 10, (30,))
    assert gemms(piece.backward) == [(64, 10, 30, "nn")]


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize(("name", "width"), [("qkv", 2), ("proj", 2), ("up", 0), ("down", 0)])
def test_a_frozen_layer_keeps_its_input_only_for_an_adapter(name, width, precision):
    piece = linear(shard(training={"task": "lora", "precision": precision}), name, 10, (30,))
    assert piece.saved_bytes == 64 * 10 * width


def test_kernels_run_back_in_reverse():
    piece = pointwise(shard(), "activation", ("silu", "mul"), 3, 5)
    assert kernels(piece.forward) == ["silu", "mul"]
    assert kernels(piece.backward) == ["mul", "silu"]
    assert {item.op.direction for item in piece.backward} == {"bwd"}


def layer(model, **keywords) -> list[str]:
    return [piece.name for piece in transformer.layer(shard(model=model, **keywords))]


def test_a_layer_from_norm_to_residual():
    half = ["norm", "qkv", "attention", "proj", "residual"]
    assert layer(GPT) == [*half, "norm", "up", "activation", "down", "residual"]
    assert layer(LLAMA)[:6] == ["norm", "qkv", "rope", "attention", "proj", "residual"]


@pytest.mark.parametrize("model", [GPT, LLAMA], ids=["gpt", "llama"])
def test_the_projections_of_a_layer_do_the_flops_of_its_weights(model):
    pieces = transformer.layer(shard(model=model))
    dense = sum(flops(piece.forward) for piece in pieces if piece.kind == "gemm")
    assert dense == 2 * 64 * model.layer_matmul_parameters


@pytest.mark.parametrize(
    ("fused", "forward"),
    [
        ({}, [1, 1, 1, 1]),
        ({"fused_gate": False}, [1, 1, 2, 1]),
        ({"fused_projections": False}, [3, 1, 2, 1]),
    ],
    ids=str,
)
def test_fusing_projections_changes_no_flops(fused, forward):
    pieces = transformer.layer(shard(on=changed(PLAIN, **fused), model=LLAMA))
    assert [len(gemms(piece.forward)) for piece in pieces if piece.kind == "gemm"] == forward
    dense = sum(flops(piece.forward) for piece in pieces if piece.kind == "gemm")
    assert dense == 2 * 64 * LLAMA.layer_matmul_parameters


def test_the_gradient_of_a_bias_is_summed_once():
    """By the kernel behind the layer where that adds the bias, else by a kernel of the layer."""
    separate = changed(PLAIN, kernels={"gelu": ("gelu",), "residual_with_dropout": ("dropout", "add")})
    found = []
    for on in (PLAIN, separate):
        pieces = [piece for piece in transformer.layer(shard(on=on)) if piece.kind == "gemm"]
        found.append([piece.name for piece in pieces if "bias_add" in kernels(piece.backward)])
    assert found == [["qkv"], ["qkv", "proj", "up", "down"]]


def test_llama_has_no_dropout():
    residuals = [piece for piece in transformer.layer(shard(model=LLAMA)) if piece.name == "residual"]
    assert all("dropout" not in kernel for piece in residuals for kernel in kernels(piece.forward))


@pytest.mark.parametrize("fused", [("bias_dropout_add",), ("bias_add", "dropout", "add")], ids=str)
def test_the_gradients_of_both_branches_of_a_residual_are_summed_once(fused):
    on = changed(PLAIN, kernels={"residual_with_dropout": fused})
    residuals = [piece for piece in transformer.layer(shard(on=on)) if piece.name == "residual"]
    assert [kernels(piece.forward) for piece in residuals] == [[*fused]] * 2
    assert [kernels(piece.backward).count("add") for piece in residuals] == [1, 1]


@pytest.mark.parametrize(("qk_norm", "kernel"), [(False, "rope_complex"), (True, "rope_eager")])
def test_normalised_queries_may_be_rotated_by_other_kernels(qk_norm, kernel):
    on = changed(PLAIN, kernels={"rope": ("rope_complex",), "rope_normalised": ("rope_eager",)})
    pieces = transformer.layer(shard(model=replace(LLAMA, qk_norm=qk_norm), on=on))
    assert [kernels(piece.forward) for piece in pieces if piece.name == "rope"] == [[kernel]]


@pytest.mark.parametrize(("activation", "kernel"), [("relu", "relu"), ("squared_relu", "squared_relu")])
def test_the_activation_follows_the_model(activation, kernel):
    pieces = transformer.layer(shard(model=replace(GPT, activation=activation)))
    assert [kernels(piece.forward) for piece in pieces if piece.name == "activation"] == [[kernel]]


def test_unfused_attention_works_on_all_scores():
    """8 heads of one sequence of 64: scores [512, 64]."""
    core = next(piece for piece in transformer.layer(shard()) if piece.kind == "core")
    assert gemms(core.forward) == [(64, 64, 8, "tn"), (64, 8, 64, "nn")]
    assert len(gemms(core.backward)) == 4
    scores, context = {(512, 64)}, {(64, 64)}
    assert {(w.op.rows, w.op.cols) for w in core.forward if isinstance(w.op, Pointwise)} == scores | context


@pytest.mark.parametrize("attention", ["flash", "unfused"])
def test_copies_around_attention_go_one_way_each(attention):
    """8 heads of 8: the context has 64 columns, query, key and value together 192."""
    core = next(
        piece for piece in transformer.layer(shard(on=changed(PLAIN, attention=attention))) if piece.kind == "core"
    )
    copies = [
        [(w.op.rows, w.op.cols) for w in work if isinstance(w.op, Pointwise) and w.op.op == "copy"]
        for work in (core.forward, core.backward)
    ]
    assert copies == [[(64, 64)], [(64, 192)]]


@pytest.mark.parametrize(("tp", "micro_batch", "fused"), [(1, 1, True), (2, 1, True), (4, 1, False), (4, 2, True)])
def test_a_fused_softmax_takes_four_heads_at_a_time(tp, micro_batch, fused):
    """8 heads; on four ranks two are left to each, and four of two sequences."""
    found = transformer.layer(make_shard(tp=tp, training={"micro_batch": micro_batch}))
    kernels = [
        work.op.op for piece in found if piece.kind == "core" for work in piece.forward if hasattr(work.op, "op")
    ]
    assert ("scaled_causal_softmax" in kernels) == fused
    assert ("softmax" in kernels) != fused


def test_flash_attention_is_one_kernel_each_way():
    core = next(piece for piece in transformer.layer(make_shard(LLAMA, "torchtitan")) if piece.kind == "core")
    ops = [item.op for item in (*core.forward, *core.backward)]
    assert [(op.heads, op.kv_heads, op.causal, op.direction) for op in ops if isinstance(op, Attention)] == [
        (8, 4, True, "fwd"),
        (8, 4, True, "bwd"),
    ]


@pytest.mark.parametrize("kernel", ["flash", "unfused"])
def test_a_host_that_reads_lengths_waits_once_a_forward_pass(kernel):
    reading = attention.core(shard(on=changed(PLAIN, attention=kernel, host={"reads_lengths": True})))
    assert [item.counted for item in reading.forward] == [True] + [False] * (len(reading.forward) - 1)
    assert not any(item.counted for item in reading.backward)
    free = attention.core(shard(on=changed(PLAIN, attention=kernel)))
    assert not any(item.counted for item in free.forward)


def test_flash_attention_keeps_queries_keys_values_and_a_number_a_row():
    core = next(piece for piece in transformer.layer(make_shard(LLAMA, "torchtitan")) if piece.kind == "core")
    assert core.saved_bytes == 64 * (8 + 2 * 4) * 8 * 2 + 64 * 8 * 4
    assert core.core_bytes == 0


def test_an_encoder_sees_both_ways():
    bert = replace(GPT, family="bert", embedding_norm=True)
    core = next(piece for piece in transformer.layer(make_shard(bert, "torchtitan")) if piece.kind == "core")
    assert not any(item.op.causal for item in (*core.forward, *core.backward) if isinstance(item.op, Attention))
