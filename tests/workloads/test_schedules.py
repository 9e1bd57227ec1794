"""Laws of every pipeline schedule, and the closed forms of the papers."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest

from sim.engine import Timeline, play
from sim.memory import most_kept
from tests.conftest import GPT, make_shard
from workloads.build import build
from workloads.errors import WorkloadError
from workloads.graph import COMPUTE, Message, Program, Segment, verify
from workloads.planner import KEPT
from workloads.schedules import Slot, paired, schedule, schedules
from workloads.stage import PASSES

# Powers of two, so that sums are exact: a stage's forward pass, and the two equal parts of its backward pass.
FORWARD_S, INPUTS_S, WEIGHTS_S = 16.0, 16.0, 16.0
BACKWARD_S = INPUTS_S + WEIGHTS_S
PASS_S = FORWARD_S + BACKWARD_S
# How long stages wait beyond their own work: GPipe section 2.3 and SC21 sections 2.2.1 and 2.2.2, unless said here.
# Zero-bubble: arXiv:2401.10241, Table 2; that of ZB-2p is of an update that waits for all stages. DualPipe's own (its
# README) is twice as long, as it counts pairs of passes that end together.
BUBBLES_S = {
    "zero_bubble": lambda stages: (stages - 1) * (FORWARD_S + INPUTS_S - WEIGHTS_S),
    "zero_bubble_2p": lambda stages: (stages - 1) * FORWARD_S,
    "zero_bubble_v": lambda stages: stages * FORWARD_S,
    "dualpipe": lambda stages: (stages // 2 - 1) * FORWARD_S,
    "dualpipe_v": lambda stages: (stages - 1) * FORWARD_S / 2,
}
AT_MOST = {"zero_bubble_v"}  # planned for other lengths of passes
FILLED = {"zero_bubble": 1, "zero_bubble_2p": 2, "zero_bubble_v": 1}  # with so many micro-batches for each stage


def accepted() -> list[tuple[str, int, int, int]]:
    """(schedule, stages, chunks, micro-batches) of every schedule's own liking."""
    cases = product(schedules(), (1, 2, 3, 4, 8), (1, 2, 4), (1, 2, 3, 4, 8, 16))
    return [case for case in cases if not schedule(case[0]).faults(*case[1:])]


ACCEPTED = accepted()
every_case = pytest.mark.parametrize(("name", "stages", "chunks", "count"), ACCEPTED)


def order(name: str, stage: int, stages: int, chunks: int, count: int) -> list[Slot]:
    return list(schedule(name).order(stage, stages, chunks, count))


def passes(name: str, stage: int, stages: int, chunks: int, count: int) -> set[tuple[int, int]]:
    """(micro-batch, chunk) that a stage has to run."""
    routes = schedule(name).routes(stages, chunks)
    each = count // len(routes)
    return {
        (number * each + micro_batch, place.chunk)
        for number, route in enumerate(routes)
        for place in route
        for micro_batch in range(each)
        if place.stage == stage
    }


@cache
def program(name: str, stages: int, chunks: int, count: int) -> Program:
    model = replace(GPT, layers=stages * chunks)
    return build(make_shard(model, pp=stages, vp=chunks, schedule=name, training={"global_batch": count}))


def played(
    name: str,
    stages: int,
    chunks: int,
    count: int,
    lengths_s: tuple[float, float, float] = (FORWARD_S, INPUTS_S, WEIGHTS_S),
) -> Timeline:
    """With passes of equal length on every stage, and all else free."""
    forward_s, inputs_s, weights_s = (seconds / chunks for seconds in lengths_s)
    made = program(name, stages, chunks, count)
    apart = {slot.micro_batch for slot in order(name, 0, stages, chunks, count) if slot.direction == "I"}
    assert not apart or schedule(name).SPLITS
    split = {index for index, op in enumerate(made.ops) if op.name == "backward" and only_inputs(op)}
    seconds = {"forward": forward_s, "backward": inputs_s + weights_s, "weight gradients": weights_s}
    lengths = [inputs_s if task.op in split else seconds.get(made.ops[task.op].name, 0.0) for task in made.tasks]
    return play(made.tasks, lengths)


def only_inputs(segment: Segment | Message) -> bool:
    """Whether a backward pass leaves out the gradients of weights."""
    assert isinstance(segment, Segment)
    return not any(work.weights for block, _ in segment.blocks for work in block.work)


def most_under_way(slots: list[Slot]) -> int:
    """Micro-batches (times chunks) that have gone forward and not all of the way back, at the worst moment."""
    now = most = 0
    for slot in slots:
        now += {"F": 1, "I": 0}.get(slot.direction, -1)
        most = max(most, now)
    return most


def test_the_folder_holds_these_schedules():
    found = {
        "gpipe",
        "interleaved",
        "one_f_one_b",
        "zero_bubble",
        "zero_bubble_2p",
        "zero_bubble_v",
        "dualpipe",
        "dualpipe_v",
    }
    assert found <= set(schedules())


def test_every_schedule_accepts_some_case():
    assert {name for name, *_ in ACCEPTED} == set(schedules())


