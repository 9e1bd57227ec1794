"""What a step's time is made of: the parts add up, and each shows up where it belongs."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from sim.blocks import Launches, play_block
from sim.breakdown import PARTS, breakdown
from sim.catalog import stack
from sim.engine import play
from sim.step import simulate
from tests.conftest import GPT, LLAMA, SIMPLE, accepts, changed, make_job
from workloads.graph import COMPUTE, Block, Message, Program, Segment, Task, Tasks, Work
from workloads.ops import Pointwise, Transfer
from workloads.stack import Host, Stack

CORE = stack("megatron-core")
OVERLAPS = {
    "nothing": changed(
        CORE,
        overlap={
            "tensor": False,
            "tensor_backward": False,
            "gradients": "none",
            "parameters": False,
            "pipeline": "none",
        },
    ),
    "everything": changed(
        CORE,
        overlap={
            "tensor": True,
            "tensor_backward": True,
            "gradients": "backward",
            "parameters": True,
            "pipeline": "beside",
        },
        data={"bucket_bytes": 3e5},
        host={"step_s": 1e-3},
    ),
    "blocking": changed(CORE, overlap={"gradients": "backward"}, host={"blocking": True, "synchronise_s": 1e-5}),
}
LAYOUTS: list[dict[str, Any]] = [
    {"tp": tp, "pp": pp, "vp": vp, "cp": cp, "dp": dp, "zero": zero, "sequence_parallel": tp > 1}
    for tp, (pp, vp), cp, dp, zero in product((1, 2), ((1, 1), (2, 1), (4, 1), (2, 2)), (1, 2), (1, 2), (0, 1, 2, 3))
]
ACCEPTED = [layout for layout in LAYOUTS if accepts(GPT, make_job(**layout).layout, make_job().training)]


def parts_of(on: Stack, **keywords: Any) -> dict[str, float]:
    return simulate(make_job(LLAMA, on=on, **keywords), SIMPLE).breakdown


@pytest.mark.parametrize("how", OVERLAPS)
@pytest.mark.parametrize("layout", ACCEPTED, ids=str)
def test_the_parts_add_up_to_the_step(how, layout):
    result = simulate(make_job(LLAMA, on=OVERLAPS[how], **layout), SIMPLE)
    assert sum(result.breakdown.values()) == pytest.approx(result.step_s, rel=1e-9)
    assert all(seconds >= 0.0 for seconds in result.breakdown.values())
    assert set(result.breakdown) <= set(PARTS)


@pytest.mark.parametrize("recompute", ["none", "selective", "selective-op", "selective-op-alternate", "full", "full:3"])
@pytest.mark.parametrize("name", ["megatron-lm-2021", "megatron-lm-2022", "torchtitan"])
def test_the_parts_add_up_under_every_recomputation(recompute, name):
    job = make_job(GPT, name, pp=2, dp=2, training={"recompute": recompute})
    result = simulate(job, SIMPLE)
    assert sum(result.breakdown.values()) == pytest.approx(result.step_s, rel=1e-9)


@pytest.mark.parametrize(("schedule", "vp"), [("gpipe", 1), ("one_f_one_b", 1), ("interleaved", 2)])
def test_the_parts_add_up_under_every_schedule(schedule, vp):
    result = simulate(make_job(pp=4, vp=vp, schedule=schedule), SIMPLE)
    assert sum(result.breakdown.values()) == pytest.approx(result.step_s, rel=1e-9)


def test_parts_come_in_the_order_of_reports():
    found = list(parts_of(OVERLAPS["everything"], tp=2, pp=2, cp=2, dp=2, sequence_parallel=True))
    assert found == [part for part in PARTS if part in found]


def test_gradients_that_are_not_overlapped_are_exposed():
    behind, beside = (parts_of(OVERLAPS[how], dp=4) for how in ("nothing", "everything"))
    assert behind["exposed dp"] > 0.0
    assert behind["exposed dp"] > beside.get("exposed dp", 0.0)


@pytest.mark.parametrize("how", OVERLAPS)
def test_one_replica_exposes_no_gradients(how):
    assert "exposed dp" not in parts_of(OVERLAPS[how], dp=1)
    assert "exposed dp" not in parts_of(OVERLAPS[how], dp=1, pp=2)


@pytest.mark.parametrize("how", OVERLAPS)
def test_tensor_parallel_ranks_of_one_replica_expose_no_gradients(how):
    """All that they sum behind the backward pass is the norm of their gradients."""
    assert parts_of(OVERLAPS[how], tp=2, sequence_parallel=True).get("exposed dp", 0.0) < 1e-4


@pytest.mark.parametrize(
    ("dimension", "layout"),
    [
        ("tp", {"tp": 2, "sequence_parallel": True}),
        ("cp", {"cp": 2}),
        ("cp", {"cp": 2, "context_mode": "all_to_all"}),
        ("pp", {"pp": 2}),
    ],
)
def test_communication_is_exposed_where_there_is_some(dimension, layout):
    assert f"exposed {dimension}" in parts_of(OVERLAPS["nothing"], **layout)
    assert f"exposed {dimension}" not in parts_of(OVERLAPS["nothing"], dp=2)


def test_one_stage_has_no_bubble():
    assert "bubble" not in parts_of(OVERLAPS["nothing"], dp=2)


def test_interference_comes_with_overlap():
    assert "interference" not in parts_of(OVERLAPS["nothing"], dp=4)
    assert parts_of(OVERLAPS["everything"], dp=4)["interference"] > 0.0


def test_the_host_adds_its_time_once_a_step():
    assert parts_of(OVERLAPS["everything"])["host"] == pytest.approx(1e-3)


def test_recomputation_has_its_own_part():
    none, full = (parts_of(OVERLAPS["nothing"], training={"recompute": mode}) for mode in ("none", "full"))
    assert "recompute" not in none
    assert full["forward"] == none["forward"]
    assert full["backward"] == none["backward"]
    assert full["recompute"] == pytest.approx(none["forward"], rel=0.3)  # embedding and head are not run again


def kernel(name: str) -> Block:
    return Block(name=name, phase=name, pieces=((Work(Pointwise(op="copy", rows=1, cols=1, dtype="bf16")),),))


def test_a_pipeline_worked_by_hand():
    """Two stages, one micro-batch: forward 2 s, message 1 s, backward 4 s; gradients 3 s on the first, behind it.

    Rank 0: F 0-2, waits 2-9 (message 6 behind its message of 2-3), B 8-12, gradients 12-15.
    """
    forward, backward = (Segment(name=n, blocks=((kernel(n), 1),)) for n in ("forward", "backward"))
    send = Message(name="send_recv", ops=(Transfer(bytes=1.0, stride=1),), dimension="pp")
    reduce = Message(name="all_reduce", ops=(Transfer(bytes=2.0, stride=1),), dimension="dp")
    program = Program(
        ops=(forward, send, backward, reduce),
        tasks=Tasks.of(
            [
                Task(0, 0, COMPUTE, ()),  # 0-2
                Task(1, 0, COMPUTE, ()),  # 2-3, blocks computation
                Task(0, 1, COMPUTE, (1,)),  # 3-5
                Task(2, 1, COMPUTE, ()),  # 5-9
                Task(1, 1, COMPUTE, ()),  # 9-10
                Task(2, 0, COMPUTE, (4,)),  # 10-14
                Task(3, 0, "dp", (5,)),  # 14-17
            ]
        ),
        ranks=2,
    )
    seconds = {"forward": 2.0, "backward": 4.0}
    blocks = [block for op in program.ops if isinstance(op, Segment) for block, _ in op.blocks]
    free = Host(launch_s={"eager": 0.0}, message_s={"eager": 0.0})
    host = Launches(costs=free, execution="eager", recompute="none")
    times = {id(b): play_block(b, {b.work[0].op: seconds[b.name]}, host, 1.0) for b in blocks}
    op_seconds = [2.0, 1.0, 4.0, 3.0]
    seconds = [op_seconds[task.op] for task in program.tasks]
    timeline = play(program.tasks, seconds)
    assert timeline.seconds == 17.0
    # Idle: rank 0 from 3 to 10 and 3 s of gradients; rank 1 from 0 to 3 and from 10 to 17. Half of all for the mean.
    assert breakdown(program, times, timeline, seconds, [0.0, 0.0], 17.0, 1.0) == {
        "forward": 2.0,
        "backward": 4.0,
        "exposed pp": 1.0,
        "exposed dp": 1.5,
        "bubble": (7.0 + 3.0 + 7.0) / 2,
        "host": 1.0,
    }


def test_parts_are_means_over_stages_that_differ():
    """Of 10 layers counted on 5 stages, the first and last have one: the mean is 8 / 5 of a layer's time."""
    one = parts_of(OVERLAPS["nothing"])
    five = parts_of(OVERLAPS["nothing"], pp=5)
    assert 5 * five["forward"] == pytest.approx(one["forward"])
    assert 5 * five["backward"] == pytest.approx(one["backward"])


def test_idle_and_busy_time_make_up_each_rank():
    """The bubble is what the timeline leaves, checked against the raw spans of a plain pipeline."""
    result = simulate(make_job(GPT, on=OVERLAPS["nothing"], pp=4), SIMPLE)
    tasks, timeline = result.program.tasks, result.timeline
    busy = sum(float(timeline.end_s[i] - timeline.start_s[i]) for i, task in enumerate(tasks) if task.stream == COMPUTE)
    idle = 4 * timeline.seconds - busy
    parts = result.breakdown
    waiting = (
        parts["bubble"]
        + sum(float(timeline.end_s[i] - timeline.start_s[i]) for i, t in enumerate(tasks) if t.stream != COMPUTE) / 4
    )
    assert waiting == pytest.approx(idle / 4, rel=1e-6)
    assert np.isclose(result.bubble, parts["bubble"] / result.step_s)


def test_a_host_without_launches_leaves_no_launch_part():
    on = replace(OVERLAPS["nothing"], host=Host(launch_s={"eager": 0.0}, message_s={"eager": 0.0, "compile": 0.0}))
    assert "launch" not in parts_of(on, dp=2)
    assert "host" not in parts_of(on, dp=2)
