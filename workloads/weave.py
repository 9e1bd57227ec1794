"""Puts tasks on streams: the small amount of state that writing a program needs."""

from workloads.graph import COMPUTE, Message, Program, Segment, Tasks


class Weave:
    """Tasks of a program in the making."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.tasks = Tasks([], [], [], [], [])
        self._ops: dict[Segment | Message, int] = {}
        self._tail: dict[int, int] = {}

    def add(
        self,
        op: Segment | Message,
        rank: int,
        after: tuple[int, ...] = (),
        stream: str = COMPUTE,
        micro_batch: int = -1,
    ) -> tuple[int]:
        """Queue `op` on a stream of `rank`; returns what a task that needs its outcome waits for."""
        tasks, index = self.tasks, len(self.tasks.ops)
        tasks.ops.append(self._ops.setdefault(op, len(self._ops)))
        tasks.ranks.append(rank)
        tasks.streams.append(stream)
        tasks.after.append(after)
        tasks.micro_batches.append(micro_batch)
        if stream == COMPUTE:
            self._tail[rank] = index
        return (index,)

    def tail(self, rank: int) -> tuple[int, ...]:
        """The last task queued on the compute stream of `rank`, if any."""
        return (self._tail[rank],) if rank in self._tail else ()

    def program(self) -> Program:
        """All that was queued."""
        return Program(ops=tuple(self._ops), tasks=self.tasks, ranks=self.ranks)
