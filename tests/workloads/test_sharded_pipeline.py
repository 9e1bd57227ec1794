"""FSDP between pipeline stages, messages that both ends come to, and gradients that autograd adds up."""

from collections import Counter
from dataclasses import replace

import pytest

from sim.catalog import stack
from sim.memory import peak_memory
from sim.step import simulate
from tests.conftest import LLAMA, SIMPLE, changed, make_job, make_shard
from workloads.accumulation import accumulation
from workloads.build import build
from workloads.graph import COMPUTE, Message, Program, Segment, leaf_runs
from workloads.layout import micro_batches
from workloads.ops import Collective, Pointwise, Transfer
from workloads.parallelism.data import gathered_bytes
from workloads.stage import layer_parameters

TITAN = stack("torchtitan")
EACH_PASS = changed(TITAN, data={"kept_in_pipeline": False})
MICRO_BATCHES = 16
LAYERS = LLAMA.layers


def messages(program: Program) -> Counter[str]:
    """How often each collective over the replicas is run."""
    found: Counter[str] = Counter()
    for task in program.tasks:
        message = program.ops[task.op]
        if isinstance(message, Message) and message.dimension == "dp":
            found.update(op.op for op in message.ops if isinstance(op, Collective))
    return found


def test_between_stages_parameters_are_gathered_and_gradients_reduced_once_a_step():
    program = build(make_shard(LLAMA, on=TITAN, pp=2, dp=2, zero=3, training={"global_batch": 2 * MICRO_BATCHES}))
    assert messages(program) == {"all_gather": LAYERS, "reduce_scatter": LAYERS}


def test_a_stack_that_shards_again_gathers_in_every_pass():
    shard = make_shard(LLAMA, on=EACH_PASS, pp=2, dp=2, zero=3, training={"global_batch": 2 * MICRO_BATCHES})
    found = messages(build(shard))
    assert found["reduce_scatter"] == LAYERS * MICRO_BATCHES
    assert found["all_gather"] > LAYERS * MICRO_BATCHES


def test_one_stage_gathers_in_every_pass_with_either():
    kept, sharded = (build(make_shard(LLAMA, on=on, dp=2, zero=3)) for on in (TITAN, EACH_PASS))
    assert messages(kept) == messages(sharded)


def test_what_is_gathered_once_is_there_whole():
    """Parameters in 16 bits, and the sum of their gradients in fp32."""
    one, other = (
        peak_memory(make_shard(LLAMA, on=on, pp=2, dp=8, zero=3, training={"global_batch": 64}), 80e9)
        for on in (TITAN, EACH_PASS)
    )
    assert one.gradients == pytest.approx(8 * other.gradients)
    assert one.communication == pytest.approx(one.gradients / 2)
    assert one.communication > other.communication


def accumulated(on_first: bool, global_batch: int, **layout: int) -> float:
    """Elements that are added to gradients in a step of one rank."""
    on = changed(TITAN, accumulates_first=on_first)
    program = build(make_shard(LLAMA, on=on, training={"global_batch": global_batch, "micro_batch": 1}, **layout))
    return sum(
        count * work.op.elements
        for task in program.tasks
        if task.stream == COMPUTE and isinstance(segment := program.ops[task.op], Segment)
        for block, count in segment.blocks
        if block.name == "accumulate"
        for work in block.work
        if isinstance(work.op, Pointwise)
    )


def test_autograd_takes_the_gradients_of_the_first_micro_batch_as_they_are():
    assert accumulated(on_first=False, global_batch=1) == 0
    assert accumulated(on_first=False, global_batch=4) == 3 * accumulated(on_first=True, global_batch=1)
    assert accumulated(on_first=True, global_batch=4) == 4 * accumulated(on_first=True, global_batch=1)


def test_bf16_gradients_are_cast_before_deepspeed_adds_them_in_fp32():
    def kernels(precision: str) -> tuple[list[tuple[str, str]], str]:
        shard = make_shard(LLAMA, "megatron-deepspeed-2022", training={"precision": precision})
        added = accumulation(shard, layer_parameters(shard)).further
        assert added is not None
        return [
            (work.op.op, work.op.dtype) for work in added.work if isinstance(work.op, Pointwise)
        ], shard.reduced_dtype

    assert kernels("fp16") == ([("add", "fp16")], "fp16")
    assert kernels("bf16") == ([("cast_master", "fp32"), ("add", "fp32")], "fp32")


def test_reduced_gradients_are_added_up_in_shards():
    whole, shards = (accumulated(True, 4 * dp, dp=dp, zero=zero) for dp, zero in ((1, 0), (4, 3)))
    assert shards == pytest.approx(whole / 4, rel=1e-6)


