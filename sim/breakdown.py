"""What a step's time is made of. The parts of every rank add up to the step; the figures are means over ranks."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.blocks import BlockTime
from sim.engine import Timeline
from workloads.graph import COMPUTE, Message, Program, Segment
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
    host_s: float,
) -> dict[str, float]:
    """Part -> seconds, a mean over ranks. Parts that are zero are left out.

    Args:
        task_seconds: of each task of the program, undisturbed.
        host_s: what the host adds at the end of a step.
    """
    total: dict[str, float] = {}
    taken = np.asarray(task_seconds)
    op_of, rank_of = np.array(program.tasks.ops), np.array(program.tasks.ranks)
    on_compute = np.array([stream == COMPUTE for stream in program.tasks.streams])
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
        idle = _gaps(timeline, mine[on_compute[mine]])
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


def _gaps(timeline: Timeline, compute: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Begin and end of the times in which a rank computes nothing, sorted."""
    begin = np.concatenate([[0.0], timeline.end_s[compute]])
    end = np.concatenate([timeline.start_s[compute], [timeline.seconds]])
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
