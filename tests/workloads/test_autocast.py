"""What torch.autocast adds: casts of weights and inputs and of their gradients, and copies that are kept."""

from collections import Counter
from collections.abc import Iterable

from tests.conftest import LLAMA, make_shard
from workloads.graph import Work
from workloads.linear import linear
from workloads.ops import Pointwise
from workloads.stage import Blocks

OUTPUTS = (64, 16, 16)
LAYOUT = {"dp": 2, "zero": 3}


def shard(**keywords: object):
    return make_shard(LLAMA, "torchtitan", training={"precision": "bf16"}, **keywords)


def casts(work: Iterable[Work]) -> Counter[tuple[int, int, str]]:
    ops = [item.op for item in work if isinstance(item.op, Pointwise) and item.op.op == "cast"]
    return Counter((op.rows, op.cols, op.direction) for op in ops)


def test_each_layer_behind_a_norm_casts_its_input_and_all_weights_are_cast_once():
    here = shard()
    piece = linear(here, "qkv", 64, OUTPUTS, behind_norm=True)
    assert casts(piece.forward) == {(96, 64, "fwd"): 1, (here.tokens, 64, "fwd"): 3}
    assert casts(piece.backward) == {(96, 64, "bwd"): 1, (here.tokens, 64, "bwd"): 3}


def test_an_input_that_is_of_16_bits_already_is_not_cast():
    piece = linear(shard(), "proj", 64, (64,))
    assert sum(casts(piece.forward).values()) == 1


def test_copies_of_weights_and_inputs_are_kept():
    """Weights 96 x 64, two more inputs, 2 bytes each."""
    here = shard()
    wide, plain = (linear(each, "qkv", 64, OUTPUTS, behind_norm=True) for each in (here, shard(**LAYOUT)))
    assert wide.saved_bytes - plain.saved_bytes == 2 * (96 * 64 + 2 * here.tokens * 64)


def test_fsdp_gathers_in_16_bits_and_needs_no_autocast():
    pieces = Blocks(shard=shard(**LAYOUT)).layer
    assert not casts(work for piece in pieces for work in (*piece.forward, *piece.backward))


def test_residuals_are_fp32_under_autocast_alone():
    assert (shard().residual_dtype, shard(**LAYOUT).residual_dtype) == ("fp32", "bf16")
    assert make_shard(LLAMA, "torchtitan", training={"precision": "bf16-pure"}).residual_dtype == "bf16"
    assert make_shard(LLAMA, "megatron-core", training={"precision": "bf16"}).residual_dtype == "bf16"
