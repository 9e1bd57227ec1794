"""Errors of compared rows summed up: by source, by device, by stack, by size of the model."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

Record = dict[str, object]
Rows = Sequence[Mapping[str, object]]

# Parameters below which a model is of a class; the classes are those by which clusters are bought and rented:
# a few GPUs, a node, some nodes, many nodes.
SIZES = ((3e9, "below 3B"), (15e9, "3B to 15B"), (80e9, "15B to 80B"), (math.inf, "80B and more"))
UNKNOWN_SIZE = "not known"
UNSTATED = "not stated"
COUNTS = ("n", "skipped", "memory_n", "fits_n")


def summary(rows: Rows) -> list[Record]:
    """Figures for each source, then for all rows, then for all sources with equal weight."""
    each = _grouped("source", rows, lambda row: str(row["source"]))
    return [*each, {"source": "all rows"} | figures(rows), _equal_weight(each)]


def by_device(rows: Rows) -> list[Record]:
    """Figures for each device, by name."""
    return _grouped("device", rows, lambda row: str(row["device"]))


def by_stack(rows: Rows) -> list[Record]:
    """Figures for each training stack, by name."""
    return _grouped("stack", rows, lambda row: str(row["stack"] or UNSTATED))


def by_size(rows: Rows) -> list[Record]:
    """Figures for each class of model size, small ones first."""
    order = [name for _, name in SIZES] + [UNKNOWN_SIZE]
    found = _grouped("size", rows, lambda row: size_class(row.get("parameters")))
    return sorted(found, key=lambda one: order.index(str(one["size"])))


def size_class(parameters: object) -> str:
    """`3B to 15B` for 3e9 up to, but without, 15e9 parameters."""
    if not isinstance(parameters, int | float):
        return UNKNOWN_SIZE
    return next(name for limit, name in SIZES if parameters < limit)


def figures(rows: Iterable[Mapping[str, object]]) -> Record:
    """Counts and error figures of some rows; None where no row has what a figure is of."""
    chosen = list(rows)
    errors = [row["error"] for row in chosen if isinstance(row["error"], float)]
    memory = [error for row in chosen if isinstance(error := row.get("memory_error"), float)]
    decided = [row["ran"] == row["fits"] for row in chosen if "fits" in row]
    inside = [bool(row["inside"]) for row in chosen if "inside" in row]
    return {
        "n": len(errors),
        "skipped": sum(row["skipped"] is not None for row in chosen),
        **_error_figures(errors),
        "inside_interval": mean([float(one) for one in inside]),
        "memory_n": len(memory),
        "memory_mean_abs_error": mean([abs(error) for error in memory]),
        "fits_n": len(decided),
        "fits_right": mean([float(right) for right in decided]),
    }


def mean(values: Sequence[float]) -> float | None:
    """None of no values."""
    return math.fsum(values) / len(values) if values else None


def _grouped(name: str, rows: Rows, group: Callable[[Mapping[str, object]], str]) -> list[Record]:
    members: dict[str, list[Mapping[str, object]]] = {}
    for row in rows:
        members.setdefault(group(row), []).append(row)
    return [{name: key} | figures(members[key]) for key in sorted(members)]


def _error_figures(errors: Sequence[float]) -> Record:
    absolute = [abs(error) for error in errors]
    return {
        "median_abs_error": statistics.median(absolute) if absolute else None,
        "mean_abs_error": mean(absolute),
        "bias": mean(errors),
        "within_5": mean([float(error <= 0.05) for error in absolute]),
        "within_10": mean([float(error <= 0.10) for error in absolute]),
        "within_20": mean([float(error <= 0.20) for error in absolute]),
    }


def _equal_weight(each: Sequence[Record]) -> Record:
    """The mean over sources of what they have in common, so that a large one does not drown the rest."""
    found: Record = {"source": "each source with equal weight"}
    for key in each[0]:
        if key != "source":
            values = [float(v) for one in each if isinstance(v := one[key], int | float)]
            found[key] = math.fsum(values) if key in COUNTS else mean(values)
    return found
