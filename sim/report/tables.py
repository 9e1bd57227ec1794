"""Tables for the terminal beside that of a run: a study, the catalogue, prices, validation."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sim.pricing_table import PricedTable
from sim.report import units
from sim.report.terminal import table

Row = Mapping[str, Any]

MOST_REASONS = 10
FIGURE_COLUMNS = ("step", "tokens/s/GPU", "MFU", "bubble", "exposed", "GiB", "GPUs", "fits")


def csv_text(rows: Sequence[Row]) -> str:
    """Rows with equal keys, as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def study_table(rows: Sequence[Row], keys: Sequence[str], top: int) -> Iterator[RenderableType]:
    """The best points, and why others were skipped."""
    played = [row for row in rows if not row["skipped"]]
    if played:
        yield _played_table(played[:top], keys)
    fitting = sum(bool(row["fits"]) for row in played)
    skipped = [row for row in rows if row["skipped"]]
    shown = f", best {top} shown" if len(played) > top else ""
    counts = f"{fitting:,} fit, {len(played) - fitting:,} do not, {len(skipped):,} skipped"
    yield Text(f"\n{len(rows):,} points: {counts}{shown}")
    yield from _skipped_lines(skipped, keys, top)


def _played_table(rows: Sequence[Row], keys: Sequence[str]) -> Table:
    names = [key.rpartition(".")[2] for key in keys]
    shown = [name if names.count(name) == 1 else key for name, key in zip(names, keys, strict=True)]
    made = table(*shown, *FIGURE_COLUMNS, left=len(keys))
    for row in rows:
        made.add_row(
            *(str(row[key]) for key in keys),
            units.seconds(row["step_s"]),
            units.digits(row["tokens_per_s_per_gpu"]),
            units.percent(row["mfu"]),
            units.percent(row["bubble"]),
            units.percent(row["exposed_s"] / row["step_s"]),
            units.digits(row["memory_bytes"] / units.GIB),
            f"{row['gpus']:,}",
            Text("yes", "green") if row["fits"] else Text("no", "red"),
        )
    return made


def _skipped_lines(rows: Sequence[Row], keys: Sequence[str], top: int) -> Iterator[RenderableType]:
    reasons: dict[str, list[Row]] = {}
    for row in rows:
        reasons.setdefault(row["skipped"], []).append(row)
    for reason, found in list(reasons.items())[:top]:
        first = ", ".join(f"{key.rpartition('.')[2]} {found[0][key]}" for key in keys)
        more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
        yield Text(f"  skipped {first}{more}: {reason}", "dim")
    if len(reasons) > top:
        yield Text(f"  and {len(reasons) - top:,} other reasons", "dim")


def error_table(rows: Sequence[Row]) -> Table:
    """Errors by group: whatever columns there are, shares as percent."""
    columns = list(rows[0]) if rows else []
    numbers = [name for name in columns if all(isinstance(row[name], int | float | None) for row in rows)]
    made = table(*columns, left=len(columns) - len(numbers))
    for row in rows:
        made.add_row(*(_cell(row[name]) for name in columns))
    return made


def _cell(value: object) -> str:
    if isinstance(value, float):
        return units.percent(value)
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def price_summary(priced: PricedTable) -> Iterator[RenderableType]:
    """How many rows have a price, why others have none, and the errors where they were measured."""
    yield Text(f"{priced.priced:,} of {len(priced.rows):,} rows priced")
    reasons = list(priced.skipped().items())
    yield from (Text(f"  {count:,} skipped: {reason}", "dim") for reason, count in reasons[:MOST_REASONS])
    if len(reasons) > MOST_REASONS:
        yield Text(f"  and {len(reasons) - MOST_REASONS:,} other reasons", "dim")
    errors = priced.summary()
    if errors:
        yield Text("\nErrors against time_s: median and mean without their sign, bias with it")
        yield error_table(errors)


def _seconds(value: float | None) -> str:
    return units.seconds(value) if value else ""


def gemm_table(document: Row) -> Iterator[RenderableType]:
    """One GEMM: its time in a benchmark and in a long run, and what bounds it."""
    shape = " x ".join(str(document[name]) for name in ("m", "n", "k"))
    times = f"{document['batch']} x " if document["batch"] > 1 else ""
    words = f"{times}{shape} (m x n x k), {document['dtype']} -> {document['out_dtype']}, {document['layout']}"
    yield Text.assemble(("GEMM ", "dim"), (words, "bold"), (" on ", "dim"), (str(document["device"]), "bold"))
    low, high = (units.seconds(document[name]) for name in ("predicted_low_s", "predicted_high_s"))
    made = table("", "time", "rate", "of peak")
    for name, prefix in (("burst: a short benchmark", "predicted"), ("sustained: a long run", "sustained")):
        rate = document["flops_per_s"] if prefix == "predicted" else document["sustained_flops_per_s"]
        share = units.percent(rate / document["peak_flops_per_s"])
        made.add_row(name, units.seconds(document[f"{prefix}_s"]), units.tera(rate), share)
    yield made
    compute, memory = (units.seconds(document[f"{what}_bound_s"]) for what in ("compute", "memory"))
    bounds = f"{compute} at peak rate, {memory} of memory traffic"
    yield Text(f"90 % interval {low} to {high}; bound by {document['bound_by']} ({bounds})")
    yield Text(f"long run: {document['sustained_w']:,.0f} W, {document['sustained_j']:.3g} J each")


def evaluation_table(rows: Sequence[Row]) -> Table:
    """Errors of prices by family and group of kernels."""
    made = table("family", "of it", "shapes", "median", "mean", "bias", "in interval", left=2)
    for row in rows:
        figures = [row.get(key) for key in ("median", "mean", "bias", "inside")]
        made.add_row(str(row["family"]), str(row["group"]), str(row["n"]), *map(_cell, figures))
    return made


def leave_out_table(rows: Sequence[Row]) -> Table:
    """Errors on each device of what was learned on the others."""
    made = table("device", "family", "of it", "shapes", "median", "mean", "bias", "in interval", "physics mean", left=3)
    for row in rows:
        figures = [row.get(key) for key in ("median", "mean", "bias", "inside", "physics_mean")]
        made.add_row(*(str(row[key]) for key in ("device", "family", "group", "n")), *map(_cell, figures))
    return made


def comparison_table(
    predicted: Mapping[str, float], measured: Mapping[str, float], predicted_s: float, measured_s: float
) -> Table:
    """A simulated and a measured breakdown side by side."""
    made = table("part", "predicted", "measured", left=1)
    for part in dict.fromkeys([*predicted, *measured]):
        made.add_row(part, _seconds(predicted.get(part)), _seconds(measured.get(part)))
    made.add_row("step", _seconds(predicted_s), _seconds(measured_s))
    return made
