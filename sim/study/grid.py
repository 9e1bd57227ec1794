"""A study file: a job file with lists under `[grid]`, of which every combination is a point.

[grid]
"layout.tp" = [4, 8]          # or   [grid.layout]
"cluster.nodes" = [8, 16]     #      tp = [4, 8]
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from hardware.descriptor import DescriptorError, unknown
from sim.jobfile import Document, overridden, parts, read_document, with_values
from sim.jobtables import keys

MOST_POINTS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A job document, and the values of the grid by key such as `layout.tp`."""

    path: Path
    document: Document
    grid: Mapping[str, tuple[Any, ...]]

    def points(self) -> list[dict[str, Any]]:
        """Every combination, the last key changing fastest."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


def read_study(path: Path, settings: Iterable[str] = ()) -> Study:
    """Read and check a study: every value of the grid by itself. Raises DescriptorError with all faults."""
    document = dict(overridden(read_document(path), settings, str(path)))
    table = document.pop("grid", None)
    if not isinstance(table, Mapping) or not table:
        example = 'a table of lists, as in [grid] "layout.tp" = [4, 8]'
        raise DescriptorError(path, [f"grid: {'missing' if table is None else 'is empty'}; should be {example}"])
    grid = _flat(table)
    faults = list(_grid_faults(grid))
    if faults:
        raise DescriptorError(path, faults)
    study = Study(path=path, document=document, grid={key: tuple(values) for key, values in grid.items()})
    _check_values(study)
    return study


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _grid_faults(grid: Mapping[str, Any]) -> Iterator[str]:
    for key, values in grid.items():
        if key not in keys():
            yield f"grid: {unknown('key', key, keys())}"
        if not isinstance(values, list) or not values:
            yield f"grid.{key}: should be a list of one value or more"
    points = prod(len(values) for values in grid.values() if isinstance(values, list))
    if points > MOST_POINTS:
        yield f"grid: {points:,} points; {MOST_POINTS:,} at most is right"


def _check_values(study: Study) -> None:
    """Types and names of the job with the first values, then of each further value in its place."""
    first = {key: values[0] for key, values in study.grid.items()}
    faults: dict[str, None] = {}
    for changed in ({}, *({key: value} for key, values in study.grid.items() for value in values[1:])):
        try:
            document = with_values(study.document, first | changed)
            parts(document, str(study.path), study.path.parent)
        except DescriptorError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise DescriptorError(study.path, faults)
