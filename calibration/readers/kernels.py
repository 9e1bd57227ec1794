"""Rows of tools that know kernels but no shapes: one for each kernel and place, its times summed up."""

import re
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from calibration.readers.record import Context
from calibration.table import Measurement

# Launchers whose template argument is the kernel's real name.
_WRAPPERS = ("cutlass::Kernel", "cutlass::Kernel2", "cutlass::device_kernel")
LONGEST = 120


class Run(NamedTuple):
    """One execution of a kernel, or of a copy of `bytes`; `place` says where, as `device 0, stream 7`."""

    name: str
    seconds: float
    place: str = ""
    bytes: float | None = None


def kernel_records(runs: Iterable[Run], context: Context) -> tuple[Measurement, ...]:
    """A row for each kernel, place and size; its time is the median. Runs of no duration are left out."""
    groups: dict[tuple[str, str, float | None], list[float]] = {}
    for run in runs:
        if run.seconds > 0:
            groups.setdefault((run.name, run.place, run.bytes), []).append(run.seconds)
    return tuple(_row(*key, times, context) for key, times in groups.items())


def _row(name: str, place: str, size: float | None, seconds: list[float], context: Context) -> Measurement:
    if size:
        way = name.removeprefix("memcpy ").replace(" ", "_")
        return summed(seconds, op="memcpy", context=context, kernel=way, bytes=size, notes=place or None)
    return summed(seconds, op="kernel", context=context, kernel=short_name(name), notes=notes(place, name))


def summed(seconds: list[float], *, op: str, context: Context, **columns: Any) -> Measurement:
    """A row with the median of the times, and from ten on the 10th and 90th percentile."""
    ordered = sorted(seconds)
    tenths = statistics.quantiles(ordered, n=10, method="inclusive") if len(ordered) >= 10 else None
    return Measurement(
        op=op,
        device=context.device or "",
        stack=context.stack or "",
        time_s=statistics.median(ordered),
        samples=len(ordered),
        time_p10_s=tenths[0] if tenths else None,
        time_p90_s=tenths[-1] if tenths else None,
        **columns,
    )


def notes(place: str, name: str) -> str | None:
    """Where it ran and its full name, where that says more than the short one."""
    parts = (place, name if name != short_name(name) else "")
    return "; ".join(part for part in parts if part) or None


def short_name(name: str) -> str:
    """Of a demangled name, what stands before template and call arguments: `void f<int>(int*)` -> `f`."""
    plain = re.sub(r"( \[clone [^\]]*\]|\.kd)+$", "", name.strip()).replace("(anonymous namespace)", "{anonymous}")
    cut = re.search(r"[<(]", plain)
    base = plain[: cut.start()].split()[-1] if cut and plain[: cut.start()].strip() else plain
    if base in _WRAPPERS and cut and plain[cut.start()] == "<":
        base = f"{base}<{re.split(r'[,>(]', plain[cut.end() :])[0].removeprefix('struct ').strip()}>"
    return base[:LONGEST]
