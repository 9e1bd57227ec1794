"""The engine: timelines worked by hand, and bounds that no timeline can beat."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import engine
from sim.engine import Timeline
from workloads.graph import COMPUTE, Task, Tasks

# Computation runs at three quarters of its speed beside a message.
RATE = 0.75


def task(rank: int = 0, stream: str = COMPUTE, after: tuple[int, ...] = ()) -> Task:
    return Task(0, rank, stream, after)


def play(tasks: list[Task], seconds: list[float], **contention: Any) -> Timeline:
    return engine.play(Tasks.of(tasks), seconds, **contention)


def spans(timeline: Timeline) -> list[tuple[float, float]]:
    return list(zip(timeline.start_s.tolist(), timeline.end_s.tolist(), strict=True))


def contended(tasks: list[Task], seconds: list[float]) -> list[tuple[float, float]]:
    return spans(play(tasks, seconds, beside=("dp",), compute_rate=RATE))


def test_no_tasks_take_no_time():
    assert play([], []).seconds == 0.0


def test_a_stream_is_a_queue():
    assert spans(play([task(), task(), task()], [1.0, 2.0, 4.0])) == [(0, 1), (1, 3), (3, 7)]


def test_two_streams_run_side_by_side():
    tasks = [task(), task(stream="dp"), task(), task(stream="dp")]
    assert spans(play(tasks, [3.0, 1.0, 3.0, 1.0])) == [(0, 3), (0, 1), (3, 6), (1, 2)]


def test_a_task_waits_for_another_stream():
    tasks = [task(), task(stream="dp", after=(0,)), task(after=(1,)), task(stream="dp")]
    assert spans(play(tasks, [2.0, 5.0, 1.0, 1.0])) == [(0, 2), (2, 7), (7, 8), (7, 8)]


def test_a_task_waits_for_the_last_of_several():
    tasks = [task(0), task(1), task(2), task(3, after=(0, 1, 2))]
    assert spans(play(tasks, [2.0, 7.0, 5.0, 1.0]))[3] == (7, 8)


def test_ranks_wait_for_each_other():
    """A pipeline of two stages and two micro-batches, forward 1 and backward 2: 9 in all, of which 3 bubble."""
    forward = [task(0), task(0), task(1, after=(0,)), task(1, after=(2,)), task(1, after=(1,)), task(1)]
    tasks = [*forward, task(0, after=(3,)), task(0, after=(5,))]
    timeline = play(tasks, [1.0, 1.0, 1.0, 2.0, 1.0, 2.0, 2.0, 2.0])
    assert spans(timeline) == [(0, 1), (1, 2), (1, 2), (2, 4), (4, 5), (5, 7), (4, 6), (7, 9)]


def test_a_waiting_task_holds_up_the_queue_behind_it():
    """In-order queues: what could run stays behind what cannot yet."""
    tasks = [task(1), task(0, after=(0,)), task(0)]
    assert spans(play(tasks, [10.0, 1.0, 1.0])) == [(0, 10), (10, 11), (11, 12)]


def test_ties_are_broken_by_order():
    tasks = [task(0), task(1), task(0, "pp", (0, 1)), task(0, "pp", (1,)), task(1, after=(3,))]
    first = spans(play(tasks, [1.0, 1.0, 1.0, 1.0, 1.0]))
    assert first == [(0, 1), (0, 1), (1, 2), (2, 3), (3, 4)]
    assert spans(play(tasks, [1.0, 1.0, 1.0, 1.0, 1.0])) == first


def test_tasks_of_no_length_are_played_too():
    tasks = [task(), task(stream="dp", after=(0,)), task(after=(1,))]
    assert contended(tasks, [0.0, 0.0, 0.0]) == [(0, 0), (0, 0), (0, 0)]


def test_a_message_beside_computation_stretches_it():
    """3 s of message: 3 s at 0.75 do 2.25 of 6 s, the rest takes 3.75."""
    assert contended([task(stream="dp"), task()], [3.0, 6.0]) == [(0, 3), (0, 6.75)]


def test_computation_wholly_beside_a_message_takes_longer_by_its_rate():
    assert contended([task(stream="dp"), task()], [100.0, 6.0]) == [(0, 100), (0, 8)]


def test_a_message_that_starts_later_stretches_what_is_left():
    """Rank 1 releases the message at 2: 2 of 6 s are done, 3 s of message do 2.25, 1.75 s remain."""
    tasks = [task(1), task(0, "dp", (0,)), task(0)]
    assert contended(tasks, [2.0, 3.0, 6.0]) == [(0, 2), (2, 5), (0, 6.75)]


def test_messages_back_to_back_stretch_as_one():
    tasks = [task(stream="dp"), task(stream="dp"), task()]
    assert contended(tasks, [1.0, 2.0, 6.0]) == [(0, 1), (1, 3), (0, 6.75)]


def test_messages_with_a_pause_between_them_stretch_twice():
    """Messages from 1 to 2 and from 4 to 6: three seconds of 0.25 lost."""
    tasks = [task(1), task(1), task(0, "dp", (0,)), task(0, "dp", (1,)), task(0)]
    assert contended(tasks, [1.0, 3.0, 1.0, 2.0, 8.0])[2:] == [(1, 2), (4, 6), (0, 8.75)]


def test_two_messages_at_a_time_slow_down_no_more_than_one():
    tasks = [task(stream="dp"), task(stream="cp"), task()]
    timeline = play(tasks, [4.0, 2.0, 6.0], beside=("dp", "cp"), compute_rate=0.5)
    assert spans(timeline) == [(0, 4), (0, 2), (0, 8)]


def test_messages_may_take_turns_just_as_computation_ends():
    """8 s at 0.75 do all 6 s; the second message starts at that very moment, and slows down the next task."""
    tasks = [task(stream="dp"), task(stream="dp"), task(), task()]
    assert contended(tasks, [8.0, 1.0, 6.0, 3.0]) == [(0, 8), (8, 9), (0, 8), (8, 11.25)]


def test_computation_that_ends_as_messages_take_turns_may_wait_for_the_next():
    tasks = [task(stream="dp"), task(stream="dp"), task(), task(after=(1,))]
    assert contended(tasks, [8.0, 1.0, 6.0, 3.0]) == [(0, 8), (8, 9), (0, 8), (9, 12)]


def test_a_message_may_span_several_computations():
    """8 s of message over 3 + 3 + 3: 4, 4, and the last undisturbed."""
    assert contended([task(stream="dp"), task(), task(), task()], [8.0, 3.0, 3.0, 3.0])[1:] == [
        (0, 4),
        (4, 8),
        (8, 11),
    ]


def test_a_message_does_not_slow_down_other_ranks():
    assert contended([task(0, "dp"), task(1), task(0)], [3.0, 6.0, 6.0])[1:] == [(0, 6), (0, 6.75)]


def test_streams_that_are_not_beside_slow_down_nothing():
    assert contended([task(stream="pp"), task()], [3.0, 6.0]) == [(0, 3), (0, 6)]


def test_a_message_that_computation_waits_for_slows_nothing():
    tasks = [task(), task(stream="dp", after=(0,)), task(after=(1,))]
    assert contended(tasks, [2.0, 3.0, 2.0]) == [(0, 2), (2, 5), (5, 7)]


def test_slowed_computation_holds_up_other_ranks():
    tasks = [task(0, "dp"), task(0), task(1, after=(1,))]
    assert contended(tasks, [3.0, 6.0, 1.0])[2] == (6.75, 7.75)


Drawn = tuple[list[Task], list[float]]


@st.composite
def programs(draw: st.DrawFn, streams: tuple[str, ...] = (COMPUTE, "dp", "pp")) -> Drawn:
    """Random tasks, each after some earlier ones."""
    count = draw(st.integers(1, 14))
    tasks = []
    for index in range(count):
        after = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else []
        tasks.append(task(draw(st.integers(0, 2)), draw(st.sampled_from(streams)), tuple(after)))
    seconds = draw(st.lists(st.integers(0, 8).map(float), min_size=count, max_size=count))
    return tasks, seconds


def before(tasks: list[Task]) -> list[list[int]]:
    """What each task comes after: what it waits for and the task before it on its stream."""
    last: dict[tuple[int, str], int] = {}
    found = []
    for index, one in enumerate(tasks):
        here = (one.rank, one.stream)
        found.append([*one.after, *([last[here]] if here in last else [])])
        last[here] = index
    return found


def earliest(tasks: list[Task], seconds: list[float]) -> list[tuple[float, float]]:
    """The longest path to each task, as an independent reference."""
    ends: list[float] = []
    for waits, second in zip(before(tasks), seconds, strict=True):
        ends.append(max((ends[index] for index in waits), default=0.0) + second)
    return [(end - second, end) for end, second in zip(ends, seconds, strict=True)]


@given(programs())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_without_contention_the_timeline_is_the_longest_path(drawn):
    assert spans(play(*drawn)) == earliest(*drawn)


@given(programs())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_task_starts_before_what_it_waits_for(drawn):
    tasks, seconds = drawn
    played = contended(tasks, seconds)
    for (start, _), waits in zip(played, before(tasks), strict=True):
        assert all(played[index][1] <= start + 1e-12 for index in waits)


@given(programs())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_task_starts_as_soon_as_it_can(drawn):
    tasks, seconds = drawn
    played = contended(tasks, seconds)
    for (start, _), waits in zip(played, before(tasks), strict=True):
        assert start == pytest.approx(max((played[index][1] for index in waits), default=0.0), abs=1e-9)


@given(programs())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_step_beats_neither_the_critical_path_nor_any_stream(drawn):
    tasks, seconds = drawn
    step = play(*drawn, beside=("dp",), compute_rate=RATE).seconds
    assert step >= max(end for _, end in earliest(*drawn)) - 1e-9
    for rank, stream in {(one.rank, one.stream) for one in tasks}:
        assert step >= sum(s for one, s in zip(tasks, seconds, strict=True) if one[1:3] == (rank, stream)) - 1e-9


@given(programs())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_only_computation_stretches_and_by_no_more_than_its_rate(drawn):
    tasks, seconds = drawn
    for one, second, (start, end) in zip(tasks, seconds, contended(tasks, seconds), strict=True):
        most = second / RATE if one.stream == COMPUTE else second
        assert second - 1e-9 <= end - start <= most + 1e-9


@given(programs())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_computation_loses_exactly_what_messages_beside_it_take(drawn):
    """Work done = length - (1 - rate) x the time in which a message of the same rank runs."""
    tasks, seconds = drawn
    played = contended(tasks, seconds)
    for one, second, (start, end) in zip(tasks, seconds, played, strict=True):
        if one.stream == COMPUTE:
            messages = [s for t, s in zip(tasks, played, strict=True) if t[1:3] == (one.rank, "dp")]
            beside = sum(max(min(end, stop) - max(start, begin), 0.0) for begin, stop in messages)
            assert second == pytest.approx(end - start - (1 - RATE) * beside, abs=1e-9)


@given(programs(streams=(COMPUTE, "pp")))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_both_ways_of_playing_agree_where_nothing_overlaps(drawn):
    """One message that everything waits for makes every rank play at a rate, but slows nothing down."""
    tasks, seconds = drawn
    first = [task(rank, "dp") for rank in range(3)]
    moved = [one._replace(after=(0, 1, 2, *(index + 3 for index in one.after))) for one in tasks]
    last = [task(rank, "dp", tuple(range(3, 3 + len(tasks)))) for rank in range(3)]
    everything, lengths = [*first, *moved, *last], [1.0] * 3 + seconds + [1.0] * 3
    assert contended(everything, lengths) == spans(play(everything, lengths))


@given(programs(), st.integers(0, 13))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_shorter_task_never_makes_a_step_longer(drawn, which):
    tasks, seconds = drawn
    shorter = [second / 2 if index == which else second for index, second in enumerate(seconds)]
    assert (play(tasks, shorter).end_s <= play(tasks, seconds).end_s).all()


@given(programs())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_same_tasks_give_the_same_bits(drawn):
    first, second = (play(*drawn, beside=("dp",), compute_rate=RATE) for _ in range(2))
    assert np.array_equal(first.start_s, second.start_s)
    assert np.array_equal(first.end_s, second.end_s)


@given(programs(), st.permutations(range(3)))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_numbers_of_ranks_do_not_matter(drawn, numbers):
    tasks, seconds = drawn
    renamed = [one._replace(rank=numbers[one.rank]) for one in tasks]
    assert contended(renamed, seconds) == contended(tasks, seconds)
