"""PyTorch's trace files (Kineto, Chrome format) as events in whole nanoseconds."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from calibration.readers.record import ReaderError
from calibration.readers.text import text

SCHEMA_VERSIONS = (1,)
LATEST_US = 10**17  # today is less than 2 * 10**15 after 1970
KERNEL, MEMCPY, MEMSET = "kernel", "gpu_memcpy", "gpu_memset"
# Old traces write these.
CATEGORIES = {"memcpy": MEMCPY, "memset": MEMSET, "runtime": "cuda_runtime", "operator": "cpu_op"}
NCCL = re.compile(r"nccl|rccl|mscclKernel", re.IGNORECASE)
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[\]}])')


@dataclass(frozen=True, slots=True)
class Event:
    """A complete event; `start_ns` counts from the trace's own zero."""

    name: str
    category: str
    start_ns: int
    end_ns: int
    arguments: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """Its duration."""
        return (self.end_ns - self.start_ns) * 1e-9

    def identity(self, key: str) -> int | str | None:
        """`External id` or `correlation`; None where it is neither number nor text."""
        value = self.arguments.get(key)
        return value if isinstance(value, int | str) else None

    @property
    def is_communication(self) -> bool:
        """A kernel of NCCL or RCCL."""
        return self.category == KERNEL and bool(NCCL.search(self.name) or "Collective name" in self.arguments)


@dataclass(frozen=True, slots=True)
class Trace:
    """The events of one rank with a duration."""

    path: Path
    rank: int | None
    events: tuple[Event, ...]

    def of(self, *categories: str) -> Iterator[Event]:
        """Those of some categories."""
        return (event for event in self.events if event.category in categories)


def load(path: Path) -> Trace:
    """The trace in a file, packed or not. Raises ReaderError."""
    document = _document(path, text(path))
    version = document.get("schemaVersion", 1)
    if version not in SCHEMA_VERSIONS:
        raise ReaderError(path, f"schemaVersion {version}: known is {', '.join(map(str, SCHEMA_VERSIONS))}")
    events = document.get("traceEvents")
    if not isinstance(events, list):
        raise ReaderError(path, "no list traceEvents: is no trace of PyTorch's profiler")
    rank = (document.get("distributedInfo") or {}).get("rank")
    found = (_event(path, place, event) for place, event in enumerate(events))
    return Trace(path, rank, tuple(event for event in found if event))


def _document(path: Path, content: str) -> dict[str, Any]:
    try:
        document = _parsed(content)
    except json.JSONDecodeError as first:
        # A comma too many does not change what is said; a file that was cut off stays an error.
        try:
            document = _parsed(_STRING_OR_COMMA.sub(lambda match: match[1] or "", content))
        except json.JSONDecodeError:
            fault = f"is no valid JSON ({first.msg}): was the trace cut off?"
            raise ReaderError(path, fault, first.lineno) from None
    except RecursionError:
        raise ReaderError(path, "is nested too deeply") from None
    if isinstance(document, list):  # Chrome's other form
        return {"traceEvents": document}
    if not isinstance(document, dict):
        raise ReaderError(path, "should be a table of keys and values")
    return document


def _parsed(content: str) -> Any:
    # Times of 1.7e15 us do not fit a float to the nanosecond.
    return json.loads(content, strict=False, parse_float=Decimal)


def _event(path: Path, place: int, event: Any) -> Event | None:
    """An event with a duration; None for another."""
    if not isinstance(event, dict) or event.get("ph") != "X" or event.get("dur") is None:
        return None
    category = str(event.get("cat", "")).lower()
    arguments = event.get("args")
    start, duration = (_nanoseconds(path, place, key, event.get(key)) for key in ("ts", "dur"))
    if duration < 0:
        raise ReaderError(path, f"traceEvents[{place}]: dur = {event['dur']}: below zero")
    return Event(
        name=str(event.get("name", "")),
        category=CATEGORIES.get(category, category),
        start_ns=start,
        end_ns=start + duration,
        arguments=arguments if isinstance(arguments, dict) else {},
    )


def _nanoseconds(path: Path, place: int, key: str, value: Any) -> int:
    """Microseconds, as a number, to nanoseconds."""
    try:
        if isinstance(value, str | bool):
            raise TypeError
        if abs(Decimal(value)) > LATEST_US:
            raise ValueError
        return round(Decimal(value) * 1000)
    except (TypeError, InvalidOperation, ValueError, OverflowError):
        raise ReaderError(path, f"traceEvents[{place}]: {key} = {value!r}: should be microseconds") from None
