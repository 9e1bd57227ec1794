"""What `steptime validate` prints: figures of groups, sweeps of layouts, where the error comes from, the rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.breakdown import PARTS
from sim.report import units
from sim.report.terminal import table
from sim.validate import Validation

Row = Mapping[str, Any]

SHORT_TABLE = 30  # rows that are shown without being asked for
MOST_IDS = 3  # of rows that share a reason
WORTH = 0.9  # of the mean error: a part that leaves more of it explains nothing
CLOSES = 0.1  # of the gap of a row: a part that closes less does not explain the row
SHOWN_SHARE = 0.005  # of a step
COLUMN_SHARE = 0.03  # of a step: a part that is less in every row has no column
MOST_PARTS = 7  # columns that a terminal of 100 has room for
FIGURES = {
    "n": "n",
    "skipped": "skipped",
    "median_abs_error": "median",
    "mean_abs_error": "mean",
    "bias": "bias",
    "within_5": "in 5 %",
    "within_10": "in 10 %",
    "within_20": "in 20 %",
    "inside_interval": "interval",
}
MEMORY = {"memory_n": "n", "memory_mean_abs_error": "mean", "fits_n": "n", "fits_right": "fits right"}
SWEEPS = {
    "sweeps": "sweeps",
    "layouts": "layouts",
    "tau": "tau",
    "median_regret": "median regret",
    "worst_regret": "worst",
    "best_found": "best found",
}
REPEATS = {
    "groups": "groups",
    "rows": "runs",
    "median_apart": "median apart",
    "most_apart": "most",
    "lowest_mean_abs_error": "lowest mean error",
}
COUNTS = ("n", "skipped", "memory_n", "fits_n", "sweeps", "layouts", "groups", "rows")
SHARES = ("within_5", "within_10", "within_20", "inside_interval", "fits_right", "best_found")
# Parts of a step as headings of narrow columns.
NARROW = {"recompute": "recomp.", "optimizer": "optim.", "interference": "interf."}


def report(found: Validation, *, rows: bool, account: Row | None) -> Iterator[RenderableType]:
    """Summaries first, then where the error comes from, then rows: all of a short table, else the skipped ones."""
    yield figures_table("source", found.summary)
    for name, groups in found.groups.items():
        if len(groups) > 1:
            yield _below(figures_table(name, groups))
    if any(group["memory_n"] or group["fits_n"] for group in found.summary):
        yield _below(memory_table(found.summary))
    if found.sweeps:
        yield _below(sweeps_table(found.sweep_summary))
    if account and account["worst"]:
        yield from account_tables(account)
        if found.repeats:
            yield _title("Runs alike in every column: what no prediction can tell apart")
            yield _table("source", REPEATS, found.repeats)
    yield Text("")
    if rows or len(found.rows) <= SHORT_TABLE:
        yield rows_table(found.rows)
    else:
        yield from _skipped_lines(found.rows)
        yield from _assumed_lines(found.rows)
        yield Text(f"{len(found.rows):,} rows; --rows shows them", "dim")


def figures_table(name: str, groups: Sequence[Row]) -> Table:
    """Errors of step times by group in per cent, sizes without their sign."""
    columns = {key: column for key, column in FIGURES.items() if any(map(_has(key), groups))}
    return _table(f"{name}, errors in %", columns, groups, unit="")


def memory_table(groups: Sequence[Row]) -> Table:
    """Errors of memory, and how often "fits" is right, of the groups that have either."""
    shown = [group for group in groups if group["memory_n"] or group["fits_n"]]
    return _table(
        "memory", {key: column for key, column in MEMORY.items() if any(group[key] for group in shown)}, shown
    )


def sweeps_table(groups: Sequence[Row]) -> Table:
    """Whether layouts are ranked as measured."""
    return _table("sweeps of layouts", SWEEPS, groups)


def account_tables(account: Row) -> Iterator[RenderableType]:
    """The worst rows by the parts of their predicted step; what would explain the errors of their sources."""
    yield _title("The worst rows: parts in % of the predicted step")
    yield worst_table(account["worst"])
    yield _title("What would explain a source: a diagnostic, nothing is fitted from it")
    yield sources_table(account["sources"])


def worst_table(rows: Sequence[Row]) -> Table:
    """A row each: its error, its parts, and the part whose factor for the source closes most of the gap."""
    largest = {part: max((row["parts"].get(part, 0.0) for row in rows), default=0.0) for part in PARTS}
    widest = sorted(largest, key=lambda part: -largest[part])[:MOST_PARTS]
    parts = [part for part in PARTS if part in widest and largest[part] >= COLUMN_SHARE]
    heads = [NARROW.get(part, part.removeprefix("exposed ")) for part in parts]
    made = table("id", "error", *heads, "scaled", "closes")
    for row in rows:
        shares = [row["parts"].get(part, 0.0) for part in parts]
        cells = [f"{100 * share:.0f}" if share >= SHOWN_SHARE else "" for share in shares]
        by = row["explained_by"]
        explained = (
            (_scaled(by["part"], by["factor"]), f"{100 * by['of_gap']:.0f} %")
            if by and by["of_gap"] >= CLOSES
            else ("", "")
        )
        made.add_row(str(row["id"]), _signed(row["error"]), *cells, *explained)
    return made


def sources_table(sources: Sequence[Row]) -> Table:
    """The mean error of a source, and what is left of it with one part or all of them scaled."""
    made = table("source", "n", "mean", "one part scaled", "left", "all scaled", "left")
    for source in sources:
        single = [one for one in source["single"] if one["mean_abs_error_left"] <= WORTH * source["mean_abs_error"]]
        words = "\n".join(_scaled(one["part"], one["factor"]) for one in single) or _nothing(source)
        left = "\n".join(units.percent(one["mean_abs_error_left"]) for one in single)
        factors = {part: factor for part, factor in source["factors"].items() if abs(factor - 1.0) >= 0.1}
        together = "\n".join(_scaled(part, factor) for part, factor in factors.items())
        mean = units.percent(source["mean_abs_error"])
        made.add_row(
            source["source"], str(source["n"]), mean, words, left, together, cell(source["mean_abs_error_left"])
        )
    return made


def rows_table(rows: Sequence[Row]) -> Table:
    """Measured and predicted, or why not; memory and whether it fits where the table of runs has them."""
    memory = any(row.get("measured_memory_bytes") for row in rows)
    fits = any("fits" in row for row in rows)
    assumed = any(row["assumed"] for row in rows)
    columns = [*(["GiB", "predicted"] if memory else []), *(["ran", "fits"] if fits else [])]
    columns += ["assumed"] if assumed else []
    made = table("id", "source", "measured", "predicted", "error", *columns, left=2)
    for row in rows:
        if row.get("skipped"):
            cells: list[RenderableType] = ["", Text(f"skipped: {row['skipped']}", "dim"), ""]
        else:
            cells = [_seconds(row.get("measured_s")), _seconds(row.get("predicted_s")), _signed(row.get("error"))]
        if memory:
            cells += [_gib(row.get("measured_memory_bytes")), _gib(row.get("predicted_memory_bytes"))]
        if fits:
            cells += [cell(row.get("ran")), cell(row.get("fits"))]
        if assumed:
            cells.append(cell(row["assumed"]))
        made.add_row(str(row["id"]), str(row["source"]), *cells)
    return made


def cell(value: object) -> str:
    """A figure for people: shares as per cent."""
    if isinstance(value, float):
        return units.percent(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def figure(key: str, value: Any, unit: str = " %") -> str:
    """Of a summary, by its key: counts, tau as it is, the rest as per cent, shares of rows without decimals."""
    if value is None:
        return ""
    if key == "tau":
        return f"{value:.2f}"
    if key in COUNTS:
        return f"{round(value):,}"
    shown = f"{100 * value:+.1f}" if key == "bias" else f"{100 * value:.{0 if key in SHARES else 1}f}"
    return shown + unit


def _table(name: str, columns: Mapping[str, str], groups: Sequence[Row], unit: str = " %") -> Table:
    made = table(name, *columns.values())
    for group in groups:
        made.add_row(str(next(iter(group.values()))), *(figure(key, group[key], unit) for key in columns))
    return made


def _has(key: str) -> Any:
    """Whether a group has that figure; a column of no skipped rows says nothing."""
    return lambda group: bool(group[key]) if key == "skipped" else group[key] is not None


def _skipped_lines(rows: Sequence[Row]) -> Iterator[RenderableType]:
    """Every reason, with the first rows that it holds for."""
    skipped = [(str(row["skipped"]), str(row["id"])) for row in rows if row["skipped"]]
    yield from (Text(f"skipped {ids}: {reason}", "dim") for reason, ids in _by_words(skipped))


def _assumed_lines(rows: Sequence[Row]) -> Iterator[RenderableType]:
    """What sources leave open and how it was filled in, with the first rows."""
    assumed = [(words, str(row["id"])) for row in rows for words in row["assumed"]]
    yield from (Text(f"assumed {words}: {ids}", "dim") for words, ids in _by_words(assumed))


def _by_words(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Words, and the first of the rows that share them."""
    groups: dict[str, list[str]] = {}
    for words, row in pairs:
        groups.setdefault(words, []).append(row)
    for words, ids in groups.items():
        more = f" and {len(ids) - MOST_IDS:,} more" if len(ids) > MOST_IDS else ""
        yield words, ", ".join(ids[:MOST_IDS]) + more


def _scaled(part: str, factor: float) -> str:
    return f"{part} x {factor:.2f}"


def _nothing(source: Row) -> str:
    return "no one part" if source["single"] else "too few rows"


def _title(text: str) -> RenderableType:
    return _below(Text(text, "bold"))


def _below(part: RenderableType) -> RenderableType:
    return Padding(part, (1, 0, 0, 0))


def _seconds(value: float | None) -> str:
    return units.seconds(value) if value else ""


def _signed(error: float | None) -> str:
    return "" if error is None else f"{100 * error:+.1f} %"


def _gib(size: float | None) -> str:
    return f"{size / 2**30:.1f}" if size else ""
