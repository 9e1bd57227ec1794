"""Tensor parallelism: messages of a layer, counted by hand, with and without sequence parallelism."""

from collections import Counter
from dataclasses import replace

import pytest

from sim.catalog import stack
from tests.conftest import GPT, LLAMA, changed, make_shard
from workloads.graph import COMPUTE, Block
from workloads.ops import Collective, Gemm, Pointwise
from workloads.shard import Shard
from workloads.stage import Blocks

# 16-bit activations [s b, h] of the small models: s 64, b 2, h 64.
ACTIVATION = 64 * 2 * 64 * 2
PLAIN = changed(stack("megatron-lm-2022"), overlap={"tensor": False, "tensor_backward": False})


def shard(tp: int, *, sequence_parallel: bool = False, on=PLAIN, model=GPT) -> Shard:
    return make_shard(model, on=on, tp=tp, sequence_parallel=sequence_parallel, training={"micro_batch": 2})


def messages(block: Block) -> list[Collective]:
    return [work.op for work in block.work if isinstance(work.op, Collective)]


def kinds(block: Block) -> Counter[str]:
    return Counter(op.op for op in messages(block))


def test_one_rank_sends_nothing():
    blocks = Blocks(shard=shard(1))
    assert not any(messages(block) for block in (blocks.layer_forward, blocks.layer_backward, *blocks.ends.values()))


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_two_all_reduces_forward_and_two_backward(tp):
    """Megatron-LM, section 3: one behind attention, one behind the MLP, and their conjugates."""
    blocks = Blocks(shard=shard(tp))
    for block in (blocks.layer_forward, blocks.layer_backward):
        assert kinds(block) == {"all_reduce": 2}
        assert all((op.bytes, op.ranks, op.stride) == (ACTIVATION, tp, 1) for op in messages(block))


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_sequence_parallelism_gathers_and_scatters(tp):
    """Four messages forward, four backward and two more to gather the inputs of the weight gradients."""
    blocks = Blocks(shard=shard(tp, sequence_parallel=True))
    assert kinds(blocks.layer_forward) == {"all_gather": 2, "reduce_scatter": 2}
    assert kinds(blocks.layer_backward) == {"all_gather": 4, "reduce_scatter": 2}
    for block in (blocks.layer_forward, blocks.layer_backward):
        assert {op.bytes for op in messages(block)} == {ACTIVATION}


def test_both_send_the_same_bytes_forward():
    """A ring all-reduce is a reduce-scatter and an all-gather: 2 (t - 1) / t of the size."""
    factor = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}
    sent = [
        sum(factor[op.op] * op.bytes for op in messages(Blocks(shard=shard(4, sequence_parallel=sp)).layer_forward))
        for sp in (False, True)
    ]
    assert sent[0] == sent[1] == 4 * ACTIVATION


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_overlap_moves_no_other_bytes(sequence_parallel):
    overlapping = changed(PLAIN, overlap={"tensor": True, "tensor_backward": True})
    for name in ("layer_forward", "layer_backward"):
        sums = []
        for on in (PLAIN, overlapping):
            made = getattr(Blocks(shard=shard(4, sequence_parallel=sequence_parallel, on=on)), name)
            sums.append(sum((Counter({op.op: op.bytes}) for op in messages(made)), Counter()))
        assert sums[0] == sums[1]


def test_overlapped_messages_are_asynchronous():
    overlapping = changed(PLAIN, overlap={"tensor": True, "tensor_backward": True})
    made = Blocks(shard=shard(4, sequence_parallel=True, on=overlapping))
    exposed = [w.op.bytes for w in made.layer_forward.work if w.stream != COMPUTE and not w.asynchronous]
    assert exposed == [ACTIVATION / 4] * 4  # the first or last chunk of each message


def test_a_precision_whose_gemms_are_not_taken_apart_has_whole_messages():
    excepted = changed(PLAIN, overlap={"tensor": True, "tensor_backward": True, "tensor_not_for": ("bf16",)})
    made = Blocks(shard=shard(4, sequence_parallel=True, on=excepted))
    assert [op.bytes for op in messages(made.layer_forward)] == [ACTIVATION] * 4
    assert not any(work.asynchronous for work in made.layer_forward.work)


