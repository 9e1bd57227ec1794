"""Casts to 8 bits: one scale for a tensor, or one for each row in both directions of a GEMM."""

import pytest

from sim.memory import peak_memory
from tests.conftest import LLAMA, make_shard
from workloads.build import build
from workloads.graph import leaf_runs
from workloads.ops import DTYPE_BYTES, Collective, Gemm, Pointwise
from workloads.quantisation import quantised


def names(precision: str, stack: str = "torchtitan") -> list[list[tuple[str, int, int]]]:
    shard = make_shard(LLAMA, stack, training={"precision": precision})
    found = quantised(shard, "up", 64, (96, 32))
    return [[(w.op.op, w.op.rows, w.op.cols) for w in part if isinstance(w.op, Pointwise)] for part in found]


def test_scales_of_rows_take_six_casts_three_of_them_transposed():
    rows = make_shard(LLAMA, "torchtitan").tokens
    assert names("fp8-rowwise") == [
        [("quantize_fp8_rows", rows, 64), ("quantize_fp8_rows", 128, 64)],
        [("quantize_fp8_rows", rows, 128), ("quantize_fp8_columns", 128, 64)],
        [("quantize_fp8_columns", rows, 128), ("quantize_fp8_columns", rows, 64)],
    ]


def test_one_scale_for_a_tensor_needs_one_cast_for_both_gemms_that_read_it():
    assert names("fp8", "nemo") == [[("quantize_delayed_both", 64, 64)], [("quantize_delayed_both", 64, 128)], []]


def test_a_scale_for_each_block_needs_no_pass_for_the_largest_element():
    assert names("mxfp8", "megatron-core") == [
        [("quantize_blocks_both", 64, 64)],
        [("quantize_blocks_both", 64, 128)],
        [],
    ]


@pytest.mark.parametrize(
    ("stack", "said", "expected"),
    [
        # A column-parallel layer gathers its input: each of two ranks casts half of the tokens, and transposes all.
        (
            "megatron-core",
            {},
            [[("quantize_current", 32, 64), ("transpose_fp8", 64, 64)], [("quantize_current_both", 64, 128)]],
        ),
        # A row-parallel one gathers the gradient of its output.
        (
            "megatron-core",
            {"row_parallel": True},
            [[("quantize_current_both", 64, 64)], [("quantize_current", 32, 128), ("transpose_fp8", 64, 128)]],
        ),
        # The norm in front has written 8 bits, or knows the largest element.
        ("nemo", {"behind_norm": True}, [[("transpose_fp8", 64, 64)], [("quantize_delayed_both", 64, 128)]]),
        (
            "megatron-core",
            {"behind_norm": True},
            [[("quantize_delayed", 32, 64), ("transpose_fp8", 64, 64)], [("quantize_current_both", 64, 128)]],
        ),
    ],
)
def test_ranks_cast_their_part_of_what_sequence_parallelism_gathers(stack, said, expected):
    shard = make_shard(LLAMA, stack, tp=2, sequence_parallel=True, training={"precision": "fp8"})
    found = quantised(shard, "up", 64, (128,), **said)
    assert [[(w.op.op, w.op.rows, w.op.cols) for w in part] for part in (found.forward, found.data)] == expected


@pytest.mark.parametrize(
    ("stack", "precision", "dtypes"),
    [
        ("megatron-core", "bf16", {"bf16"}),
        ("megatron-core", "fp8", {"fp8", "bf16"}),  # bf16: the vocabulary's
        ("megatron-core", "mxfp8", {"mxfp8", "bf16"}),
        ("torchtitan", "fp8-rowwise", {"bf16"}),
    ],
)
def test_sequence_parallelism_gathers_what_was_cast(stack, precision, dtypes):
    shard = make_shard(LLAMA, stack, tp=2, sequence_parallel=True, training={"precision": precision})
    gathers = [
        op for op in leaf_runs(build(shard)) if isinstance(op, Collective) and op.op == "all_gather" and op.ranks == 2
    ]
    assert {op.dtype for op in gathers} == dtypes
    assert {max(op.bytes for op in gathers if op.dtype == dtype) / DTYPE_BYTES[dtype] for dtype in dtypes} == {64 * 64}


