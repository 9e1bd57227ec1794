"""FLOPs and bytes of single ops, worked by hand."""

from dataclasses import replace

import pytest

from workloads.ops import DTYPE_BYTES, Attention, Collective, Gemm, Pointwise, Transfer, traffic_table

GEMM = Gemm(m=2, n=3, k=5, dtype="bf16")
FLASH = Attention(batch=1, seq_q=4, seq_kv=4, heads=2, kv_heads=1, head_dim=8, dtype="bf16")


def test_a_gemm_counts_two_flops_for_each_product():
    assert GEMM.flops == 2 * 2 * 3 * 5
    assert replace(GEMM, batch=7).flops == 7 * 60


def test_a_gemm_moves_each_matrix_once():
    assert GEMM.bytes == 2 * (2 * 5 + 5 * 3 + 2 * 3)
    assert replace(GEMM, batch=7).bytes == 7 * 62


def test_accumulation_reads_the_fp32_output_too():
    assert replace(GEMM, out_dtype="fp32", accumulate=True).bytes == 2 * (10 + 15) + 2 * 4 * 6


def test_narrow_inputs_move_fewer_bytes():
    assert replace(GEMM, dtype="fp8").bytes == (10 + 15) + 2 * 6
    assert replace(GEMM, dtype="mxfp8").bytes == pytest.approx(25 * (1 + 1 / 32) + 12)
    assert replace(GEMM, dtype="nvfp4").bytes == pytest.approx(25 * (1 / 2 + 1 / 16) + 12)


def test_equal_ops_are_one_key():
    assert len({GEMM, Gemm(m=2, n=3, k=5, dtype="bf16"), replace(GEMM, m=3)}) == 2


def test_a_causal_mask_leaves_the_pairs_below_the_diagonal():
    assert FLASH.pairs == 1 + 2 + 3 + 4
    assert replace(FLASH, causal=False).pairs == 16


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (3, 3), (2, 5), (1, 7), (5, 2), (7, 1)])
def test_causal_pairs_counted_one_by_one(queries, keys):
    """The last query sees the last key; with more queries than keys, the first query sees the first key."""
    shift = max(keys - queries, 0)
    pairs = sum(key <= query + shift for query in range(queries) for key in range(keys))
    if queries > keys:  # queries behind the last key see no more than all of them: only the square is counted
        pairs = sum(key <= query for query in range(keys) for key in range(keys))
    assert replace(FLASH, seq_q=queries, seq_kv=keys).pairs == pairs


def test_attention_does_two_products_forward_and_five_backward():
    assert FLASH.flops == 2 * 2 * 2 * 8 * 10
    assert replace(FLASH, direction="bwd").flops == 2.5 * FLASH.flops


def test_attention_moves_queries_keys_values_and_output():
    """4 tokens, 2 heads of queries and of output, 1 of keys and of values, 8 wide, 2 bytes."""
    assert FLASH.bytes == 2 * 4 * 8 * (2 + 1 + 1 + 2)
    assert replace(FLASH, direction="bwd").bytes == 2 * FLASH.bytes


def test_a_kernel_moves_what_the_table_says():
    """Residual sum of bf16: two reads, one write. Dropout: read, write and a mask of one byte."""
    assert Pointwise(op="add", rows=3, cols=5, dtype="bf16").bytes == 15 * 3 * 2
    assert Pointwise(op="dropout", rows=3, cols=5, dtype="bf16").bytes == 15 * (2 * 2 + 1)


def test_adam_moves_28_bytes_a_parameter():
    """Reads parameter, gradient and two moments, writes all but the gradient, in fp32."""
    assert Pointwise(op="adamw_fused", rows=1, cols=10, dtype="fp32").bytes == 10 * (4 + 3) * 4


def test_messages_compute_nothing():
    assert Collective(op="all_reduce", bytes=8.0, ranks=2).flops == 0
    assert Transfer(bytes=8.0, stride=1).flops == 0


@pytest.mark.parametrize("key", [key for key in traffic_table() if key[1] != "saved"])
def test_every_kernel_of_the_table_moves_something(key):
    kernel, direction = key
    op = Pointwise(op=kernel, rows=4, cols=4, dtype="bf16", direction=direction)
    assert op.bytes > 0
    assert op.flops >= 0


def test_the_table_has_two_directions_and_what_is_saved():
    assert {direction for _, direction in traffic_table()} == {"fwd", "bwd", "saved"}


@pytest.mark.parametrize(
    ("unfused", "fused"),
    [
        (("softmax", "dropout"), "softmax_dropout"),
        (("dropout", "add"), "dropout_add"),
        (("bias_add", "gelu"), "bias_gelu"),
        (("silu", "mul"), "swiglu"),
    ],
)
def test_fusing_kernels_never_moves_more_in_the_forward_pass(unfused, fused):
    ops = [Pointwise(op=name, rows=64, cols=64, dtype="bf16").bytes for name in (*unfused, fused)]
    assert ops[-1] <= sum(ops[:-1])


def test_a_narrower_type_is_not_wider():
    assert DTYPE_BYTES["fp32"] > DTYPE_BYTES["bf16"] > DTYPE_BYTES["mxfp8"] > DTYPE_BYTES["fp8"] > DTYPE_BYTES["nvfp4"]
