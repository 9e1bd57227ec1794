"""What a step's time is made of. The parts of every rank add up to the step; the figures are means over ranks."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.blocks import BlockTime
from sim.engine import Timeline
from workloads import offload
from workloads.graph import COMPUTE, Message, Program, Segment, streams
from workloads.parallelism import data

# In the order in which reports show them.
PARTS = (
    "forward",
    "recompute",
    "backward",
    "optimizer",
    "interference",
    "launch",
    "exposed tp",
    "exposed cp",
    "exposed ep",
    "exposed pp",
    "exposed dp",
    "exposed offload",
    "bubble",
    "host",
)


def segment_parts(segment: Segment, times: Mapping[int, BlockTime]) -> dict[str, float]:
    """Seconds of a segment by part, launched in time and undisturbed."""
    parts: dict[str, float] = {}
    for block, count in segment.blocks:
        time = times[id(block)]
        _add(parts, block.phase, count * time.compute_s)
        _add(parts, "interference", count * time.interference_s)
        _add(parts, "launch", count * (time.launch_s - (time.seconds - time.gpu_s)))
        for stream, seconds in time.exposed_s.items():
            _add(parts, f"exposed {stream}", count * seconds)
    return parts


def breakdown(
    program: Program,
    times: Mapping[int, BlockTime],
    timeline: Timeline,
    task_seconds: Sequence[float],
    begin_s: Sequence[float],
    span_s: float,
    host_s: float,
) -> dict[str, float]:
    """Part -> seconds, a mean over ranks. Parts that are zero are left out.

    Args:
        task_seconds: of each task of the program, undisturbed.
        begin_s: when the step of each rank begins.
        span_s: how long it is from there, without `host_s`.
        host_s: what the host adds at the end of a step.
    """
    total: dict[str, float] = {}
    taken = np.asarray(task_seconds)
    op_of, rank_of = np.array(program.tasks.ops), np.array(program.tasks.ranks)
    on_compute = np.array([stream == COMPUTE for stream in program.tasks.streams])
    ready_s = _without_copies(program, timeline)
    of_data = np.array([dimension(op) == data.DIMENSION for op in program.ops])[op_of]
    op_parts = [segment_parts(op, times) if isinstance(op, Segment) else {} for op in program.ops]
    beyond = taken - np.array([sum(parts.values()) for parts in op_parts])[op_of]
    counts = np.bincount(op_of[on_compute], minlength=len(program.ops)).tolist()
    waited = np.bincount(op_of[on_compute], beyond[on_compute], minlength=len(program.ops)).tolist()
    for op, parts, count, seconds in zip(program.ops, op_parts, counts, waited, strict=True):
        for part, second in parts.items():
            _add(total, part, count * second)
        _add(total, "launch" if isinstance(op, Segment) else f"exposed {op.dimension}", seconds)
    for rank in range(program.ranks):
        mine = np.flatnonzero(rank_of == rank)
        computing = mine[on_compute[mine]]
        _add(total, "exposed offload", float((timeline.start_s - ready_s)[computing].sum()))
        idle = _gaps(timeline, ready_s, computing, (begin_s[rank], begin_s[rank] + span_s))
        exposed = _overlap(*idle, timeline, mine[~on_compute[mine]])
        exposed_data = _overlap(*idle, timeline, mine[of_data[mine]])
        _add(total, "exposed dp", exposed_data)
        _add(total, "exposed pp", exposed - exposed_data)
        _add(total, "bubble", float((idle[1] - idle[0]).sum()) - exposed)
    stretch = timeline.end_s - timeline.start_s - taken
    _add(total, "interference", float(stretch[on_compute].sum()))
    _add(total, "host", host_s * program.ranks)
    return {part: total[part] / program.ranks for part in PARTS if total.get(part, 0.0) > 1e-12}


def dimension(op: Segment | Message) -> str:
    """Of parallelism, for a message."""
    return op.dimension if isinstance(op, Message) else ""


def _without_copies(program: Program, timeline: Timeline) -> NDArray[np.float64]:
    """When each task would have started if it had not to wait for what is copied between the device and its host."""
    tasks, ready_s = program.tasks, timeline.start_s.copy()
    ops = {index for index, op in enumerate(program.ops) if dimension(op) == offload.DIMENSION}
    copies = {index for index, op in enumerate(tasks.ops) if op in ops}
    for queue in streams(tasks).values() if copies else ():
        for before, index in zip([None, *queue], queue, strict=False):
            if not copies.isdisjoint(tasks.after[index]):
                others = [before, *(earlier for earlier in tasks.after[index] if earlier not in copies)]
                ready_s[index] = max(0.0 if other is None else timeline.end_s[other] for other in others)
    return ready_s


def _gaps(
    timeline: Timeline, ready_s: NDArray[np.float64], compute: NDArray[np.intp], window_s: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Begin and end of the times within a window in which a rank computes nothing and waits for no copy, sorted."""
    begin = np.concatenate([[window_s[0]], timeline.end_s[compute]])
    end = np.concatenate([ready_s[compute], [window_s[1]]])
    idle = end > begin
    return begin[idle], end[idle]


def _overlap(
    begin: NDArray[np.float64], end: NDArray[np.float64], timeline: Timeline, messages: NDArray[np.intp]
) -> float:
    """Length of the intersection of disjoint sorted gaps with the union of the messages' times."""
    if not len(begin) or not len(messages):
        return 0.0
    order = np.argsort(timeline.start_s[messages], kind="stable")
    stop = np.maximum.accumulate(timeline.end_s[messages][order])
    start = np.maximum(timeline.start_s[messages][order], np.concatenate([[-np.inf], stop[:-1]]))
    return _covered(end, start, stop) - _covered(begin, start, stop)


def _covered(at: NDArray[np.float64], start: NDArray[np.float64], stop: NDArray[np.float64]) -> float:
    """Sum over points of how much of disjoint sorted intervals lies before each."""
    lengths = np.maximum(stop - start, 0.0)
    whole = np.concatenate([[0.0], np.cumsum(lengths)])
    place = np.searchsorted(stop, at, side="right")
    partial = np.zeros(len(at))
    inside = place < len(start)
    partial[inside] = np.maximum(at[inside] - start[place[inside]], 0.0)
    return float((whole[place] + partial).sum())


def _add(parts: dict[str, float], part: str, seconds: float) -> None:
    parts[part] = parts.get(part, 0.0) + seconds
