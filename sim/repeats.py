"""Runs that are alike in every column, and took different times: below what error no prediction can get.

Another day, another lab, a kernel that the table has no column for. A prediction sees the columns only, so it gives all
of them the same time.
"""

import statistics
from collections.abc import Mapping, Sequence

from sim.error_figures import Record
from sim.rows import Row
from sim.sweeps import LAYOUT, SAME


def repeats(rows: Sequence[Row], records: Sequence[Mapping[str, object]]) -> list[Record]:
    """For each source with such runs: their groups and number, how far they are apart, and the lowest mean error.

    Args:
        rows: of the table of runs.
        records: the same rows, as they were compared.
    """
    sources: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for row, record in zip(rows, records, strict=True):
        if isinstance(record["error"], float):
            groups = sources.setdefault(row["source"], {})
            groups.setdefault(identity(row), []).append(float(str(record["measured_s"])))
    found = [_figures(name, list(sources[name].values())) for name in sorted(sources)]
    return [one for one in found if one["groups"]]


def identity(row: Row) -> tuple[str, ...]:
    """All that a prediction could know of a row."""
    return (*(row.get(key) or "" for key in SAME), *(row.get(key) or blank for key, blank in LAYOUT.items()))


def lowest_errors(measured: Sequence[float]) -> list[float]:
    """|predicted / measured - 1| of each run with the one prediction that makes their sum smallest.

    sum |p - m| / m is smallest where p is the median of m weighted by 1 / m.
    """
    ordered = sorted(measured)
    half = sum(1.0 / one for one in ordered) / 2.0
    place, weight = 0, 1.0 / ordered[0]
    while weight < half:
        place += 1
        weight += 1.0 / ordered[place]
    return [abs(ordered[place] / one - 1.0) for one in measured]


def _figures(source: str, groups: Sequence[Sequence[float]]) -> Record:
    alike = [group for group in groups if len(group) > 1]
    apart = [max(group) / min(group) - 1.0 for group in alike]
    errors = [error for group in groups for error in lowest_errors(group)]
    return {
        "source": source,
        "groups": len(alike),
        "rows": sum(map(len, alike)),
        "median_apart": statistics.median(apart) if apart else None,
        "most_apart": max(apart, default=None),
        "lowest_mean_abs_error": sum(errors) / len(errors),
    }
