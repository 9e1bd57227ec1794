"""Backward passes in two parts, routes of other shapes, and updates that wait for nobody."""

from collections import Counter
from dataclasses import replace

import pytest

from sim.catalog import stack
from sim.memory import peak_memory
from sim.step import simulate
from tests.conftest import GPT, LLAMA, Priced, changed, make_job, make_shard
from workloads.build import build
from workloads.errors import WorkloadError
from workloads.graph import Message, Program, Work, leaf_runs
from workloads.layout import check
from workloads.ops import Collective, Gemm, Op, Transfer
from workloads.stage import Blocks, chunk_parameters, stage_chunks

DENSE = make_shard(GPT)
TENSOR = make_shard(LLAMA, "megatron-core", tp=2, sequence_parallel=True)
EIGHT_BITS = make_shard(LLAMA, "megatron-core", training={"precision": "fp8"})
EXPERTS = make_shard(replace(LLAMA, name="small-routed", ffn=64, experts=8, topk=2), "megatron-core", dp=2, ep=2)
every_shard = pytest.mark.parametrize(
    "shard", [DENSE, TENSOR, EIGHT_BITS, EXPERTS], ids=["dense", "tensor", "fp8", "experts"]
)
V = {"pp": 2, "vp": 2, "schedule": "zero_bubble_v"}


def work(shard, part: str) -> list[Work]:
    """Of a layer's backward pass, or of a part of it, and of the head's."""
    blocks = Blocks(shard=shard)
    return [*blocks.layer_parts[part].work, *blocks.ends[f"head {part}"].work]


def attended(forward: list[Work]) -> int:
    """Products of attention without a fused kernel that are laid out as those of linear layers are."""
    return sum(
        isinstance(item.op, Gemm) and item.op.layout == "tn" and item.op.batch > 1 and not item.op.grouped
        for item in forward
    )


def messages(program: Program, name: str) -> list[Op]:
    return [
        op for message in program.ops if isinstance(message, Message) and message.name == name for op in message.ops
    ]


@every_shard
def test_the_parts_of_a_backward_pass_are_all_of_it(shard):
    whole, inputs, weights = (Counter(item.op for item in work(shard, part)) for part in "BIW")
    assert inputs + weights == whole


@every_shard
def test_gradients_of_weights_are_those_of_every_linear_layer(shard):
    found = {part: [i.op for i in work(shard, part) if isinstance(i.op, Gemm) and i.op.layout == "nt"] for part in "IW"}
    forward = [item for piece in (*Blocks(shard=shard).layer, *Blocks(shard=shard).head) for item in piece.forward]
    assert len(found["W"]) == sum(isinstance(item.op, Gemm) and item.op.layout == "tn" for item in forward) - attended(
        forward
    )
    assert all(op.batch > 1 for op in found["I"])  # attention without a fused kernel has products of this layout, too


@every_shard
@pytest.mark.parametrize("part", "IW")
def test_a_part_waits_for_nothing_of_the_other(shard, part):
    for piece in Blocks(shard=shard).layer_parts[part].pieces:
        assert {item.waits for item in piece} - {""} <= {item.name for item in piece}


def test_sequence_parallelism_gathers_inputs_again_for_the_gradients_of_weights():
    kinds = {part: Counter(i.op.op for i in work(TENSOR, part) if isinstance(i.op, Collective)) for part in "IW"}
    assert kinds["W"]["all_gather"] >= 2
    assert kinds["W"]["reduce_scatter"] == 0


@pytest.mark.parametrize("schedule", ["zero_bubble", "zero_bubble_2p", "dualpipe"])
def test_a_step_does_the_same_work_in_parts(schedule):
    batch = {"global_batch": 8}
    whole = make_shard(LLAMA, "megatron-core", pp=2, training=batch)
    parts = make_shard(LLAMA, "megatron-core", pp=2, schedule=schedule, training=batch)
    gemms = [{op: n for op, n in leaf_runs(build(s)).items() if isinstance(op, Gemm)} for s in (whole, parts)]
    assert gemms[0] == gemms[1]


def test_the_gradients_of_a_tied_table_are_summed_between_stages_that_both_have_it():
    tied = replace(GPT, tied_embeddings=True, layers=4)
    around, folded = (make_shard(tied, "megatron-lm-2022", **layout) for layout in ({"pp": 2, "vp": 2}, V))
    assert messages(build(around), "embedding all_reduce")
    assert not messages(build(folded), "embedding all_reduce")
    held = [sum(chunk_parameters(s, chunk).total for chunk in stage_chunks(s, 0)) for s in (around, folded)]
    table = folded.vocab * tied.hidden
    assert held[1] == pytest.approx(held[0] + tied.final_norm_parameters)  # the head's, but no second table
    assert held[1] > table


def test_dualpipe_holds_the_model_twice_and_sums_gradients_over_both():
    batch = {"global_batch": 16}
    one = make_shard(LLAMA, "megatron-core", pp=2, dp=2, training=batch)
    both = make_shard(LLAMA, "megatron-core", pp=2, dp=2, schedule="dualpipe", training=batch)
    weights = [peak_memory(shard, 1e12).weights for shard in (one, both)]
    assert weights[1] / weights[0] == pytest.approx(2.0, rel=1e-3)
    ranks = [
        {op.ranks for op in leaf_runs(build(s)) if isinstance(op, Collective) and op.bytes > 4} for s in (one, both)
    ]
    assert ranks == [{2}, {4}]


def test_what_weights_need_waits_in_memory():
    batch = {"global_batch": 16}
    kept = {
        name: peak_memory(make_shard(LLAMA, "megatron-core", pp=4, schedule=name, training=batch), 1e12).activations
        for name in ("one_f_one_b", "zero_bubble", "zero_bubble_2p")
    }
    assert kept["one_f_one_b"] <= kept["zero_bubble"] < 1.3 * kept["one_f_one_b"]
    assert 1.5 * kept["one_f_one_b"] < kept["zero_bubble_2p"]


def test_messages_around_the_pipeline_are_between_its_ends():
    sent = messages(build(make_shard(replace(LLAMA, layers=8), "megatron-core", pp=4, vp=2, tp=2)), "send_recv")
    ends = {(op.source, op.source + op.stride) for op in sent if isinstance(op, Transfer)}
    assert ends == {(0, 2), (2, 4), (4, 6), (0, 6)}


def test_parameters_gathered_for_each_pass_are_not_covered_in_two_parts():
    shard = make_shard(LLAMA, "torchtitan", pp=2, dp=2, zero=3)
    layout = replace(shard.layout, schedule="zero_bubble")
    with pytest.raises(WorkloadError, match="zero = 3 is not covered"):
        check(shard.model, layout, shard.training)


def test_an_update_that_waits_for_nobody_takes_what_the_slowest_stage_takes():
    on = changed(stack("zero-bubble"), host={"launch_s": {"eager": 0.0}, "step_s": 0.0})
    job = make_job(LLAMA, on=on, pp=4, schedule="zero_bubble_2p", training={"global_batch": 32})
    waiting = replace(job, stack=replace(job.stack, optimizer=replace(job.stack.optimizer, validates=False)))
    products_alone = Priced(lambda op: 1e-9 + (op.flops / 1e12 if isinstance(op, Gemm) else 0.0))
    free, held = simulate(job, products_alone), simulate(waiting, products_alone)
    assert not messages(free.program, "norm all_reduce")
    assert messages(held.program, "norm all_reduce")
    assert free.step_s < 0.98 * held.step_s
    assert max(free.busy_s) <= free.step_s
    assert sum(free.breakdown.values()) == pytest.approx(free.step_s)
