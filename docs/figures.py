"""Draws the pictures of the README from a table of runs: `python docs/figures.py [TABLE]` (or `make figures`)."""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from sim.validate import Validation, validate_table

mpl.rcParams["svg.hashsalt"] = "steptime"  # the same picture gives the same bytes
IMAGES = Path(__file__).parent / "images"


def scatter(found: Validation, path: Path) -> None:
    """Predicted against measured step time, a colour for each stack."""
    figure, axes = plt.subplots(figsize=(7.2, 5.2))
    compared = [row for row in found.rows if row["error"] is not None]
    for number, stack in enumerate(sorted({str(row["stack"]) for row in compared})):
        rows = [row for row in compared if row["stack"] == stack]
        axes.scatter(
            [row["measured_s"] for row in rows],
            [row["predicted_s"] for row in rows],
            s=9,
            alpha=0.6,
            color=plt.colormaps["tab20"](number),
            label=f"{stack} ({len(rows)})",
            linewidths=0,
        )
    times = [float(str(row[key])) for row in compared for key in ("measured_s", "predicted_s")]
    ends = [min(times) / 1.2, max(times) * 1.2]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.fill_between(ends, [0.8 * x for x in ends], [1.2 * x for x in ends], color="black", alpha=0.07, linewidth=0)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured step time (s)", ylabel="predicted (s)")
    axes.set_title("Published training runs, nothing fitted to them one by one; band: 20 %", fontsize=10)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Write every picture."""
    IMAGES.mkdir(exist_ok=True)
    scatter(validate_table(Path(sys.argv[1]) if len(sys.argv) > 1 else None), IMAGES / "validation.svg")


if __name__ == "__main__":
    main()
