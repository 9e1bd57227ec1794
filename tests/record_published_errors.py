"""Records how far predictions are from the published runs that ship: `make record`, after they got better.

The test beside this script fails when a source gets worse than what is recorded by more than a tenth.
"""

import json

from sim.validate import PUBLISHED, Validation, validate_table

RECORDED = PUBLISHED.with_name("errors.json")


def errors(found: Validation) -> dict[str, dict[str, float]]:
    """Source -> runs and mean error without its sign, of step times and of memory."""
    return {
        str(row["source"]): {
            name: round(float(str(row[name])), 4)
            for name in ("n", "mean_abs_error", "memory_n", "memory_mean_abs_error")
            if row[name] is not None
        }
        for row in found.summary
    }


def main() -> None:
    """Write the file."""
    RECORDED.write_text(json.dumps(errors(validate_table()), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
