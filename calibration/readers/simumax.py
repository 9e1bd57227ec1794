"""SimuMax: the system file that its measuring scripts write (`configs/system/*.json`), of all versions.

For each shape it holds a share of a peak rate, `efficiency = FLOPs / (time x tflops)`; the time comes back out of it.
What the scripts count as FLOPs, and how they take the time, stands in docs/tasks/import-measurements.md.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.readers.json_table import Pairs, json_table
from calibration.readers.record import Context, Import, ReaderError, skipped
from calibration.readers.simumax_shapes import SECTIONS, Cells, Found, Shape
from calibration.readers.text import text
from calibration.table import Measurement

NAME = "simumax"
TITLE = "SimuMax, system file (JSON)"
_MARKS = ('"sys_name"', '"accelerator"', '"efficient_factor"')
MOST_EFFICIENCY = 2.0  # attention counts what a causal mask hides; nothing else comes near


def claims(head: str, path: Path) -> bool:
    """The words that no other tool's JSON has."""
    del path
    return all(mark in head for mark in _MARKS)


def read(path: Path, context: Context) -> Import:
    """A row for each shape whose efficiency was measured."""
    document = json_table(path, text(path), "was it cut off?", _unrepeated)
    accelerator = _table(path, document, "accelerator")
    source = f"SimuMax {document.get('sys_name')}"
    left_out = Counter[str]()
    records = list[Measurement]()
    for name, section in _table(path, accelerator, "op", "accelerator").items():
        for found in _rows(path, name, section):
            if isinstance(found, Measurement):
                records.append(_placed(found, context, source))
            else:
                left_out[found] += 1
    left_out.update(_factors(document, accelerator))
    if not records:
        raise ReaderError(path, "has no shape with an efficiency of its own (accurate_efficient_factor)")
    return Import(records=tuple(records), notes=(*skipped(left_out), *_modes(records)))


def _rows(path: Path, name: str, section: Any) -> Iterator[Found]:
    where = f"accelerator.op.{name}"
    if not isinstance(section, dict):
        raise ReaderError(path, f"{where}: should be a table of keys and values")
    shapes = section.get("accurate_efficient_factor", {})
    if not isinstance(shapes, dict):
        raise ReaderError(path, f"{where}.accurate_efficient_factor: should be a table of shapes")
    if name not in SECTIONS:
        yield from [f"operator {name!r} is none of the table's"] * len(shapes)
        return
    known = SECTIONS[name]
    for key, efficiency in shapes.items():
        place = f"{where}: {key!r}"
        cells = _cells(path, place, key, known.keys)
        peak = _number(path, f"{where}.tflops", section.get("tflops"), math.inf) * 1e12
        share = _number(path, place, efficiency, MOST_EFFICIENCY)
        try:
            flops = known.flops(cells)
            yield known.row(Shape(cells, flops / (share * peak), known.dtype))
        except (KeyError, ValueError) as error:
            raise ReaderError(path, f"{place}: {error}") from None


def _placed(found: Measurement, context: Context, source: str) -> Measurement:
    """With what the file does not say."""
    kernel = context.kernel if found.op == "attention" else None
    notes = ", ".join(filter(None, (source, found.notes)))
    return replace(found, device=context.device or "", stack=context.stack or "", kernel=kernel, notes=notes)


def _factors(document: Mapping[str, Any], accelerator: Mapping[str, Any]) -> Counter[str]:
    """What the file holds beside shapes: one number for all sizes is no measurement of any of them."""
    memory, networks = accelerator.get("bandwidth"), document.get("networks")
    fabrics = (
        [each.get("op") for each in networks.values() if isinstance(each, dict)] if isinstance(networks, dict) else []
    )
    collectives = sum(len(each) for each in fabrics if isinstance(each, dict))
    counts = {
        "a share of the memory bandwidth without a shape": len(memory) if isinstance(memory, dict) else 0,
        "bandwidth and latency fitted to a collective, no size measured": collectives,
    }
    return Counter({reason: count for reason, count in counts.items() if count})


def _modes(records: Sequence[Measurement]) -> Iterator[str]:
    count = sum(row.mode == "loop" for row in records)
    if count:
        yield f"{count:,} of the rows are loops of unknown clock (mode loop): nothing is fitted to them"


def _unrepeated(pairs: Pairs) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return found


def _table(path: Path, document: Mapping[str, Any], name: str, where: str = "") -> dict[str, Any]:
    found = document.get(name)
    if not isinstance(found, dict):
        raise ReaderError(path, f"{where + '.' if where else ''}{name}: missing, or no table of keys and values")
    return found


def _cells(path: Path, place: str, key: str, names: str) -> Cells:
    """The words of a key, `b=1, m=4096, ...`: these names, each once."""
    pairs = [part.partition("=") for part in re.split(r",\s*", key)]
    if sorted(name.strip() for name, _, _ in pairs) != sorted(names.split()):
        raise ReaderError(path, f"{place}: should name {', '.join(names.split())}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _number(path: Path, place: str, value: Any, most: float) -> float:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not 0.0 < number <= most or math.isinf(number):
        raise ReaderError(path, f"{place} = {value!r}: should be a number above 0{_up_to(most)}")
    return number


def _up_to(most: float) -> str:
    return "" if math.isinf(most) else f", at most {most:g}"
