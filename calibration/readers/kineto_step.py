"""A trace as a step: how long, and what it is made of, in the words of `steptime run`.

Forward and backward cannot be told apart on the GPU, so they are `compute`; so are recomputation and optimizer.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from calibration.readers.kineto_trace import KERNEL, MEMCPY, MEMSET, Event, Trace, load
from calibration.readers.record import ReaderError

Intervals = list[tuple[int, int]]
# What the name or the description of a process group says of its dimension.
DIMENSIONS = {
    "tp": r"tp|tensor|sequence_parallel",
    "pp": r"pp|pipeline|pipe",
    "dp": r"dp|data|fsdp|ddp|shard|replicate|zero",
    "cp": r"cp|context|ulysses",
    "ep": r"ep|expert",
}
UNKNOWN = "exposed communication"
# Parts of `steptime run` that a trace shows as one.
MERGED = {
    **dict.fromkeys(("forward", "recompute", "backward", "optimizer", "interference"), "compute"),
    **dict.fromkeys(("bubble", "launch", "host"), "idle"),
}
_STEP = re.compile(r"ProfilerStep#(\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTrace:
    """The mean step of one rank.

    Args:
        rank: None where the trace does not say.
        step_s: mean over `steps`.
        steps: how many steps were averaged; 0 if the trace marks none and its whole span is taken for one.
        breakdown: part -> seconds, adding up to `step_s`: `compute`, `exposed tp` and so on, `exposed
            communication` of groups whose dimension is not known, `memcpy`, `idle`.
        communication_s: time in which a communication kernel ran, hidden or not.
        notes: what to know of the figures.
    """

    rank: int | None
    step_s: float
    steps: int
    breakdown: Mapping[str, float]
    communication_s: float
    notes: tuple[str, ...] = ()


def step_breakdown(path: str | Path) -> StepTrace:
    """The step that a trace of PyTorch's profiler shows. Raises ReaderError.

    With several marked steps it is the time from the end of the first one's last kernel to that of the last one's;
    the first step fills the queue. With one it is from where the host begins it until its last kernel ends.
    """
    trace = load(Path(path))
    work = [event for event in trace.of(KERNEL, MEMCPY, MEMSET) if event.end_ns > event.start_ns]
    if not work:
        raise ReaderError(path, "no kernel of a GPU in this trace: record ProfilerActivity.CUDA")
    window, steps, notes = _window(trace, work)
    parts = _parts(work, window)
    count = max(steps, 1)
    communication = _clipped((event for event in work if event.is_communication), window)
    return StepTrace(
        rank=trace.rank,
        step_s=(window[1] - window[0]) * 1e-9 / count,
        steps=steps,
        breakdown={part: length * 1e-9 / count for part, length in parts.items() if length},
        communication_s=_length(communication) * 1e-9 / count,
        notes=notes,
    )


def as_in_a_trace(breakdown: Mapping[str, float]) -> dict[str, float]:
    """A breakdown of `steptime run` in the words of a trace, to lay the two side by side."""
    parts: dict[str, float] = {}
    for part, seconds in breakdown.items():
        word = MERGED.get(part, part)
        parts[word] = parts.get(word, 0.0) + seconds
    return parts


def _window(trace: Trace, work: list[Event]) -> tuple[tuple[int, int], int, tuple[str, ...]]:
    """From when to when, how many steps that are, and what is to be said of it."""
    marks = sorted((event.start_ns, event.end_ns) for event in trace.of("user_annotation") if _STEP.match(event.name))
    ends = _last_ends(trace, work, marks)
    if ends:
        first, last = min(ends), max(ends)
        if first < last and ends[first] < ends[last]:
            return (ends[first], ends[last]), last - first, ("the first marked step is left out",)
        window = (marks[first][0], max(ends[first], marks[first][1]))
        return window, 1, ("one step with kernels is marked: the queue of the GPU fills in it",)
    span = (min(event.start_ns for event in work), max(event.end_ns for event in work))
    return span, 0, ("no ProfilerStep is marked: the whole trace is taken for one step",)


def _last_ends(trace: Trace, work: list[Event], marks: Intervals) -> dict[int, int]:
    """Step -> when the last kernel that it launched ends; steps that launch none are left out."""
    launches = {
        event.identity("correlation"): event.start_ns
        for event in trace.of("cuda_runtime", "cuda_driver", "hip_runtime", "privateuse1_runtime")
        if event.identity("correlation") is not None
    }
    ends: dict[int, int] = {}
    ordered = sorted((launches.get(event.identity("correlation"), event.start_ns), event.end_ns) for event in work)
    at = 0
    for launched, end in ordered:
        while at < len(marks) and launched >= marks[at][1]:
            at += 1
        if at < len(marks) and launched >= marks[at][0]:
            ends[at] = max(ends.get(at, 0), end)
    return ends


def _parts(work: list[Event], window: tuple[int, int]) -> dict[str, int]:
    """Nanoseconds of each part; what runs at the same time counts for the first that has it."""
    kinds: dict[str, list[Event]] = {"compute": []}
    for event in work:
        kinds.setdefault(_part(event), []).append(event)
    kinds["memcpy"] = kinds.pop("memcpy", [])  # last
    busy: Intervals = []
    parts: dict[str, int] = {}
    for part, events in kinds.items():
        both = _union([*busy, *_clipped(events, window)])
        parts[part] = _length(both) - _length(busy)
        busy = both
    parts["idle"] = window[1] - window[0] - _length(busy)
    return parts


def _part(event: Event) -> str:
    if event.category == MEMCPY:
        return "memcpy"
    if not event.is_communication:
        return "compute"
    group = " ".join(str(event.arguments.get(f"Process Group {what}", "")) for what in ("Description", "Name")).lower()
    for dimension, pattern in DIMENSIONS.items():
        if re.search(rf"(?:^|[^a-z])(?:{pattern})(?:$|[^a-z])", group.replace("_", " ")):
            return f"exposed {dimension}"
    return UNKNOWN


def _clipped(events: Iterable[Event], window: tuple[int, int]) -> Intervals:
    start, end = window
    return _union(
        (max(event.start_ns, start), min(event.end_ns, end))
        for event in events
        if event.end_ns > start and event.start_ns < end
    )


def _union(intervals: Iterable[tuple[int, int]]) -> Intervals:
    """Without overlaps, in order."""
    joined: Intervals = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _length(intervals: Intervals) -> int:
    return sum(end - start for start, end in intervals)