def test_an_unknown_schedule_is_answered_with_the_known_ones():
    with pytest.raises(WorkloadError, match=r"no schedule '2f2b'.*one_f_one_b"):
        schedule("2f2b")


@every_case
def test_every_part_of_the_model_has_a_place_on_every_route(name, stages, chunks, count):
    routes = schedule(name).routes(stages, chunks)
    places = [place for route in routes for place in route]
    assert len(places) == len(set(places))
    assert {len(route) for route in routes} == {stages * chunks}
    assert {place.stage for place in places} == set(range(stages))
    assert count % len(routes) == 0


@every_case
def test_every_stage_runs_every_micro_batch_once_forward_and_once_backward(name, stages, chunks, count):
    for stage in range(stages):
        slots = order(name, stage, stages, chunks, count)
        expected = sorted(passes(name, stage, stages, chunks, count))
        for directions in ("F", "BI", "BW"):
            assert sorted((s.micro_batch, s.chunk) for s in slots if s.direction in directions) == expected
        assert schedule(name).SPLITS or not any(slot.direction in "IW" for slot in slots)


@every_case
def test_a_micro_batch_goes_back_after_it_went_forward(name, stages, chunks, count):
    for stage in range(stages):
        gone = set[tuple[str, int, int]]()
        for slot in order(name, stage, stages, chunks, count):
            before = {"F": "", "W": "I"}.get(slot.direction, "F")
            assert not before or (before, slot.micro_batch, slot.chunk) in gone
            gone.add(slot[:3])


@every_case
def test_micro_batches_keep_their_order(name, stages, chunks, count):
    for stage in range(stages):
        slots = order(name, stage, stages, chunks, count)
        for directions, chunk in product(("F", "BI", "BW"), {slot.chunk for slot in slots}):
            mine = [slot.micro_batch for slot in slots if slot.direction in directions and slot.chunk == chunk]
            assert mine == sorted(mine)


@every_case
def test_no_stage_waits_for_ever(name, stages, chunks, count):
    made = program(name, stages, chunks, count)
    verify(made)
    assert (played(name, stages, chunks, count).end_s >= 0.0).all()


@every_case
def test_every_pass_is_one_task_of_its_stage(name, stages, chunks, count):
    made = program(name, stages, chunks, count)
    for rank, word in product(range(stages), ("forward", "backward")):
        expected = len(passes(name, rank, stages, chunks, count))
        assert sum(made.ops[t.op].name == word and t.rank == rank for t in made.tasks) == expected


@every_case
def test_a_stage_never_beats_its_own_work(name, stages, chunks, count):
    assert played(name, stages, chunks, count).seconds >= count * PASS_S


@every_case
def test_the_bubble_is_that_of_the_papers(name, stages, chunks, count):
    """(p - 1)(f + b) / v, or what is said above."""
    bubble_s = BUBBLES_S[name](stages) if name in BUBBLES_S else (stages - 1) * PASS_S / chunks
    waited_s = played(name, stages, chunks, count).seconds - count * PASS_S
    if count < FILLED.get(name, 0) * stages:
        assert waited_s <= (stages - 1) * PASS_S
    elif name in AT_MOST:
        assert waited_s <= bubble_s
    else:
        assert waited_s == bubble_s


@every_case
def test_a_schedule_is_the_same_every_time(name, stages, chunks, count):
    assert order(name, 0, stages, chunks, count) == order(name, 0, stages, chunks, count)
    model = replace(GPT, layers=stages * chunks)
    shard = make_shard(model, pp=stages, vp=chunks, schedule=name, training={"global_batch": count})
    assert build(shard).tasks == program(name, stages, chunks, count).tasks


