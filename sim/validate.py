"""Predictions against measurements: a table of published runs in, errors out. Nothing is fitted here."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from calibration.profile import Profile
from hardware.descriptor import DescriptorError
from sim import error_figures, sweeps
from sim.cells import SkippedRowError, positive
from sim.error_figures import Record
from sim.profiles import given_for, model_of
from sim.repeats import repeats
from sim.result import Result
from sim.rows import REQUIRED, Described, Row, described, named_release
from sim.step import simulate

GIB = 2.0**30
PUBLISHED = Path(__file__).parent / "published" / "runs.csv"
MANY_ROWS = 100
# Columns that say where a row is from and what came out; all others describe the job.
OUTCOMES = frozenset(
    {"id", "source", "cite", "measured", "quality", "notes"}
    | {"step_time_s", "tokens_per_s_per_gpu", "memory_gb", "memory_active_gb", "outcome"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Rows as they were compared, the sweeps of layouts among them, and runs that are alike.

    Each row has id, source, measured_s, predicted_s, error (predicted / measured - 1) or a reason in
    `skipped`, and `parts` of the predicted step (s); where the table gives them also measured and predicted memory
    (bytes) and whether it fits.
    """

    rows: list[Record]
    sweeps: list[Record]
    repeats: list[Record]

    @property
    def summary(self) -> list[Record]:
        """Figures by source, of all rows, and of all sources with equal weight."""
        return error_figures.summary(self.rows)

    @property
    def groups(self) -> dict[str, list[Record]]:
        """Figures by what the runs have in common: device, stack, size of the model."""
        return {
            "device": error_figures.by_device(self.rows),
            "stack": error_figures.by_stack(self.rows),
            "size": error_figures.by_size(self.rows),
        }

    @property
    def sweep_summary(self) -> list[Record]:
        """Tau and regret by source."""
        return sweeps.summary(self.sweeps)


def validate_table(path: Path | None = None, profile: Path | None = None) -> Validation:
    """Simulate every row of a step-time table, by default the one that ships; DescriptorError if it is none.

    Args:
        profile: whose prices the rows of its device get, file or folder; raises ProfileError if there are none.
    """
    rows = read_rows(path or PUBLISHED)
    return validated(rows, given_for(profile, (row["device"] for row in rows)) if profile else None)


def validated(rows: Sequence[Row], profile: Profile | None = None) -> Validation:
    """Rows of a step-time table, simulated and summed up; `profile` prices those of its device."""
    records = compared(rows, profile)
    return Validation(rows=records, sweeps=sweeps.sweeps(rows, records), repeats=repeats(rows, records))


def compared(rows: Sequence[Row], profile: Profile | None = None) -> list[Record]:
    """Each row simulated, on all cores where there are many; rows that describe the same job, together."""
    alike: dict[frozenset[tuple[str, str]], list[int]] = {}
    for place, row in enumerate(rows):
        alike.setdefault(description(row), []).append(place)
    found = _each([[rows[place] for place in places] for places in alike.values()], profile)
    records = dict(zip(chain.from_iterable(alike.values()), chain.from_iterable(found), strict=True))
    return [records[place] for place in range(len(rows))]


def description(row: Row) -> frozenset[tuple[str, str]]:
    """What a row says of its job. A model without a name goes by the row's id, which errors show."""
    cells = {**row, "model": row.get("model") or row["id"], "release": named_release(row)}
    return frozenset(cell for cell in cells.items() if cell[0] not in OUTCOMES)


def _each(groups: Sequence[Sequence[Row]], profile: Profile | None) -> list[list[Record]]:
    if sum(map(len, groups)) < MANY_ROWS:
        return [compare_alike(rows, profile) for rows in groups]
    from joblib import Parallel, delayed  # noqa: PLC0415 - a short table must not pay for it

    found: list[list[Record]] = Parallel(n_jobs=-1)(delayed(compare_alike)(rows, profile) for rows in groups)
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
    return [{key: _cell(value or "") for key, value in row.items() if key} for row in rows]


def _cell(text: str) -> str:
    """A whole number without a decimal point, which pandas writes for one in a column with blanks."""
    digits, point, zeros = text.partition(".")
    return digits if point and digits.isdecimal() and zeros.strip("0") == "" else text


def compare(row: Row) -> Record:
    """One row simulated and held against what it measured."""
    return compare_alike([row])[0]


def compare_alike(rows: Sequence[Row], profile: Profile | None = None) -> list[Record]:
    """Rows that describe one job, which is simulated once, each held against what it measured."""
    job = cache(lambda: described(rows[0]))
    step = cache(lambda: simulate(job().job, model_of(profile, job().job.cluster.device)))
    return [_compared(row, job, step) for row in rows]


def _compared(row: Row, job: Callable[[], Described], step: Callable[[], Result]) -> Record:
    record: Record = {
        "id": row["id"],
        "source": row["source"],
        "device": row["device"],
        "stack": row["stack"],
        "parameters": None,
        "measured_s": None,
        "predicted_s": None,
        "error": None,
        "skipped": None,
        "assumed": [],
    }
    try:
        record["measured_s"] = measured_s(row)
        memory_bytes = positive(row, "memory_gb") * GIB if row.get("memory_gb") else None
        record["parameters"] = job().job.model.parameters
        record["assumed"] = list(job().assumed)
        result = step()
    except (SkippedRowError, ValueError) as error:
        return record | {"skipped": str(error)}
    record |= _step(record, result) | _memory(row, memory_bytes, result)
    if record["measured_s"] is None and "memory_error" not in record and "ran" not in record:
        return record | {"skipped": "the table gives neither a step time nor memory"}
    return record


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
    found["parts"] = dict(result.breakdown)
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
