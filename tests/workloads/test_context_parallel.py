"""Context parallelism: what the ranks send each other, and that together they compute what one would."""

import pytest

from tests.conftest import GPT, LLAMA, make_shard
from workloads.attention import flash
from workloads.graph import Work
from workloads.ops import Attention, Collective, Transfer
from workloads.shard import Shard

SEQ = 64
# Keys and values of the whole sequence, 16 bits: llama has 4 heads of them, 8 wide.
KEYS_AND_VALUES = SEQ * 2 * 4 * 8 * 2


def shard(cp: int, mode: str = "ring", model=LLAMA, **layout) -> Shard:
    return make_shard(model, "torchtitan", cp=cp, context_mode=mode, **layout)


def core(cp: int, direction: str, mode: str = "ring", **layout) -> tuple[Work, ...]:
    piece = flash(shard(cp, mode, **layout))
    return piece.forward if direction == "fwd" else piece.backward


def computed(work: tuple[Work, ...]) -> float:
    return sum(item.op.flops for item in work if isinstance(item.op, Attention))


def test_one_rank_sends_nothing():
    assert [type(work.op) for work in core(1, "fwd")] == [Attention]


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_a_ring_passes_on_the_keys_and_values_of_all_others(cp):
    sent = [work.op.bytes for work in core(cp, "fwd") if isinstance(work.op, Transfer)]
    assert len(sent) == cp - 1
    assert sum(sent) == KEYS_AND_VALUES * (cp - 1) / cp


@pytest.mark.parametrize("cp", [2, 4])
def test_backward_the_gradients_travel_too(cp):
    sent = [[w.op.bytes for w in core(cp, d) if isinstance(w.op, Transfer)] for d in ("fwd", "bwd")]
    assert sum(sent[1]) == 2 * sum(sent[0])


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_all_gathering_collects_keys_and_values_once(cp):
    forward = [w.op for w in core(cp, "fwd", "all_gather") if isinstance(w.op, Collective)]
    backward = [w.op for w in core(cp, "bwd", "all_gather") if isinstance(w.op, Collective)]
    assert [(op.op, op.bytes, op.ranks) for op in forward] == [("all_gather", KEYS_AND_VALUES, cp)]
    assert [op.op for op in backward] == ["all_gather", "reduce_scatter"]
    assert {op.bytes for op in backward} == {KEYS_AND_VALUES}


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize("cp", [2, 4, 8])
def test_the_ranks_of_a_ring_compute_what_one_would(cp, direction):
    assert cp * computed(core(cp, direction)) == pytest.approx(computed(core(1, direction)), rel=1e-12)


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_gathering_ranks_compute_what_one_would(cp):
    """Up to the diagonal: half of the square, instead of s (s + 1) / 2 pairs."""
    together = cp * computed(core(cp, "fwd", "all_gather"))
    assert together == pytest.approx(computed(core(1, "fwd")), rel=1.01 / SEQ)


@pytest.mark.parametrize("mode", ["ring", "all_gather"])
def test_neighbours_stand_as_far_apart_as_tensor_parallel_ranks_are_many(mode):
    strides = {work.op.stride for work in core(2, "fwd", mode, tp=4) if isinstance(work.op, Transfer | Collective)}
    assert strides == {4}


def test_messages_run_beside_the_block_before_them():
    """Own block beside the first message; each further block waits for its own message alone."""
    work = core(4, "fwd")
    assert [w.name for w in work if w.asynchronous] == ["kv0", "kv1", "kv2"]
    assert [w.waits for w in work if isinstance(w.op, Attention)] == ["", "kv0", "kv1", "kv2"]


def test_the_sequence_is_split():
    assert shard(4).sequence == shard(4).tokens == SEQ // 4


def test_gpt_in_a_ring_is_causal_once():
    """Only a rank's own block has a diagonal."""
    masks = [w.op.causal for w in core(4, "fwd", model=GPT) if isinstance(w.op, Attention)]
    assert masks == [True, False, False, False]
