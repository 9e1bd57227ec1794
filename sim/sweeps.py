"""Sweeps: runs that differ in nothing but their layout. Is the order right, and what does our choice cost?

Who plans a run needs the fastest layout more than the seconds of each. Two figures say how good the choice is:
Kendall's tau between predicted and measured step times, and the regret, the measured time of the layout that is
predicted to be the fastest over the measured best, less one.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations

from sim.error_figures import Record
from sim.rows import Row

FEWEST = 4  # layouts; three have three pairs, which are in order by chance once in six times
# Columns in which the runs of a sweep agree, and those that make the layout, with what a blank stands for.
SAME = (
    *("source", "device", "gpus", "gpus_per_node", "fabric", "inter_node_gbit_per_s", "stack", "execution"),
    *("attention", "family", "layers", "hidden", "ffn", "heads", "kv_heads", "vocab", "seq_len", "global_batch"),
    *("precision", "gradients", "optimizer", "task"),
)
LAYOUT = {
    **dict.fromkeys(("micro_batch", "tp", "pp", "vp", "cp", "ep"), "1"),
    **dict.fromkeys(("dp", "etp", "zero_group", "sequence_parallel", "schedule", "chunk_layers"), ""),
    "context_mode": "ring",
    "zero": "0",
    "recompute": "none",
}


def sweeps(rows: Sequence[Row], records: Sequence[Mapping[str, object]]) -> list[Record]:
    """Figures of each sweep with four different layouts or more, in the order of the table.

    Args:
        rows: of the table of runs.
        records: the same rows, as they were compared.
    """
    members: dict[tuple[str, ...], list[tuple[Row, Mapping[str, object]]]] = {}
    for row, record in zip(rows, records, strict=True):
        if isinstance(record["error"], float):
            members.setdefault(tuple(row.get(key) or "" for key in SAME), []).append((row, record))
    found = [_layouts(pairs) for pairs in members.values()]
    return [_figures(layouts) for layouts in found if len(layouts) >= FEWEST]


def summary(each: Sequence[Record]) -> list[Record]:
    """For each source: sweeps, layouts, mean tau weighted by layouts, median and worst regret."""
    sources = sorted({str(one["source"]) for one in each})
    found = [{"source": name} | _summed([one for one in each if one["source"] == name]) for name in sources]
    return [*found, *([{"source": "all sweeps"} | _summed(each)] if len(found) > 1 else [])]


def kendall_tau(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Kendall's tau-b: 1 for the same order, -1 for the reverse. Ties cost as in Kendall (1945).

    None where all measured times are equal, so that there is no order; 0 where all predictions are.
    """
    pairs = list(combinations(zip(predicted, measured, strict=True), 2))
    signs = [(_sign(a[0] - b[0]), _sign(a[1] - b[1])) for a, b in pairs]
    ours, theirs = sum(p != 0 for p, _ in signs), sum(m != 0 for _, m in signs)
    if not theirs:
        return None
    return sum(p * m for p, m in signs) / math.sqrt(ours * theirs) if ours else 0.0


def regret(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Measured time of the layout predicted to be the fastest over the measured best, less one.

    Of several that are predicted to be equally fast, the slowest counts: nothing tells the planner to avoid it.
    """
    return measured[chosen(predicted, measured)] / min(measured) - 1.0


def chosen(predicted: Sequence[float], measured: Sequence[float]) -> int:
    """Place of the layout that we would take."""
    return min(range(len(predicted)), key=lambda place: (predicted[place], -measured[place]))


def _layouts(pairs: Sequence[tuple[Row, Mapping[str, object]]]) -> list[Record]:
    """One record a layout; a layout that was measured more than once counts with its median."""
    members: dict[tuple[str, ...], list[Mapping[str, object]]] = {}
    for row, record in pairs:
        members.setdefault(tuple(row.get(key) or blank for key, blank in LAYOUT.items()), []).append(record)
    return [
        dict(same[0]) | {"measured_s": statistics.median(float(str(one["measured_s"])) for one in same)}
        for same in members.values()
    ]


def _figures(layouts: Sequence[Record]) -> Record:
    predicted = [float(str(one["predicted_s"])) for one in layouts]
    measured = [float(str(one["measured_s"])) for one in layouts]
    ours, best = chosen(predicted, measured), measured.index(min(measured))
    return {
        "source": layouts[0]["source"],
        "ids": [one["id"] for one in layouts],
        "layouts": len(layouts),
        "tau": kendall_tau(predicted, measured),
        "regret": regret(predicted, measured),
        "best_id": layouts[best]["id"],
        "best_s": measured[best],
        "chosen_id": layouts[ours]["id"],
        "chosen_s": measured[ours],
        "slowest_s": max(measured),
    }


def _summed(each: Sequence[Record]) -> Record:
    ranked = [(float(one["tau"]), int(str(one["layouts"]))) for one in each if isinstance(one["tau"], float)]
    weight = sum(layouts for _, layouts in ranked)
    regrets = [float(str(one["regret"])) for one in each]
    return {
        "sweeps": len(each),
        "layouts": sum(int(str(one["layouts"])) for one in each),
        "tau": math.fsum(tau * layouts for tau, layouts in ranked) / weight if weight else None,
        "median_regret": statistics.median(regrets),
        "worst_regret": max(regrets),
        "best_found": sum(value == 0.0 for value in regrets) / len(regrets),
    }


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)
