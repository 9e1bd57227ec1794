"""A host that keeps its lead over the GPU through a step, by hand and in whole steps."""

from dataclasses import replace

import pytest

from sim.ahead import task_seconds
from sim.blocks import Launches, play_block
from sim.catalog import stack
from sim.step import simulate
from tests.conftest import LLAMA, SIMPLE, changed, make_job
from workloads.graph import COMPUTE, Block, Program, Segment, Task, Tasks, Work
from workloads.ops import Pointwise
from workloads.stack import Host

KERNEL = Pointwise(op="copy", rows=1, cols=1, dtype="bf16")


def block(*, counted: bool = False) -> Block:
    return Block(name="layer", phase="forward", pieces=((Work(KERNEL, counted=counted),),))


def seconds(kernels: list[tuple[float, float]], *, counted: int = -1, ahead: bool = True) -> list[float]:
    """Of tasks of one rank whose kernel and launch take so long; the host reads something in one of them."""
    blocks = [block(counted=index == counted) for index in range(len(kernels))]
    times = {
        id(made): play_block(
            made, {KERNEL: gpu}, Launches(costs=Host(launch_s={"eager": host}), execution="eager", recompute=""), 1.0
        )
        for made, (gpu, host) in zip(blocks, kernels, strict=True)
    }
    program = Program(
        ops=tuple(Segment(name="forward", blocks=((made, 1),)) for made in blocks),
        tasks=Tasks.of([Task(index, 0, COMPUTE, ()) for index in range(len(blocks))]),
        ranks=1,
    )
    return task_seconds(program, [max(pair) for pair in kernels], times, ahead=ahead)


def test_what_was_gained_before_is_not_waited_for():
    """Gains 3 s, then loses 2 of them and 4 more: three of these are waited for."""
    assert seconds([(4, 1), (1, 3), (1, 5)]) == [4, 1, 4]
    assert seconds([(4, 1), (1, 3), (1, 5)], ahead=False) == [4, 3, 5]


def test_a_host_behind_from_the_start_stays_behind():
    assert seconds([(1, 2), (1, 2)]) == [2, 2]


def test_a_host_that_reads_has_lost_its_lead():
    """The launch behind the reading is waited for as well."""
    assert seconds([(4, 1), (4, 1), (1, 3)], counted=1) == [4, 5, 3]
    assert seconds([(4, 1), (4, 1), (1, 3)]) == [4, 4, 1]


def test_a_host_that_has_to_know_the_rows_of_experts_or_waits_for_stages_is_not_ahead():
    """Neither are the hosts of stages that have one chunk of layers each, where those wait."""
    dense, routed = (make_job(model, "megatron-bridge") for model in (LLAMA, replace(LLAMA, experts=4, topk=2)))
    assert dense.runs_ahead
    assert not routed.runs_ahead
    assert not make_job(LLAMA, "megatron-bridge", pp=2).runs_ahead
    assert make_job(LLAMA, "torchtitan", pp=2).runs_ahead
    assert not make_job(LLAMA, "megatron-core").runs_ahead


@pytest.mark.parametrize("layout", [{}, {"dp": 2, "zero": 3}, {"pp": 2}, {"tp": 2, "sequence_parallel": True}], ids=str)
def test_a_lead_never_makes_a_step_longer_and_its_parts_add_up(layout):
    found = {
        ahead: simulate(make_job(LLAMA, on=changed(stack("torchtitan"), host={"ahead": ahead}), **layout), SIMPLE)
        for ahead in ("segment", "step")
    }
    assert found["step"].step_s <= found["segment"].step_s
    for result in found.values():
        assert sum(result.breakdown.values()) == pytest.approx(result.step_s, rel=1e-9)
