"""The table of measured steps: `step_times.csv`, in the columns of docs/tasks/validate.md."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

from calibration.steps.row import COLUMNS


def read(path: Path) -> list[dict[str, str]]:
    """Its rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """A table of these rows alone."""
    with path.open("w", newline="") as file:
        writer = _writer(file)
        writer.writeheader()
        writer.writerows(rows)


def append(path: Path, row: Mapping[str, object]) -> None:
    """One row behind those that are there."""
    if not path.exists():
        write(path, [row])
        return
    with path.open("a", newline="") as file:
        _writer(file).writerow(row)


def _writer(file: TextIO) -> "csv.DictWriter[str]":
    return csv.DictWriter(file, COLUMNS, lineterminator="\n")
