"""What a run of nccl-tests has said so far, and the checks that each of its rows has to pass."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from calibration.readers.record import Context, ReaderError
from calibration.readers.text import Line, number, positive
from calibration.table import Measurement

DTYPES = {
    "float": ("fp32", 4),
    "half": ("fp16", 2),
    "bfloat16": ("bf16", 2),
    "bf16": ("bf16", 2),
    "double": ("fp64", 8),
    **dict.fromkeys(("fp8_e4m3", "fp8_e5m2", "f8e4m3", "f8e5m2", "fp8"), ("fp8", 1)),
    **dict.fromkeys(("int8", "uint8", "char"), ("int8", 1)),
    **dict.fromkeys(("int32", "uint32", "int"), ("int32", 4)),
    **dict.fromkeys(("int64", "uint64"), ("int64", 8)),
}
# What a file or a program name says -> op of the table; None: the table has no such op.
OPS: Mapping[str, str | None] = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "alltoallv": None,
    "broadcast": "broadcast",
    "sendrecv": "send_recv",
    "hypercube": None,
    "gather": None,
    "scatter": None,
    "reduce": None,
}
# Bus bandwidth over algorithm bandwidth, by which the name of the op is checked.
BUS: Mapping[str, Callable[[int], float]] = {
    "all_reduce": lambda ranks: 2 * (ranks - 1) / ranks,
    "all_gather": lambda ranks: (ranks - 1) / ranks,
    "reduce_scatter": lambda ranks: (ranks - 1) / ranks,
    "all_to_all": lambda ranks: (ranks - 1) / ranks,
    "broadcast": lambda _: 1.0,
    "send_recv": lambda _: 1.0,
}
_UNSAID = "does not name its collective: give the op"


@dataclass
class Log:
    """What the lines so far have said."""

    path: Path
    context: Context
    op_name: str
    iterations: int | None = None
    in_place_only: bool = False
    in_graph: bool = False
    columns: list[str] = field(default_factory=list)
    ranks: dict[int, tuple[str, str, str, str]] = field(default_factory=dict)  # rank -> group, pid, host, device
    rows_seen: bool = False
    finished: bool = False


def op_in(name: str) -> str:
    """The collective that a file name names: `nccl_all_reduce-8.log`; empty if none."""
    for known in sorted(OPS, key=len, reverse=True):
        words = re.sub(r"(all|to|reduce|send)(?=.)", r"\1[_-]?", known)
        if re.search(rf"(?<![a-z]){words}(?![a-z])", name.lower()):
            return known
    return ""


def letters(name: str) -> str:
    """The letters of a name, small: versions differ in `_` and capitals."""
    return re.sub(r"[^a-z]", "", name.lower())


def checked_row(
    log: Log, line: Line, size: int, count: int, kind: str, block: tuple[str, str, str, str]
) -> Measurement | str:
    """A row of the table from one of results, or why there is none; `block` is time, algbw, busbw, wrong."""
    time, algbw, busbw, wrong = block
    if size == 0:
        return "size 0"
    op, ranks = _op(log, line), _ranks(log, line)
    if op is None:
        return f"{log.op_name} is no op of the table"
    if kind not in DTYPES:
        raise ReaderError(log.path, f"type {kind!r}: should be one of {', '.join(DTYPES)}", line.number)
    if wrong.isdigit() and int(wrong) > 0 and "wrong" in log.columns:
        return "wrong results"
    seconds = positive(log.path, line.number, "time", time) * 1e-6
    rate, bus_rate = (number(log.path, line.number, "bandwidth", each) for each in (algbw, busbw))
    fault = (
        _size_fault(size, count, DTYPES[kind][1], ranks)
        or _rate_fault(size, seconds, rate)
        or _bus_fault(op, ranks, rate, bus_rate)
    )
    if fault:
        raise ReaderError(log.path, fault, line.number)
    if "e" in time and rate > 1:  # 1.2e+06: the bandwidth has more digits
        seconds = size / rate / 1e9
    return _record(log, op, size, kind, seconds, ranks)


def _record(log: Log, op: str, size: int, kind: str, seconds: float, ranks: int) -> Measurement:
    return Measurement(
        op=op,
        dtype=DTYPES[kind][0],
        device=log.context.device or "",
        stack=log.context.stack or "",
        ranks=ranks,
        ranks_per_node=log.context.ranks_per_node or _per_node(log.ranks),
        bytes=float(size),
        time_s=seconds,
        samples=log.iterations,
        notes=", ".join(_circumstances(log)) or None,
    )


def _circumstances(log: Log) -> Iterator[str]:
    if log.in_place_only:
        yield "in place"
    if log.in_graph:  # small sizes take half the time of a launch
        yield "launched by a graph"


def _op(log: Log, line: Line) -> str | None:
    name = letters(log.op_name)
    if name not in OPS:
        what = f"{log.op_name!r} is no collective of nccl-tests" if name else _UNSAID
        raise ReaderError(log.path, f"{what}; one of {', '.join(op for op in OPS.values() if op)}", line.number)
    return OPS[name]


def _ranks(log: Log, line: Line) -> int:
    """Ranks of one communicator: of each group, where there are several."""
    if not log.ranks:
        raise ReaderError(log.path, "no list of ranks before the results: cannot tell how many took part", line.number)
    if sorted(log.ranks) != list(range(len(log.ranks))):
        raise ReaderError(log.path, f"ranks {sorted(log.ranks)} are listed: some are missing", line.number)
    sizes = set(Counter(group for group, *_ in log.ranks.values()).values())
    if len(sizes) > 1:
        raise ReaderError(log.path, f"groups of {sorted(sizes)} ranks in one run: cannot be told apart", line.number)
    return sizes.pop()


def _per_node(ranks: Mapping[int, tuple[str, str, str, str]]) -> int | None:
    """Ranks of one group on each host, where all hosts have equally many."""
    first = min(group for group, *_ in ranks.values())
    mine = {(host, device) for group, _, host, device in ranks.values() if group == first}
    on_host = set(Counter(host for host, _ in mine).values())
    return on_host.pop() if len(on_host) == 1 else None


def _size_fault(size: int, count: int, element_bytes: int, ranks: int) -> str:
    if size in (count * element_bytes, count * element_bytes * ranks):
        return ""
    return f"size {size} is not count {count} x {element_bytes} bytes (x {ranks} ranks): the row is damaged"


def _rate_fault(size: int, seconds: float, algbw: float) -> str:
    """The bandwidth that is printed has two decimals, the time down to two digits."""
    rate = size / seconds / 1e9
    if abs(rate - algbw) <= 0.006 + 0.06 * rate:
        return ""
    return f"algbw {algbw:g} GB/s does not fit {size} bytes in {seconds * 1e6:g} us: the row is damaged"


def _bus_fault(op: str, ranks: int, algbw: float, busbw: float) -> str:
    expected = BUS[op](ranks)
    if algbw < 1 or abs(busbw / algbw - expected) <= 0.03:
        return ""
    return f"busbw / algbw is {busbw / algbw:.3f}; {op} on {ranks} ranks has {expected:.3f}: another collective?"