@pytest.mark.parametrize(("name", "chunks"), [("gpipe", 1), ("one_f_one_b", 1), ("interleaved", 2)])
def test_more_micro_batches_shrink_the_bubble(name, chunks):
    shares = [1.0 - count * PASS_S / played(name, 4, chunks, count).seconds for count in (4, 8, 16)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_more_chunks_shrink_the_bubble():
    steps = [
        played("one_f_one_b", 4, 1, 8).seconds,
        *(played("interleaved", 4, v, 8).seconds for v in (2, 4)),
    ]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[-1]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_gpipe_keeps_every_micro_batch(count):
    assert [most_under_way(order("gpipe", stage, 4, 1, count)) for stage in range(4)] == [count] * 4


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_1f1b_keeps_no_more_micro_batches_than_stages_behind_it(count):
    kept = [most_under_way(order("one_f_one_b", stage, 4, 1, count)) for stage in range(4)]
    assert kept == [min(4 - stage, count) for stage in range(4)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_zero_bubble_keeps_what_the_first_stage_of_1f1b_keeps(count):
    kept = [most_under_way(order("zero_bubble", stage, 4, 1, count)) for stage in range(4)]
    assert kept == [min(4, count)] * 4


@pytest.mark.parametrize(("name", "chunks", "most"), [("zero_bubble_2p", 1, 8), ("zero_bubble_v", 2, 8)])
def test_planned_schedules_keep_to_their_memory(name, chunks, most):
    """In chunks; half of one is left between its gradients of inputs and of weights."""
    for stage in range(4):
        assert most_kept(order(name, stage, 4, chunks, 16), [1.0] * chunks, [KEPT] * chunks) == most


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_dualpipe_keeps_a_micro_batch_more_than_1f1b(stages):
    """PP + 1 (arXiv:2412.19437, Table 2), on every stage, where both passes of a pair run at a time."""
    for stage in range(stages):
        slots = order("dualpipe", stage, stages, 1, 4 * stages)
        assert most_kept(paired(slots), [1.0, 1.0], [1.0, 1.0]) == stages + 1


@pytest.mark.parametrize("stage", range(8))
def test_dualpipe_is_the_same_from_both_ends(stage):
    mirrored = [slot._replace(chunk=1 - slot.chunk) for slot in order("dualpipe", 7 - stage, 8, 1, 32)]
    assert [slot[::2] for slot in order("dualpipe", stage, 8, 1, 32)] == [slot[::2] for slot in mirrored]


@pytest.mark.parametrize(
    ("name", "stages", "chunks", "count", "lengths_s", "rate"),
    [
        ("zero_bubble", 8, 1, 24, (29.7, 29.4, 19.9), 0.1323),
        ("zero_bubble", 32, 1, 256, (10.4, 10.2, 7.7), 0.0594),
        ("zero_bubble_2p", 8, 1, 24, (29.7, 29.4, 19.9), 0.0029),
        ("zero_bubble_2p", 16, 1, 48, (11.3, 11.2, 8.1), 0.0066),
        ("zero_bubble_2p", 32, 1, 256, (10.4, 10.2, 7.7), 0.0018),
        ("zero_bubble_v", 16, 2, 48, (29.7, 29.4, 19.9), 0.0697),
        ("zero_bubble_v", 32, 2, 256, (10.4, 10.2, 7.7), 0.0236),
    ],
)
def test_bubbles_are_those_of_the_zero_bubble_paper(name, stages, chunks, count, lengths_s, rate):
    """Tables 5 and 8, with the lengths of Table 9 (of ZB-V: those of the other schedules), free messages."""
    timeline = played(name, stages, chunks, count, lengths_s)
    made = program(name, stages, chunks, count)
    of_passes = [index for index, task in enumerate(made.tasks) if made.ops[task.op].name in PASSES.values()]
    ranks = np.array(made.tasks.ranks)[of_passes]
    start_s, end_s = timeline.start_s[of_passes], timeline.end_s[of_passes]
    longest_s = max(end_s[ranks == rank].max() - start_s[ranks == rank].min() for rank in range(stages))
    assert 1.0 - count * sum(lengths_s) / longest_s == pytest.approx(rate, abs=0.015)


@pytest.mark.parametrize(("stages", "chunks"), [(2, 2), (4, 2), (4, 3)])
def test_interleaving_keeps_what_the_paper_says(stages, chunks):
    """First stage: (p v + p - 1) chunks, (1 + (p - 1) / (p v)) of a 1F1B stage (arXiv:2205.05198, section 4.2.3)."""
    kept = most_under_way(order("interleaved", 0, stages, chunks, 4 * stages))
    assert kept == stages * chunks + stages - 1


def test_the_first_slots_of_1f1b_are_those_of_the_figure():
    """Stage 1 of 4: two forwards of warm-up, then in turn."""
    slots = [f"{slot.direction}{slot.micro_batch}" for slot in order("one_f_one_b", 1, 4, 1, 4)]
    assert slots == ["F0", "F1", "F2", "B0", "F3", "B1", "B2", "B3"]


def test_the_first_slots_of_interleaving_are_those_of_the_figure():
    """Stage 0 of 2 with 2 chunks and 4 micro-batches: SC21, figure 4, in small."""
    slots = [f"{slot.direction}{slot.micro_batch}.{slot.chunk}" for slot in order("interleaved", 0, 2, 2, 4)]
    forward = "F0.0 F1.0 F0.1 F1.1 F2.0 B0.1 F3.0 B1.1 F2.1 B0.0 F3.1 B1.0 B2.1 B3.1 B2.0 B3.0"
    assert slots == forward.split()


@pytest.mark.parametrize(
    ("name", "stages", "chunks", "count", "words"),
    [
        ("gpipe", 4, 2, 8, "one chunk a stage"),
        ("one_f_one_b", 4, 2, 8, "one chunk a stage"),
        ("interleaved", 4, 1, 8, "vp of 2 or more"),
        ("interleaved", 1, 2, 8, "pp of 2 or more"),
        ("interleaved", 4, 2, 6, "divisible by pp"),
    ],
)
def test_what_a_schedule_cannot_run_is_said(name, stages, chunks, count, words):
    assert any(words in fault for fault in schedule(name).faults(stages, chunks, count))


@every_case
def test_a_stage_computes_only_what_has_arrived(name, stages, chunks, count):
    made, timeline = program(name, stages, chunks, count), played(name, stages, chunks, count)
    for index, task in enumerate(made.tasks):
        assert all(timeline.end_s[earlier] <= timeline.start_s[index] for earlier in task.after)
        assert task.stream == COMPUTE or made.ops[task.op].name not in ("forward", "backward")
