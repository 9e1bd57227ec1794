"""A step as a trace for Perfetto and chrome://tracing: a process for each stage, a row for each stream.

One forward and one backward segment of each stage are shown kernel by kernel, in rows below the streams.
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sim.result import Result
from workloads.graph import COMPUTE, Message, Segment, Work, streams
from workloads.ops import Attention, Collective, Exchange, Gemm, Op, Pointwise

Event = dict[str, Any]
MICRO = 1e6
NANOSECOND_DIGITS = 3  # of a microsecond

# Kernels of one segment, and of all of them: a trace should open in a browser.
MOST_OF_SEGMENT = 4_000
MOST_KERNELS = 40_000


def trace_text(result: Result) -> str:
    """The trace as JSON; the same result gives the same bytes."""
    return json.dumps(trace(result), separators=(",", ":"), allow_nan=False) + "\n"


def trace(result: Result) -> dict[str, Any]:
    """Trace events in order of time, behind the names of their rows."""
    rows = _rows(result)
    tasks = list(_task_events(result, rows))
    every = list(islice(_kernel_events(result, rows), MOST_KERNELS + 1))
    kernels = every[:MOST_KERNELS]
    events = sorted([*tasks, *kernels], key=lambda event: (event["ts"], event["pid"], event["tid"], -event["dur"]))
    return {
        "traceEvents": [*_names(result, rows, {(e["pid"], e["tid"]) for e in events}), *events],
        "displayTimeUnit": "ms",
        "otherData": {
            "model": result.job.model.name,
            "step_s": result.step_s,
            "tasks": len(tasks),
            "kernels": len(kernels),
            "kernels_cut": len(every) > MOST_KERNELS,
            "kernels_of": f"the first segment of each kind on each stage, {MOST_OF_SEGMENT} at most",
        },
    }


def _rows(result: Result) -> dict[str, int]:
    """Row -> thread id: computation first, then messages, then kernels by stream."""
    names = sorted({stream for _, stream in streams(result.program.tasks)} - {COMPUTE})
    inside = {work.stream for time in result.times.values() for work in time.block.work} - {COMPUTE}
    rows = [COMPUTE, *names, _kernel_row(COMPUTE), *(_kernel_row(name) for name in sorted(inside))]
    return {row: tid for tid, row in enumerate(rows)}


def _kernel_row(stream: str) -> str:
    return "kernels" if stream == COMPUTE else f"kernels, {stream}"


def _names(result: Result, rows: dict[str, int], used: set[tuple[int, int]]) -> Iterator[Event]:
    for stage in range(result.program.ranks):
        yield _name("process_name", stage, 0, name=f"stage {stage}")
        yield _name("process_sort_index", stage, 0, sort_index=stage)
        for row, tid in rows.items():
            if (stage, tid) in used:
                yield _name("thread_name", stage, tid, name=row)
                yield _name("thread_sort_index", stage, tid, sort_index=tid)


def _name(what: str, pid: int, tid: int, **args: object) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _task_events(result: Result, rows: dict[str, int]) -> Iterator[Event]:
    ops, timeline = result.program.ops, result.timeline
    starts, ends = timeline.start_s.tolist(), timeline.end_s.tolist()
    for task, start, end in zip(result.program.tasks, starts, ends, strict=True):
        op = ops[task.op]
        name = f"{op.dimension} {op.name}" if isinstance(op, Message) else op.name
        event = _event(name, task.rank, rows[task.stream], start, end)
        if task.micro_batch >= 0:
            event["args"] = {"micro_batch": task.micro_batch}
        yield event


def _event(name: str, pid: int, tid: int, start_s: float, end_s: float) -> Event:
    start, end = round(start_s * MICRO, NANOSECOND_DIGITS), round(end_s * MICRO, NANOSECOND_DIGITS)
    duration = round(end - start, NANOSECOND_DIGITS)
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": start, "dur": duration}


def _kernel_events(result: Result, rows: dict[str, int]) -> Iterator[Event]:
    for index in _shown_tasks(result):
        task = result.program.tasks[index]
        segment = result.program.ops[task.op]
        assert isinstance(segment, Segment)
        start, end = float(result.timeline.start_s[index]), float(result.timeline.end_s[index])
        # Blocks by themselves wait longer for their launches than together: the host is ahead in one, late in the next.
        apart_s = sum(count * result.times[id(block)].seconds for block, count in segment.blocks)
        stretch = (end - start) / apart_s if apart_s else 1.0
        for work, since, until in islice(_kernels(result, segment), MOST_OF_SEGMENT):
            row = rows[_kernel_row(work.stream)]
            yield _event(_op_name(work.op), task.rank, row, start + since * stretch, start + until * stretch)


def _shown_tasks(result: Result) -> list[int]:
    """The first segment of each phase (name) of each stage that belongs to a micro-batch."""
    first: dict[tuple[int, str], int] = {}
    for index, task in enumerate(result.program.tasks):
        op = result.program.ops[task.op]
        if isinstance(op, Segment) and task.stream == COMPUTE and task.micro_batch >= 0:
            first.setdefault((task.rank, op.name), index)
    return sorted(first.values())


def _kernels(result: Result, segment: Segment) -> Iterator[tuple[Work, float, float]]:
    """Work of a segment with its start and end, from the start of the segment."""
    at = 0.0
    for block, count in segment.blocks:
        played = result.times[id(block)]
        spans = list(zip(block.work, played.timeline.start_s.tolist(), played.timeline.end_s.tolist(), strict=True))
        for _ in range(count):
            yield from ((work, at + start, at + end) for work, start, end in spans)
            at += played.seconds


def _op_name(op: Op) -> str:
    match op:
        case Gemm():
            times = f"{op.batch} x " if op.batch > 1 else ""
            return f"gemm {op.layout} {times}{op.m} x {op.n} x {op.k}"
        case Attention():
            return f"attention {op.direction}"
        case Pointwise():
            return f"{op.op} {op.direction}"
        case Collective() | Exchange():
            return f"{op.op} over {op.ranks}"
    return "send_recv"
