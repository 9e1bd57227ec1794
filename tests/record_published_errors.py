"""Records how far predictions are from the published runs that ship: `make record`, after they got better.

The tests beside this script fail when a source gets worse than what is recorded. A figure that got worse is not
written, or changes that cost a tenth each would add up. One that has to give way is deleted from the file first.
"""

import json
from collections.abc import Mapping

from sim.validate import PUBLISHED, Validation, validate_table
from tests.guard import Recorded

RECORDED = PUBLISHED.with_name("errors.json")
KEPT = ("n", "mean_abs_error", "memory_n", "memory_mean_abs_error")
# A figure -> how many runs it is of, and which of two is the better one.
OF = {"mean_abs_error": ("n", min), "memory_mean_abs_error": ("memory_n", min), "tau": ("layouts", max)}


def errors(found: Validation) -> dict[str, dict[str, float]]:
    """Source -> runs and mean error without its sign, of step times and of memory; where it has sweeps, their tau."""
    recorded = {str(row["source"]): _rounded(row, KEPT) for row in found.summary}
    for row in found.sweep_summary:
        recorded.setdefault(str(row["source"]), {}).update(_rounded(row, ("layouts", "tau")))
    return recorded


def _rounded(row: Mapping[str, object], names: tuple[str, ...]) -> dict[str, float]:
    return {name: round(float(str(row[name])), 4) for name in names if row[name] is not None}


def kept(now: Recorded, then: Recorded) -> dict[str, dict[str, float]]:
    """What to record: the better of each figure of `now` and `then`, and the one of `now` where it is of other runs."""
    return {
        source: {name: _better(name, figures, then.get(source, {})) for name in figures}
        for source, figures in now.items()
    }


def _better(name: str, now: Mapping[str, float], then: Mapping[str, float]) -> float:
    runs, better = OF.get(name, (name, max))
    alike = now[runs] == then.get(runs)
    return better(now[name], then.get(name, now[name])) if alike else now[name]


def main() -> None:
    """Write the file."""
    then = json.loads(RECORDED.read_text("utf-8"))
    RECORDED.write_text(json.dumps(kept(errors(validate_table()), then), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
