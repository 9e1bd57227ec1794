"""Puts tasks on streams: the small amount of state that writing a program needs."""

from collections.abc import Iterable, Sequence

from workloads.graph import COMPUTE, Message, Program, Segment, Task


class Weave:
    """Tasks of a program in the making."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.ops: list[Segment | Message] = []
        self.tasks: list[Task] = []
        self._index: dict[int, int] = {}
        self._tail: dict[int, int] = {}

    def add(
        self,
        op: Segment | Message,
        rank: int,
        after: tuple[int, ...] = (),
        stream: str = COMPUTE,
        micro_batch: int = -1,
    ) -> int:
        """Queue `op` on a stream of `rank`; returns the task's index."""
        index = len(self.tasks)
        self.tasks.append(Task(self._op(op), rank, stream, after, micro_batch))
        if stream == COMPUTE:
            self._tail[rank] = index
        return index

    def messages(
        self, messages: Sequence[Message], rank: int, after: Iterable[int], stream: str, micro_batch: int = -1
    ) -> tuple[int, ...]:
        """Queue messages one after the other; returns what a reader of the last waits for."""
        wait = tuple(after)
        for message in messages:
            wait = (self.add(message, rank, wait, stream, micro_batch),)
        return wait

    def tail(self, rank: int) -> tuple[int, ...]:
        """The last computation queued on `rank`, if any."""
        return (self._tail[rank],) if rank in self._tail else ()

    def program(self) -> Program:
        """All that was queued."""
        return Program(ops=tuple(self.ops), tasks=tuple(self.tasks), ranks=self.ranks)

    def _op(self, op: Segment | Message) -> int:
        index = self._index.setdefault(id(op), len(self.ops))
        if index == len(self.ops):
            self.ops.append(op)
        return index
