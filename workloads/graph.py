"""The interface between workloads and simulation: work, blocks of work, and the tasks of a step.

A step of a large run has millions of kernels but only a few different sequences of them. So it is written
on two levels. A `Block` is a sequence of kernels with the communication inside it, such as the backward
pass of one layer; it is played once. A `Task` runs blocks, or communicates, on a stream of one rank; a
`Program` is all tasks of a step, each naming the earlier tasks that it waits for.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from workloads.errors import WorkloadError
from workloads.ops import CommunicationOp, HostCopy, Op

COMPUTE = "compute"
LAYER = "layer"  # name of the blocks of a layer
HIDDEN = "hidden"  # name of the chunks of a message that run beside the GEMM which it is for


class Work(NamedTuple):
    """One kernel or message of a block.

    It waits for all work before it in the block, apart from asynchronous work, which only `waits` (by
    name) and the end of its piece wait for. Before `counted` work the host waits for the GPU, to read its size.
    The call that launches the work before it launches work `along` too. What only gradients of `weights` need may be
    put off, by schedules that take the backward pass apart.
    """

    op: Op
    stream: str = COMPUTE
    name: str = ""
    asynchronous: bool = False
    waits: str = ""
    counted: bool = False
    along: bool = False
    weights: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Kernels that always run together, as pieces: the work of a piece ends before the next one starts.

    Args:
        phase: what the time is spent on, for the breakdown: forward, recompute, backward, ...
        beside: messages that run beside the pieces from the start of the block on; it ends when they have ended.
    """

    name: str
    phase: str
    pieces: tuple[tuple[Work, ...], ...]
    unit: bool = False  # whether it gathers or reduces parameters, with the host work that goes with it
    tensors: float = 0.0  # of parameters that the host goes through one by one, while the GPU waits
    beside: tuple[Work, ...] = ()

    @property
    def work(self) -> tuple[Work, ...]:
        """All work, in order of launch; what runs beside it last."""
        return (*(work for piece in self.pieces for work in piece), *self.beside)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """What a rank computes without a break: (block, how often), in order."""

    name: str
    blocks: tuple[tuple[Block, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Message:
    """Communication between ranks, or with the host's memory, that a task carries out, one op after the other.

    Args:
        dimension: of parallelism: dp, pp; or offload.
        beside: whether it runs beside computation, which slows both.
    """

    name: str
    ops: tuple[CommunicationOp | HostCopy, ...]
    dimension: str
    beside: bool = False


class Task(NamedTuple):
    """A segment or message on one stream of one rank.

    Streams are queues: a task starts when the task before it on its stream, and all in `after`, have ended.

    Args:
        op: index into the program's segments and messages.
        rank: the pipeline stage; all ranks of a stage do the same.
        after: indices of earlier tasks.
        micro_batch: -1 where the task belongs to none.
    """

    op: int
    rank: int
    stream: str
    after: tuple[int, ...]
    micro_batch: int = -1


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks column by column, as a long pipeline has hundreds of thousands of them."""

    ops: list[int]
    ranks: list[int]
    streams: list[str]
    after: list[tuple[int, ...]]
    micro_batches: list[int]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> Self:
        """The columns of some tasks."""
        return cls(
            [task.op for task in tasks],
            [task.rank for task in tasks],
            [task.stream for task in tasks],
            [task.after for task in tasks],
            [task.micro_batch for task in tasks],
        )

    def __len__(self) -> int:
        """How many."""
        return len(self.ops)

    def __getitem__(self, index: int) -> Task:
        """One of them."""
        return Task(
            self.ops[index], self.ranks[index], self.streams[index], self.after[index], self.micro_batches[index]
        )

    def __iter__(self) -> Iterator[Task]:
        """One after the other."""
        return map(Task, self.ops, self.ranks, self.streams, self.after, self.micro_batches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A whole step: what may be run (`ops`) and the tasks that run it."""

    ops: tuple[Segment | Message, ...]
    tasks: Tasks
    ranks: int


def runs(program: Program) -> list[int]:
    """How often each of the program's segments and messages is run, over all ranks."""
    counted = Counter(program.tasks.ops)
    return [counted[index] for index in range(len(program.ops))]


def leaf_runs(program: Program) -> dict[Op, int]:
    """How often each kernel and each message between ranks is run, over all ranks."""
    parts: Counter[Block | Message] = Counter()
    for op, often in zip(program.ops, runs(program), strict=True):
        for part, count in op.blocks if isinstance(op, Segment) else ((op, 1),):
            parts[part] += often * count
    total: Counter[Op] = Counter()
    for part, often in parts.items():
        for leaf in part.ops if isinstance(part, Message) else (work.op for work in part.work):
            total[leaf] += often
    return total


def leaf_ops(program: Program) -> list[Op]:
    """The different ops of a program in order of appearance: what has to be priced."""
    seen: dict[Op, None] = {}
    for block in blocks(program):
        seen.update((work.op, None) for work in block.work)
    for message in program.ops:
        if isinstance(message, Message):
            seen.update((op, None) for op in message.ops)
    return list(seen)


def messages_among_kernels(program: Program) -> set[CommunicationOp]:
    """Those of blocks, and those between ranks that run beside them: not what is left when the kernels have ended."""
    found = {work.op for block in blocks(program) for work in block.work}
    found |= {op for message in program.ops if isinstance(message, Message) and message.beside for op in message.ops}
    return {op for op in found if isinstance(op, CommunicationOp)}


def blocks(program: Program) -> list[Block]:
    """The different blocks of a program, in order of appearance."""
    found: dict[int, Block] = {}
    for op in program.ops:
        if isinstance(op, Segment):
            found.update((id(block), block) for block, _ in op.blocks)
    return list(found.values())


def verify(program: Program) -> None:
    """Raise WorkloadError if a task waits for itself or a later task, or names an op that is not there."""
    faults = [fault for index, task in enumerate(program.tasks) for fault in _task_faults(index, task, program)]
    if faults:
        raise WorkloadError("program", faults[:10])


def _task_faults(index: int, task: Task, program: Program) -> list[str]:
    faults = [
        f"task {index} waits for task {earlier}, which is not an earlier one"
        for earlier in task.after
        if not 0 <= earlier < index
    ]
    if not 0 <= task.op < len(program.ops):
        faults.append(f"task {index} runs op {task.op} of {len(program.ops)}")
    if not 0 <= task.rank < program.ranks:
        faults.append(f"task {index} runs on rank {task.rank} of {program.ranks}")
    return faults


def streams(tasks: Tasks) -> dict[tuple[int, str], list[int]]:
    """(rank, stream) -> its tasks, in order."""
    queues: dict[tuple[int, str], list[int]] = {}
    for index, queue in enumerate(zip(tasks.ranks, tasks.streams, strict=True)):
        queues.setdefault(queue, []).append(index)
    return queues
