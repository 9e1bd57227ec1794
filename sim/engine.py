"""Plays tasks on streams: in-order queues, one simpy process each.

Two things make it fast without making it less exact:

- A stream runs ahead of the clock. The end of a task that nothing can slow down is known as soon as its
  start is, so it is published at once, and a process blocks only on ends that nobody has published yet.
- Only tasks that communication of their own rank can run beside are played in simulated time, at a rate:
  a collective holds some SMs for itself, so computation beside it goes on at `compute_rate`.

Ties are broken by the order of the tasks; the same input gives the same output to the last bit.
"""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress

import numpy as np
import simpy
from numpy.typing import NDArray

from workloads.graph import COMPUTE, Tasks, streams

Events = Generator[simpy.Event, float, None]
UNKNOWN = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When each task started and ended, in seconds from the start of the step."""

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return float(self.end_s.max(initial=0.0))


def play(
    tasks: Tasks,
    seconds: Sequence[float],
    *,
    beside: Collection[str] = (),
    compute_rate: float = 1.0,
) -> Timeline:
    """Play `tasks`, task i taking `seconds[i]` when undisturbed.

    Args:
        beside: streams whose tasks slow down computation of the same rank.
        compute_rate: progress of computation while they do, 0..1.
    """
    board = _Board(tasks, seconds)
    queues = streams(tasks)
    contended = frozenset(beside) if compute_rate < 1.0 else frozenset()
    ranks = {rank: _Rank(board.env, compute_rate) for rank, _ in queues}
    for (rank, stream), queue in queues.items():
        if stream in contended:
            board.env.process(_communicate(board, queue, ranks[rank]))
            continue
        process = board.env.process(_run(board, queue, ranks[rank]))
        messages = [queues[rank, name] for name in contended if (rank, name) in queues]
        if stream == COMPUTE and messages:
            ranks[rank].process, ranks[rank].shared = process, _shared(tasks.after, queue, messages)
    board.env.run()
    return Timeline(start_s=np.array(board.start_s), end_s=np.array(board.end_s))


class _Board:
    """Where streams publish when their tasks end."""

    def __init__(self, tasks: Tasks, seconds: Sequence[float]) -> None:
        self.env = simpy.Environment()
        self.after = tasks.after
        self.seconds = seconds
        self.start_s = [UNKNOWN] * len(tasks)
        self.end_s = [UNKNOWN] * len(tasks)
        self.waiting: dict[int, list[simpy.Event]] = {}

    def publish(self, index: int, start_s: float, end_s: float) -> None:
        """Tell everybody who waits for the task."""
        self.start_s[index] = start_s
        self.end_s[index] = end_s
        for event in self.waiting.pop(index, ()):
            event.succeed(end_s)

    def announcement(self, index: int) -> simpy.Event:
        """Happens when the end of the task is known; its value is that end."""
        event = self.env.event()
        self.waiting.setdefault(index, []).append(event)
        return event

    def ready(self, index: int, clock: float) -> Generator[simpy.Event, float, float]:
        """When the task can start: not before `clock`, nor before what it waits for has ended."""
        for earlier in self.after[index]:
            end = self.end_s[earlier]
            if end == UNKNOWN:
                end = yield self.announcement(earlier)
            clock = max(clock, end)
        return clock


class _Rank:
    """A rank whose communication slows its computation."""

    def __init__(self, env: simpy.Environment, compute_rate: float) -> None:
        self.env = env
        self.compute_rate = compute_rate
        self.messages = 0
        self.process: simpy.Process | None = None
        self.shared: frozenset[int] = frozenset()
        self.computing = False
        self.told = False

    def change(self, messages: int) -> None:
        """One more or one fewer message under way: computation goes on at another rate."""
        before = self.messages
        self.messages += messages
        changed = bool(before) != bool(self.messages)
        if changed and self.computing and not self.told and self.process is not None:
            # One interrupt a moment: a message that ends as the next one starts must not leave a second one behind.
            self.told = True
            self.process.interrupt()

    @property
    def rate(self) -> float:
        """Progress of computation now."""
        return self.compute_rate if self.messages else 1.0


def _run(board: _Board, queue: Sequence[int], rank: _Rank) -> Events:
    """A stream that runs ahead of the clock, but for the tasks that messages of its rank can slow down."""
    clock, end_s, after, seconds = 0.0, board.end_s, board.after, board.seconds
    waiting, start_s, shared = board.waiting, board.start_s, rank.shared
    for index in queue:
        for earlier in after[index]:
            end = end_s[earlier]
            if end == UNKNOWN:
                end = yield board.announcement(earlier)
            if end > clock:  # noqa: PLR1730 - a third of the time of a large step is spent in this loop
                clock = end
        start_s[index] = clock
        if index in shared:
            yield from _progress(rank, clock, seconds[index])
            clock = board.env.now
        else:
            clock += seconds[index]
        end_s[index] = clock
        if index in waiting:
            for event in waiting.pop(index):
                event.succeed(clock)


def _communicate(board: _Board, queue: Sequence[int], rank: _Rank) -> Events:
    """A stream of messages that slow down computation of their rank."""
    env = board.env
    for index in queue:
        start = yield from board.ready(index, env.now)
        if start > env.now:
            yield env.timeout(start - env.now)
        rank.change(+1)
        yield env.timeout(board.seconds[index])
        rank.change(-1)
        board.publish(index, start, env.now)


def _progress(rank: _Rank, start: float, left: float) -> Events:
    """Wait until `start`, then until `left` seconds of undisturbed work are done, at changing rates."""
    env = rank.env
    if start > env.now:
        yield env.timeout(start - env.now)
    while left > 0.0:
        begun, rate, rank.computing = env.now, rank.rate, True
        try:
            yield env.timeout(left / rate)
            left = 0.0
        except simpy.Interrupt:
            rank.told = False
            left -= (env.now - begun) * rate
    rank.computing = False


def _shared(
    after: Sequence[tuple[int, ...]], compute: Sequence[int], messages: Sequence[Sequence[int]]
) -> frozenset[int]:
    """Which tasks of a compute queue a message of their rank can run beside.

    A message runs behind the last computation that it waits for and before the first that waits for it.
    """
    position = dict(zip(compute, range(len(compute)), strict=True))
    readers = {earlier: position[index] for index in reversed(compute) for earlier in after[index]}
    change = [0] * (len(compute) + 1)
    for queue in messages:
        gate = -1
        for index in queue:
            gate = max([gate, *(position.get(earlier, -1) for earlier in after[index])])
            until = readers.get(index, len(compute))
            if gate + 1 < until:
                change[gate + 1] += 1
                change[until] -= 1
    return frozenset(compress(compute, accumulate(change)))