def test_at_a_rendezvous_a_message_waits_for_its_receiver():
    """Behind what the receiver has computed in the rounds before, and behind the messages of both ends."""
    program = build(make_shard(LLAMA, on=TITAN, pp=2, vp=2))
    sent = [
        task
        for task in program.tasks
        if isinstance(message := program.ops[task.op], Message) and isinstance(message.ops[0], Transfer)
    ]
    assert {task.stream for task in sent} == {"pp"}
    waited = [{(program.tasks[i].rank, program.tasks[i].stream) for i in task.after} for task in sent]
    assert waited[0] == {(0, COMPUTE)}  # the receiver has computed nothing yet
    assert all({(0, COMPUTE), (1, COMPUTE)} <= ranks for ranks in waited[2:])
    assert any((1 - task.rank, "pp") in ranks for task, ranks in zip(sent, waited, strict=True))


def test_a_rendezvous_takes_from_interleaving_what_messages_beside_computation_gain():
    """Four stages in two chunks (seen on four H200s: interleaved 1.11 s, plain 1F1B 1.07 s)."""
    step_s = {
        how: simulate(make_job(LLAMA, on=changed(TITAN, overlap={"pipeline": how}), pp=4, vp=2), SIMPLE).step_s
        for how in ("beside", "rendezvous")
    }
    assert step_s["rendezvous"] > 1.01 * step_s["beside"]


def test_messages_that_block_hold_up_both_ends():
    """Two stages: a message there and one back for each micro-batch, each in the queues of sender and receiver."""
    counts = {}
    for how in ("none", "blocking"):
        shard = make_shard(LLAMA, on=changed(TITAN, overlap={"pipeline": how}), pp=2)
        program = build(shard)
        sent = [task for task in program.tasks if isinstance(program.ops[task.op], Message) and task.micro_batch >= 0]
        assert {task.stream for task in sent} == {COMPUTE}
        counts[how] = [sum(task.rank == rank for task in sent) for rank in (0, 1)]
    assert counts["blocking"] == [2 * count for count in counts["none"]]


def test_blocked_receivers_take_longer_by_their_messages():
    """The last stage, the slowest as it has the head, sends a message for each micro-batch and now receives one."""
    job = make_job(LLAMA, on=changed(TITAN, overlap={"pipeline": "none"}), pp=4, training={"global_batch": 32})
    blocked = replace(job, stack=changed(TITAN, overlap={"pipeline": "blocking"}))
    before, behind = (simulate(found, SIMPLE) for found in (job, blocked))
    one_s = max(before.prices[op].seconds for op in before.prices if isinstance(op, Transfer))
    count = micro_batches(job.layout, job.training)
    assert behind.step_s - before.step_s == pytest.approx(count * one_s, rel=0.1)


def test_weights_with_one_scale_are_gathered_in_8_bits():
    shard = make_shard(LLAMA, on=TITAN, dp=2, zero=3)
    sizes = {
        precision: gathered_bytes(
            replace(shard, training=replace(shard.training, precision=precision)), parameters=10.0, matrices=8.0
        )
        for precision in ("bf16", "fp8", "fp8-rowwise", "mxfp8")
    }
    assert sizes == {"bf16": 20.0, "fp8": 12.0, "fp8-rowwise": 20.0, "mxfp8": 20.0}


def test_what_is_gathered_in_8_bits_is_cast_in_shards():
    def cast(dp: int) -> float:
        shard = make_shard(LLAMA, on=TITAN, dp=dp, zero=3, training={"precision": "fp8", "global_batch": 16})
        works = [
            work for op in build(shard).ops if isinstance(op, Segment) for block, _ in op.blocks for work in block.work
        ]
        sizes = [w.op.elements for w in works if isinstance(w.op, Pointwise) and w.op.op == "quantize_fp8"]
        return min(sizes)

    assert cast(4) < cast(1)


@pytest.mark.parametrize(("precision", "width"), [("bf16", 2.0), ("fp8", 1.0), ("fp8-rowwise", 2.0)])
def test_inputs_with_one_scale_are_gathered_in_8_bits(precision, width):
    """All-gathers of the layers' inputs; sums stay in 16 bits, and so does what the output layer gathers."""
    shard = make_shard(LLAMA, on=TITAN, tp=2, sequence_parallel=True, training={"precision": precision})
    sizes = Counter(
        (op.op, op.bytes / (64 * 64))
        for op in leaf_runs(build(shard))
        if isinstance(op, Collective) and op.op != "all_reduce"
    )
    assert set(sizes) == {("all_gather", width), ("all_gather", 2.0), ("reduce_scatter", 2.0)}
