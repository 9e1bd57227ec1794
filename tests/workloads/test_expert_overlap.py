"""Exchanges of experts beside the computation of a pass in the other direction."""

from dataclasses import replace

import pytest

from hardware import catalog as hardware
from sim.blocks import Launches, play_block
from sim.catalog import stack
from sim.memory import most_kept, peak_memory
from sim.step import simulate
from tests.conftest import LLAMA, make_job, make_shard
from workloads.build import build
from workloads.catalog import model as catalogued
from workloads.errors import WorkloadError
from workloads.graph import COMPUTE, Block, Work, leaf_runs
from workloads.ops import Collective, Pointwise
from workloads.parallelism import expert
from workloads.schedules import Slot, paired, schedule, schedules

ROUTED = replace(LLAMA, name="small-routed", ffn=64, experts=16, topk=8)
EXCHANGE = Collective(op="all_to_all", bytes=8.0, ranks=2)
KERNEL = Pointwise(op="add", rows=1, cols=1, dtype="bf16")


def passes(order: str) -> list[Slot]:
    return [Slot(direction, index, 0) for index, direction in enumerate(order)]  # type: ignore[arg-type]


def test_a_backward_pass_and_the_forward_pass_behind_it_run_beside_each_other():
    together = [slot.beside for slot in paired(passes("FFBFBB"))]
    assert together == [False, False, True, True, False, False]


@pytest.mark.parametrize("name", schedules())
def test_pairing_changes_no_pass_and_pairs_are_of_two(name: str):
    stages, chunks = (2, 2) if name == "interleaved" else (2, 1)
    for stage in range(stages):
        order = [*schedule(name).order(stage, stages, chunks, 8)]
        told = [*paired(order)]
        assert [slot._replace(beside=False) for slot in told] == order
        assert sum(slot.beside for slot in told if slot.direction == "F") * 2 == sum(slot.beside for slot in told)


def test_what_a_backward_pass_lets_go_of_is_still_there_beside_the_forward_pass():
    order = passes("FFBFBB")
    assert most_kept(order, [1.0]) == 2.0
    assert most_kept(paired(order), [1.0]) == 3.0


def block_seconds(exchange_s: float, rate: float = 1.0) -> tuple[float, float]:
    """Alone and with its exchanges beside: 3 s of kernels, two exchanges."""
    sent = Work(EXCHANGE, expert.STREAM)
    alone = Block(name="layer", phase="forward", pieces=((sent, Work(KERNEL)), (Work(KERNEL), sent, Work(KERNEL))))
    prices = {EXCHANGE: exchange_s, KERNEL: 1.0}
    host = Launches(costs=replace(stack("nemo").host, launch_s={"eager": 0.0}), execution="eager", recompute="none")
    host = replace(host, costs=replace(host.costs, message_s={"eager": 0.0}))
    first, second = (play_block(each, prices, host, rate, rate) for each in (alone, expert.beside(alone)))
    return first.seconds, second.seconds


def test_the_longer_of_both_counts():
    """3 s of kernels; exchanges of 2 x 1 s hide behind them, of 2 x 4 s hide them."""
    assert block_seconds(1.0) == (5.0, 3.0)
    assert block_seconds(4.0) == (11.0, 8.0)


def test_both_go_slower_beside_each_other():
    apart, together = block_seconds(1.0, rate=0.5)
    assert 3.0 < together < apart


def test_a_block_without_exchanges_stays_as_it_is():
    block = Block(name="layer", phase="forward", pieces=((Work(KERNEL),),))
    assert expert.beside(block) is block


def test_the_work_of_a_step_is_the_same():
    one, other = (leaf_runs(build(shard)) for shard in shards())
    assert one == other


def shards():
    layout = {"pp": 2, "dp": 4, "ep": 4, "training": {"global_batch": 32, "micro_batch": 1}}
    return [make_shard(ROUTED, "megatron-core", expert_overlap=on, **layout) for on in (False, True)]


def test_a_step_takes_less_time_and_more_memory_and_its_parts_add_up():
    model, machine = replace(catalogued("qwen3-30b-a3b"), layers=4), hardware.cluster("dgx-h100", 2)
    training = {"global_batch": 64, "micro_batch": 1, "seq_len": 4096, "precision": "bf16"}
    layout = {"pp": 2, "dp": 8, "ep": 8, "training": training, "machine": machine}
    jobs = [make_job(model, "megatron-core", expert_overlap=on, **layout) for on in (False, True)]
    apart, together = (simulate(replace(job, execution="graph")) for job in jobs)  # eager, both wait for their host
    assert together.exposed_s.get("ep", 0.0) < apart.exposed_s["ep"]
    assert together.step_s < apart.step_s
    assert sum(together.breakdown.values()) == pytest.approx(together.step_s)
    memory = [peak_memory(shard, 1e12).activations for shard in shards()]
    assert memory[0] < memory[1]


@pytest.mark.parametrize(
    ("layout", "words"),
    [({}, "layout.ep of 2 or more"), ({"ep": 2, "dp": 2, "zero": 3}, "layout.zero = 3")],
    ids=str,
)
def test_it_needs_exchanges_and_no_gathered_parameters(layout, words):
    with pytest.raises(WorkloadError, match=words):
        make_shard(ROUTED, "megatron-core", expert_overlap=True, **layout)


def test_a_trainer_whose_host_waits_for_numbers_of_rows_cannot_run_ahead():
    with pytest.raises(WorkloadError, match="torchtitan waits for the numbers of rows"):
        make_shard(ROUTED, "torchtitan", expert_overlap=True, ep=2, dp=2)


def test_a_dense_model_has_nothing_to_exchange():
    for layout in ({"expert_overlap": True}, {"expert_mode": "deduplicated"}):
        with pytest.raises(WorkloadError, match="has no experts"):
            make_shard(LLAMA, "megatron-core", **layout)


def test_messages_beside_stand_on_a_stream_of_their_own():
    block = expert.beside(Block(name="layer", phase="forward", pieces=((Work(EXCHANGE, expert.STREAM), Work(KERNEL)),)))
    assert [work.stream for work in block.work] == [COMPUTE, expert.STREAM]
