"""Records how far predictions are from the published runs that ship: `make record`, after they got better.

The tests beside this script fail when a source gets worse than what is recorded.
"""

import json
from collections.abc import Mapping

from sim.validate import PUBLISHED, Validation, validate_table

RECORDED = PUBLISHED.with_name("errors.json")
KEPT = ("n", "mean_abs_error", "memory_n", "memory_mean_abs_error")


def errors(found: Validation) -> dict[str, dict[str, float]]:
    """Source -> runs and mean error without its sign, of step times and of memory; where it has sweeps, their tau."""
    recorded = {str(row["source"]): _rounded(row, KEPT) for row in found.summary}
    for row in found.sweep_summary:
        recorded.setdefault(str(row["source"]), {}).update(_rounded(row, ("layouts", "tau")))
    return recorded


def _rounded(row: Mapping[str, object], names: tuple[str, ...]) -> dict[str, float]:
    return {name: round(float(str(row[name])), 4) for name in names if row[name] is not None}


def main() -> None:
    """Write the file."""
    RECORDED.write_text(json.dumps(errors(validate_table()), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