def test_every_rank_does_its_part_of_a_gemm():
    """QKV, scores, values, output, MLP in and out: column-parallel ones split n, row-parallel ones k."""
    gemms = [w.op for w in Blocks(shard=shard(4)).layer_forward.work if isinstance(w.op, Gemm)]
    assert [(op.m, op.n, op.k, op.batch) for op in gemms] == [
        (128, 48, 64, 1),
        (64, 64, 8, 4),
        (64, 8, 64, 4),
        (128, 64, 16, 1),
        (128, 64, 64, 1),
        (128, 64, 64, 1),
    ]


def test_keys_are_replicated_where_heads_are_fewer_than_ranks():
    """4 heads of keys on 8 ranks: each rank has one, 8 wide, beside its query head."""
    gemms = [w.op for w in Blocks(shard=shard(8, model=LLAMA)).layer_forward.work if isinstance(w.op, Gemm)]
    assert gemms[0].n == 8 + 2 * 8


@pytest.mark.parametrize(("sequence_parallel", "rows"), [(False, 128), (True, 32)])
def test_sequence_parallelism_splits_norms_and_residuals(sequence_parallel, rows):
    work = Blocks(shard=shard(4, sequence_parallel=sequence_parallel)).layer_forward.work
    norms = [w.op for w in work if isinstance(w.op, Pointwise) and w.op.op in ("layer_norm", "bias_dropout_add")]
    assert [op.rows for op in norms] == [rows] * 4


def test_the_embedding_is_summed_over_the_vocabulary():
    assert kinds(Blocks(shard=shard(4)).ends["embedding F"]) == {"all_reduce": 1}
    ends = Blocks(shard=shard(4, sequence_parallel=True)).ends
    assert kinds(ends["embedding F"]) == {"reduce_scatter": 1}
    assert kinds(ends["embedding B"]) == {"all_gather": 1}


def test_a_parallel_loss_sends_three_numbers_a_token():
    """The maximum, the sum and the target's logit, in fp32."""
    on = changed(PLAIN, parallel_loss=True)
    found = [op for op in messages(Blocks(shard=shard(4, on=on)).ends["head F"]) if op.dtype == "fp32"]
    assert [(op.op, op.bytes) for op in found] == [("all_reduce", 4.0 * 128)] * 3


def test_a_loss_that_is_not_parallel_gathers_the_logits():
    on = changed(PLAIN, parallel_loss=False)
    found = [op for op in messages(Blocks(shard=shard(4, on=on)).ends["head F"]) if op.op == "all_gather"]
    assert [op.bytes for op in found] == [128 * 512 * 2]


def test_gathered_logits_are_put_in_order():
    """128 tokens of 512 words, whole on every rank."""
    on = changed(PLAIN, parallel_loss=False, kernels={"gathered_logits": ("copy",)})
    copies = [w.op for w in Blocks(shard=shard(4, on=on)).ends["head F"].work if getattr(w.op, "op", "") == "copy"]
    assert [(op.rows, op.cols) for op in copies] == [(128, 512)]


@pytest.mark.parametrize(("sequence_parallel", "messages"), [(False, 3), (True, 2)])
def test_layers_that_reduce_for_themselves_send_a_gate_of_its_own_twice(sequence_parallel, messages):
    """Query, key and value are one layer, gate and up two. With sequence parallelism their norm reduces, once."""
    on = changed(PLAIN, reduces_each=True, fused_gate=False, keeps_gathered=True)
    found = kinds(Blocks(shard=shard(4, sequence_parallel=sequence_parallel, on=on, model=LLAMA)).layer_backward)
    assert found["reduce_scatter" if sequence_parallel else "all_reduce"] == messages


def test_the_vocabulary_is_padded_to_a_multiple_on_every_rank():
    """50257 words: 128 x 8 = 1024 gives 51200 on 8 ranks, 6400 each; 128 on one rank gives 50304."""
    model = replace(GPT, vocab=50257)
    assert shard(8, model=model).vocab * 8 == 51200
    assert shard(1, model=model).vocab == 50304
