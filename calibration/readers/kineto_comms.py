"""Collectives of a trace: NCCL kernels with the facts that PyTorch adds to them, or to the op that launched them."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from calibration.readers.kernels import summed
from calibration.readers.kineto_trace import KERNEL, Event, Trace
from calibration.readers.record import Context
from calibration.table import Measurement

# Beginning of PyTorch's name without `_` -> op, and which side is the whole vector.
OPS = {
    "allreduce": ("all_reduce", "In"),
    "allgather": ("all_gather", "Out"),
    "reducescatter": ("reduce_scatter", "In"),
    "alltoall": ("all_to_all", "In"),
    "broadcast": ("broadcast", "In"),
    "send": ("send_recv", "In"),
    "recv": ("send_recv", "Out"),
}
DTYPES = {
    "float": ("fp32", 4),
    "half": ("fp16", 2),
    "bfloat16": ("bf16", 2),
    "double": ("fp64", 8),
    "long": ("int64", 8),
    "int": ("int32", 4),
    "byte": ("int8", 1),
    "char": ("int8", 1),
    "float8_e4m3fn": ("fp8", 1),
    "float8_e5m2": ("fp8", 1),
}
WAITING = "includes waiting for the slowest rank"


class _Shape(NamedTuple):
    op: str
    dtype: str
    ranks: int
    bytes: float


def records(trace: Trace, context: Context, left_out: Counter[str]) -> tuple[list[Measurement], set[int]]:
    """Rows, one for each op, type, size and group size, and the ids of the kernel events that are in them."""
    facts = _facts(trace)
    times: dict[_Shape, list[float]] = {}
    used: set[int] = set()
    for event in trace.of(KERNEL):
        if event.is_communication:
            said = event.arguments if "Collective name" in event.arguments else facts.get(_identity(event), {})
            shape = _shape(said)
            if isinstance(shape, str):
                left_out[f"collective {shape}"] += 1
            else:
                times.setdefault(shape, []).append(event.seconds)
                used.add(id(event))
    notes = WAITING if trace.rank is None else f"rank {trace.rank}; {WAITING}"
    per_node = context.ranks_per_node
    return [
        summed(each, context=context, ranks_per_node=_at_most(per_node, shape.ranks), notes=notes, **shape._asdict())
        for shape, each in times.items()
    ], used


def _facts(trace: Trace) -> Mapping[Any, Mapping[str, Any]]:
    """By the id of the op: `record_param_comms` says what older kernels do not."""
    return {
        _identity(event): event.arguments
        for event in trace.of("cpu_op", "user_annotation")
        if event.name == "record_param_comms" and "Collective name" in event.arguments
    }


def _identity(event: Event) -> Any:
    return event.identity("External id")


def _shape(said: Mapping[str, Any]) -> _Shape | str:
    """Or why it is not known."""
    name = re.sub(r"[^a-z]", "", str(said.get("Collective name", "")).lower())
    known = next((OPS[each] for each in OPS if name.startswith(each)), None)
    if not name:
        return "that the trace says nothing of (PyTorch before 2.3): its kernel stays in the list"
    if known is None or "Group size" not in said:
        return f"{name}, which the table does not have: its kernel stays in the list"
    op, side = known
    kind, elements = str(said.get("dtype", "")).lower().removeprefix("c10::"), said.get(f"{side} msg nelems")
    if kind not in DTYPES or not isinstance(elements, int) or elements <= 0 or not isinstance(said["Group size"], int):
        return "without size or type: its kernel stays in the list"
    if not _is_even(said):
        return "with unequal shares: its kernel stays in the list"
    if said["Group size"] < 2:
        return "of one rank: its kernel stays in the list"
    dtype, element_bytes = DTYPES[kind]
    return _Shape(op, dtype, 2 if op == "send_recv" else said["Group size"], float(elements * element_bytes))


def _is_even(said: Mapping[str, Any]) -> bool:
    """Whether every rank sends and receives as much."""
    splits = (re.findall(r"\d+", str(said.get(f"{side} split size", ""))) for side in ("In", "Out"))
    return all(len(set(split)) <= 1 for split in splits) and "..." not in str(said.get("In split size", ""))


def _at_most(per_node: int | None, ranks: int) -> int | None:
    return min(per_node, ranks) if per_node else None
