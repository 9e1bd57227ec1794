"""PyTorch profiler (Kineto), CUDA and ROCm, `.json` and `.json.gz`.

GEMMs come from `aten::mm` and its kin with their shapes (`record_shapes=True`), collectives from the facts that
PyTorch adds to NCCL kernels (2.3 and later) or to `record_param_comms`; everything else is a list of kernels.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from calibration.readers import kineto_comms, kineto_gemms
from calibration.readers.kernels import Run, kernel_records
from calibration.readers.kineto_trace import KERNEL, MEMCPY, MEMSET, Event, Trace, load
from calibration.readers.record import Context, Import

NAME = "kineto"
TITLE = "PyTorch profiler trace (Kineto), JSON"


def claims(head: str, path: Path) -> bool:
    """The key of its events, or of its schema in a file that begins with long facts."""
    del path
    return head.lstrip()[:1] in ("{", "[") and any(
        key in head for key in ('"traceEvents"', '"schemaVersion"', '"deviceProperties"', '"ph"')
    )


def read(path: Path, context: Context) -> Import:
    """Rows of GEMMs, of collectives, and of all other kernels and copies."""
    trace = load(path)
    left_out: Counter[str] = Counter()
    gemms, in_gemms = kineto_gemms.records(trace, context, left_out)
    collectives, in_collectives = kineto_comms.records(trace, context, left_out)
    others = (event for event in trace.of(KERNEL, MEMCPY, MEMSET) if id(event) not in in_gemms | in_collectives)
    runs = [_run(event, trace) for event in others]
    return Import(
        records=(*gemms, *collectives, *kernel_records(runs, context)),
        notes=(*_notes(trace), *(f"{count:,} x {what}" for what, count in left_out.items())),
    )


def _run(event: Event, trace: Trace) -> Run:
    size = event.arguments.get("bytes") if event.category == MEMCPY else None
    name = _copy_name(event.name) if event.category == MEMCPY else event.name
    return Run(name, event.seconds, _place(event, trace), float(size) if size else None)


def _copy_name(name: str) -> str:
    """`Memcpy HtoD (Pageable -> Device)` -> `memcpy host to device`; other names stay."""
    words = {"H": "host", "D": "device", "P": "peer"}
    short = name.removeprefix("Memcpy ").split(" ")[0]
    if len(short) == 4 and short[1:3] == "to" and {short[0], short[3]} <= set(words):
        return f"memcpy {words[short[0]]} to {words[short[3]]}"
    return name


def _place(event: Event, trace: Trace) -> str:
    stream = event.arguments.get("stream")
    parts = ("" if trace.rank is None else f"rank {trace.rank}", "" if stream is None else f"stream {stream}")
    return ", ".join(part for part in parts if part)


def _notes(trace: Trace) -> Iterator[str]:
    if not any(trace.of(KERNEL)):
        yield "no kernel of a GPU in this trace"
    elif all(event.start_ns % 1000 == event.end_ns % 1000 == 0 for event in trace.of(KERNEL)):
        yield "times are whole microseconds: short kernels are known no better"
    if any(event.is_communication for event in trace.events):
        yield "times of communication kernels include waiting for the slowest rank"
