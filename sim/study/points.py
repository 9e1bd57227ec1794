"""Plays the points of a study on all cores: the same rows whatever their number."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sim.jobfile import job, parts, with_values
from sim.step import simulate
from sim.study.grid import Study
from workloads.errors import WorkloadError

Row = dict[str, Any]
FIGURES = (
    *("gpus", "step_s", "step_low_s", "step_high_s", "tokens_per_s", "tokens_per_s_per_gpu", "mfu", "hfu"),
    *("memory_bytes", "fits", "bubble", "exposed_s", "skipped"),
)

# Below so many points, starting processes takes longer than it saves.
WORTH_PROCESSES = 8


def run_study(study: Study, processes: int = 0, done: Callable[[], object] = lambda: None) -> list[Row]:
    """A row for each point: its values, then FIGURES.

    What fits in memory comes first, what cannot be simulated (`skipped` says why) last; within these the most
    tokens per second and GPU first.

    Args:
        processes: 0 for one on each core.
        done: called after each point.
    """
    rows = []
    for row in _played(study, processes or os.cpu_count() or 1):
        rows.append(row)
        done()
    return sorted(rows, key=lambda row: (bool(row["skipped"]), not row["fits"], -(row["tokens_per_s_per_gpu"] or 0.0)))


def point_row(study: Study, values: dict[str, Any]) -> Row:
    """Play one point."""
    empty = dict.fromkeys(FIGURES, None)
    try:
        document = with_values(study.document, values)
        result = simulate(job(parts(document, str(study.path), study.path.parent), str(study.path)))
    except WorkloadError as error:
        return values | empty | {"skipped": "; ".join(error.faults)}
    low, high = result.interval_s
    figures = {
        "gpus": result.job.gpus,
        "step_s": result.step_s,
        "step_low_s": low,
        "step_high_s": high,
        "tokens_per_s": result.tokens_per_s,
        "tokens_per_s_per_gpu": result.tokens_per_s_per_gpu,
        "mfu": result.mfu,
        "hfu": result.hfu,
        "memory_bytes": result.memory.allocated,
        "fits": result.memory.fits,
        "bubble": result.bubble,
        "exposed_s": sum(result.exposed_s.values()),
        "skipped": "",
    }
    return values | figures


def _played(study: Study, processes: int) -> Iterator[Row]:
    """Rows in the order of the points."""
    points = study.points()
    if processes == 1 or len(points) < WORTH_PROCESSES:
        yield from map(partial(point_row, study), points)
        return
    from joblib import Parallel, delayed  # noqa: PLC0415 -- takes a fifth of a second

    pool = Parallel(n_jobs=min(processes, len(points)), return_as="generator")
    yield from pool(delayed(point_row)(study, values) for values in points)
