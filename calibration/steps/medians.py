"""Runs of the same case as one row: `python -m calibration.steps.medians RUNS... --out step_times.csv`.

A step that waits for Python takes half as long again on one machine as on another; the median of a few runs is what a
prediction can be held against.
"""

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from calibration.steps.table import read, write

Row = Mapping[str, str]
MEMORY = ("memory_gb", "memory_active_gb")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="calibration.steps.medians", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="tables of `calibration.steps.run`")
    parser.add_argument("--out", type=Path, required=True, help="the table to write, a row for each case")
    options = parser.parse_args(arguments)
    write(options.out, medians(row for path in options.runs for row in read(path)))


def medians(runs: Iterable[Row]) -> list[Row]:
    """A row for each case, in the order in which cases are first met; a failed run counts only where none went well."""
    cases: dict[str, list[Row]] = {}
    for run in runs:
        cases.setdefault(run["cite"], []).append(run)
    return [_median([run for run in each if run["outcome"] == "ok"] or each[:1]) for each in cases.values()]


def _median(runs: Sequence[Row]) -> Row:
    if len(runs) == 1:
        return runs[0]
    times = [float(run["step_time_s"]) for run in runs]
    step_s = statistics.median(times)
    tokens = float(runs[0]["tokens_per_s_per_gpu"]) * times[0]
    memory = {name: f"{statistics.median(float(run[name]) for run in runs):.2f}" for name in MEMORY}
    return {
        **runs[0],
        **memory,
        "step_time_s": f"{step_s:.6g}",
        "tokens_per_s_per_gpu": f"{tokens / step_s:.1f}",
        "notes": f"median of {len(runs)} runs, {min(times):.5g} to {max(times):.5g} s",
    }


if __name__ == "__main__":
    main()
