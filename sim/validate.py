"""Predictions against measurements: a table of published runs in, errors out. Nothing is fitted here."""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware.descriptor import DescriptorError
from sim.result import Result
from sim.rows import REQUIRED, Row, SkippedRowError, job_of, positive
from sim.step import simulate

GIB = 2.0**30
PUBLISHED = Path(__file__).parent / "published" / "runs.csv"
MANY_ROWS = 100
Record = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Rows as they were compared, and their summary by source.

    Each row has id, source, measured_s, predicted_s, error (predicted / measured - 1) or a reason in
    `skipped`; where the table gives them also measured and predicted memory (bytes) and whether it fits.
    """

    rows: list[Record]
    summary: list[Record]


def validate_table(path: Path | None = None) -> Validation:
    """Simulate every row of a step-time table, by default the one that ships; DescriptorError if it is none."""
    rows = compared(read_rows(path or PUBLISHED))
    return Validation(rows=rows, summary=summary(rows))


def compared(rows: Sequence[Row]) -> list[Record]:
    """Each row simulated, on all cores where there are many."""
    if len(rows) < MANY_ROWS:
        return [compare(row) for row in rows]
    from joblib import Parallel, delayed  # noqa: PLC0415 - a short table must not pay for it

    found: list[Record] = Parallel(n_jobs=-1)(delayed(compare)(row) for row in rows)
    return found


def read_rows(path: Path) -> list[Row]:
    """The rows of a table of runs, all its faults at once."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows: list[Row] = [dict(row) for row in reader]
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DescriptorError(path, [f"cannot be read: {error}"]) from error
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise DescriptorError(path, [f"columns are missing: {', '.join(missing)}"])
    if not rows:
        raise DescriptorError(path, ["has no rows"])
    return [{key: value or "" for key, value in row.items() if key} for row in rows]


def compare(row: Row) -> Record:
    """One row simulated and held against what it measured."""
    record: Record = {
        "id": row["id"],
        "source": row["source"],
        "device": row["device"],
        "stack": row["stack"],
        "measured_s": None,
        "predicted_s": None,
        "error": None,
        "skipped": None,
    }
    try:
        record["measured_s"] = measured_s(row)
        memory_bytes = positive(row, "memory_gb") * GIB if row.get("memory_gb") else None
        result = simulate(job_of(row))
    except (SkippedRowError, ValueError) as error:
        return record | {"skipped": str(error)}
    found = record | _step(record, result) | _memory(row, memory_bytes, result)
    if record["measured_s"] is None and "memory_error" not in found and "ran" not in found:
        return found | {"skipped": "the table gives neither a step time nor memory"}
    return found


def measured_s(row: Row) -> float | None:
    """The step time of a row, from its tokens per second where it gives only those."""
    if row.get("step_time_s"):
        return positive(row, "step_time_s")
    if row.get("tokens_per_s_per_gpu"):
        tokens = positive(row, "global_batch") * positive(row, "seq_len")
        return tokens / (positive(row, "tokens_per_s_per_gpu") * positive(row, "gpus"))
    return None


def _step(record: Record, result: Result) -> Record:
    measured = record["measured_s"]
    low, high = result.interval_s
    found: Record = {"predicted_s": result.step_s, "predicted_low_s": low, "predicted_high_s": high}
    if isinstance(measured, float):
        found["error"] = result.step_s / measured - 1.0
        found["inside"] = low <= measured <= high
    return found


def _memory(row: Row, measured: float | None, result: Result) -> Record:
    """Where the table has it: memory as the trainer reports it (in GiB, called GB), and whether it ran."""
    found: Record = {}
    if measured is not None:
        held = result.job.stack.storage.reports == "held"
        predicted = result.memory.held if held else result.memory.allocated
        found["measured_memory_bytes"] = measured
        found["predicted_memory_bytes"] = predicted
        found["memory_error"] = predicted / measured - 1.0
    if row.get("outcome"):
        found["ran"] = row["outcome"] == "ok"
        found["fits"] = result.memory.fits
    return found


def summary(rows: Sequence[Mapping[str, object]]) -> list[Record]:
    """Figures for each source, then for all rows, then for all sources with equal weight."""
    sources = sorted({str(row["source"]) for row in rows})
    each = [_figures(source, [row for row in rows if row["source"] == source]) for source in sources]
    everything = _figures("all rows", rows)
    return [*each, everything, _equal_weight(each)]


def _figures(name: str, rows: Iterable[Mapping[str, object]]) -> Record:
    chosen = list(rows)
    errors = [row["error"] for row in chosen if isinstance(row["error"], float)]
    memory = [error for row in chosen if isinstance(error := row.get("memory_error"), float)]
    decided = [row["ran"] == row["fits"] for row in chosen if "fits" in row]
    inside = [bool(row["inside"]) for row in chosen if "inside" in row]
    return {
        "source": name,
        "n": len(errors),
        "skipped": sum(row["skipped"] is not None for row in chosen),
        **_error_figures(errors),
        "inside_interval": _mean([float(one) for one in inside]),
        "memory_n": len(memory),
        "memory_mean_abs_error": _mean([abs(error) for error in memory]),
        "fits_n": len(decided),
        "fits_right": _mean([float(right) for right in decided]),
    }


def _error_figures(errors: Sequence[float]) -> Record:
    absolute = [abs(error) for error in errors]
    return {
        "median_abs_error": statistics.median(absolute) if absolute else None,
        "mean_abs_error": _mean(absolute),
        "bias": _mean(errors),
        "within_5": _mean([float(error <= 0.05) for error in absolute]),
        "within_10": _mean([float(error <= 0.10) for error in absolute]),
        "within_20": _mean([float(error <= 0.20) for error in absolute]),
    }


def _equal_weight(each: Sequence[Record]) -> Record:
    """The mean over sources of what they have in common, so that a large one does not drown the rest."""
    found: Record = {"source": "each source with equal weight"}
    for key in each[0]:
        if key != "source":
            values = [float(v) for one in each if isinstance(v := one[key], int | float)]
            counted = key in ("n", "skipped", "memory_n", "fits_n")
            found[key] = math.fsum(values) if counted else _mean(values)
    return found


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
