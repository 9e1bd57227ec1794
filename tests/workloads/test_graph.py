"""Programs: what is run, what has to be priced, and what makes a program impossible."""

from dataclasses import replace

import pytest

from workloads.errors import WorkloadError
from workloads.graph import Block, Message, Program, Segment, Task, Tasks, Work, blocks, leaf_ops, streams, verify
from workloads.ops import Gemm, Op, Transfer
from workloads.weave import Weave


def gemm(size: int) -> Op:
    return Gemm(m=size, n=size, k=size, dtype="bf16")


SEND = Transfer(bytes=8.0, stride=1)
LAYER = Block(name="layer", phase="forward", pieces=((Work(gemm(1)), Work(gemm(2))), (Work(gemm(1)),)))
HEAD = Block(name="head", phase="forward", pieces=((Work(gemm(3)),),))
FORWARD = Segment(name="forward", blocks=((LAYER, 5), (HEAD, 1)))
MESSAGE = Message(name="send_recv", ops=(SEND,), dimension="pp")
TASKS = [
    Task(0, 0, "compute", ()),
    Task(1, 0, "pp", (0,)),
    Task(0, 1, "compute", (1,)),
    Task(2, 0, "compute", ()),
]
PROGRAM = Program(
    ops=(FORWARD, MESSAGE, Segment(name="more", blocks=((LAYER, 2),))),
    tasks=Tasks.of(TASKS),
    ranks=2,
)


def faults(*tasks: Task) -> tuple[str, ...]:
    with pytest.raises(WorkloadError) as raised:
        verify(replace(PROGRAM, tasks=Tasks.of(tasks)))
    return raised.value.faults


def test_a_sound_program_passes():
    verify(PROGRAM)


def test_every_different_op_is_priced_once():
    assert leaf_ops(PROGRAM) == [gemm(1), gemm(2), gemm(3), SEND]


def test_every_different_block_is_played_once():
    assert blocks(PROGRAM) == [LAYER, HEAD]


def test_a_block_lists_its_work_in_order_of_launch():
    assert [work.op for work in LAYER.work] == [gemm(1), gemm(2), gemm(1)]


def test_equal_blocks_stay_different_ones():
    """Blocks are told apart by what they are, not by what is in them: each has its own place in a model."""
    assert replace(LAYER) != LAYER


def test_columns_give_back_the_tasks():
    assert list(PROGRAM.tasks) == TASKS
    assert [PROGRAM.tasks[index] for index in range(len(PROGRAM.tasks))] == TASKS


def test_streams_are_queues_in_order_of_the_tasks():
    assert streams(PROGRAM.tasks) == {(0, "compute"): [0, 3], (0, "pp"): [1], (1, "compute"): [2]}


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        (Task(0, 0, "compute", (0,)), "task 0 waits for task 0"),
        (Task(0, 0, "compute", (5,)), "task 0 waits for task 5"),
        (Task(0, 0, "compute", (-1,)), "task 0 waits for task -1"),
        (Task(3, 0, "compute", ()), "runs op 3 of 3"),
        (Task(-1, 0, "compute", ()), "runs op -1 of 3"),
        (Task(0, 2, "compute", ()), "runs on rank 2 of 2"),
        (Task(0, -1, "compute", ()), "runs on rank -1 of 2"),
    ],
)
def test_a_program_that_cannot_run_says_why(task, fault):
    found = faults(task)
    assert len(found) == 1
    assert fault in found[0]


def test_all_faults_of_a_program_come_at_once():
    assert len(faults(Task(7, 9, "compute", (3,)), Task(0, 0, "compute", (1,)))) == 4


def test_weaving_numbers_each_op_once():
    weave = Weave(ranks=2)
    assert weave.tail(0) == ()
    first = weave.add(FORWARD, 0)
    sent = weave.add(MESSAGE, 0, first, "pp")
    second = weave.add(FORWARD, 1, sent)
    made = weave.program()
    verify(made)
    assert made.ops == (FORWARD, MESSAGE)
    assert [task.op for task in made.tasks] == [0, 1, 0]
    assert (weave.tail(0), weave.tail(1)) == (first, second)