def test_weights_that_are_frozen_need_no_transposed_copies():
    shard = make_shard(LLAMA, "nemo", tp=2, sequence_parallel=True, training={"precision": "fp8", "task": "lora"})
    found = [op.op for op in leaf_runs(build(shard)) if isinstance(op, Pointwise) and "quantize" in op.op]
    assert set(found) == {"quantize_delayed"}
    assert not any(getattr(op, "op", "") == "transpose_fp8" for op in leaf_runs(build(shard)))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "fp32"), ("fp8", "bf16"), ("mxfp8", "bf16")])
def test_megatron_core_adds_gradients_up_and_reduces_them_in_16_bits_with_narrow_gemms(precision, dtype):
    shard = make_shard(LLAMA, "megatron-core", dp=2, training={"precision": precision})
    weight_gradients = {op.out_dtype for op in leaf_runs(build(shard)) if isinstance(op, Gemm) and op.accumulate}
    assert weight_gradients == {shard.reduced_dtype} == {dtype}
    wide = make_shard(LLAMA, "megatron-core", dp=2, training={"precision": "bf16"})
    held, most = (peak_memory(each, 1e12).gradients for each in (shard, wide))
    assert held == most * DTYPE_BYTES[dtype] / 4


@pytest.mark.parametrize(("precision", "said"), [("bf16", "compute"), ("fp8", "fp32"), ("fp8", "compute")])
@pytest.mark.parametrize("stack", ["megatron-core", "torchtitan", "megatron-deepspeed-2022"])
def test_gradients_are_of_the_type_that_training_says_whatever_the_stack_does(stack, precision, said):
    shard = make_shard(LLAMA, stack, dp=2, training={"precision": precision, "gradients": said})
    assert shard.reduced_dtype == ("fp32" if said == "fp32" else "bf16")


def test_gradients_in_16_bits_take_half_the_memory_and_messages():
    wide, narrow = (
        make_shard(LLAMA, "megatron-core", dp=2, zero=1, training={"precision": "bf16", "gradients": said})
        for said in ("auto", "compute")
    )
    assert peak_memory(narrow, 1e12).gradients == peak_memory(wide, 1e12).gradients / 2
    reduced = [
        sum(op.bytes for op in leaf_runs(build(each)) if isinstance(op, Collective) and op.op == "reduce_scatter")
        for each in (wide, narrow)
    ]
    assert reduced[1] == reduced[0] / 2 > 0


def test_autograd_keeps_gradients_of_fp32_weights_in_fp32_however_they_were_reduced():
    made = [make_shard(LLAMA, "torchtitan", dp=2, zero=3, training={"gradients": said}) for said in ("auto", "compute")]
    assert [each.reduced_dtype for each in made] == ["fp32", "bf16"]
    assert {each.gradient_dtype for each in made} == {"fp32"}
    assert len({peak_memory(each, 1e12).gradients for each in made}) == 1


@pytest.mark.parametrize(
    ("stack", "training", "wide"),
    [
        ("megatron-core", {}, True),
        ("megatron-core", {"gradients": "compute"}, False),
        ("megatron-core", {"precision": "mxfp8"}, False),
        ("megatron-core", {"precision": "fp32"}, False),
        ("megatron-core", {"task": "lora"}, False),
        ("torchtitan", {}, False),
        ("internevo", {}, False),
    ],
)
def test_gradients_are_wide_where_the_type_of_activations_would_make_those_that_are_kept_smaller(stack, training, wide):
    shard = make_shard(LLAMA, stack, training=training)
    assert shard.has_wide_gradients == wide
    narrow = make_shard(LLAMA, stack, training=training | {"gradients": "compute"})
    assert (peak_memory(narrow, 1e12).gradients < peak_memory(shard, 1e12).gradients) == wide


def test_pure_8_bit_training_keeps_no_fp32():
    precision = make_shard(LLAMA, "torchtitan", training={"precision": "fp8-pure"}).precision
    assert (precision.weight, precision.moments, precision.pure) == ("bf16", "bf16", True)
