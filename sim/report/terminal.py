"""A result as tables for the terminal."""

import os
import sys
from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.profiles import origin
from sim.report import units
from sim.report.document import memory_components
from sim.report.hints import hints
from sim.report.words import MEMORY, PARTS
from sim.result import Result
from workloads.chunks import spelt
from workloads.layout import chunk_layers, micro_batches

WIDTH = 100  # where the output is no terminal
BAR = 14
NEGLIGIBLE = 1e-6  # of a step
SHOWN_OF_PATH = 5
TASK_WORDS = {"lora": ", LoRA", "layers": ", layers alone"}
COLOURS = {
    "bubble": "yellow",
    "interference": "yellow",
    "launch": "yellow",
    "host": "yellow",
    "recompute": "cyan",
}


def console(*, errors: bool = False) -> Console:
    """Standard output or error; of fixed width where that is a file or a pipe."""
    found = Console(stderr=errors, highlight=False)
    if not found.is_terminal:
        columns = os.environ.get("COLUMNS", "")
        found.width = int(columns) if columns.isdecimal() and int(columns) else WIDTH
    return found


def show(*parts: RenderableType, errors: bool = False) -> None:
    """Print; characters that the output cannot encode are replaced."""
    stream = sys.stderr if errors else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    console(errors=errors).print(*parts, sep="\n")


def run_report(result: Result) -> RenderableType:
    """What was asked, what comes out, where the time goes, what holds the memory, what to change."""
    parts = [
        _header(result),
        _figures(result),
        _title("Where the time goes", "of one step, a mean over the pipeline stages"),
        _breakdown(result),
        _title("What bounds the step", "the longest chain of work that waits for each other"),
        _critical_path(result),
        _title("Memory", f"of a GPU of stage {result.memory.stage}, the fullest, at its peak"),
        _memory(result),
        *_hints(result),
    ]
    return Group(*parts)


def table(*columns: str, left: int = 1) -> Table:
    """A plain table: `left` columns of text, then numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    for place, column in enumerate(columns):
        made.add_column(column, justify="left" if place < left else "right", overflow="fold")
    return made


def _title(text: str, words: str) -> RenderableType:
    return Padding(Text.assemble((text, "bold"), (f"  {words}", "dim")), (1, 0, 0, 0))


def _grid(*justify: str) -> Table:
    made = Table.grid(padding=(0, 2, 0, 0))
    for side in justify:
        made.add_column(justify="right" if side == "right" else "left", no_wrap=side != "wrap")
    return made


def _header(result: Result) -> RenderableType:
    job = result.job
    training, cluster, shard = job.training, job.cluster, job.shard()
    grid = _grid("left", "wrap")
    further = f", {job.trained.mtp_layers} MTP layer" if job.trained.mtp_layers else ""
    name = f"{job.model.name}, {units.parameters(job.model.parameters)} parameters{further}"
    machine = f"{cluster.nodes} x {cluster.name} = {cluster.gpus:,} x {cluster.device.title}"
    used = "" if job.gpus == cluster.gpus else f", {job.gpus:,} of them used"
    batch = (
        f"{training.global_batch:,} sequences of {training.seq_len:,} tokens; "
        f"micro-batch {training.micro_batch}, {micro_batches(job.layout, training):,} for each replica"
    )
    software = f"{job.stack.name}, {shard.execution}, {shard.attention} attention, {training.optimizer}"
    reduced = "" if training.gradients == "auto" else f", gradients reduced in {shard.reduced_dtype}"
    precision = f"{training.precision}{reduced}, recompute {training.recompute}"
    pace = "" if job.pace == 1.0 else f", host x {job.pace:g}"
    rows: dict[str, RenderableType] = {
        "Model": Text(name, "bold"),
        "Cluster": machine + used,
        "Layout": " ".join(_layout_words(result)),
        "Batch": batch,
        "Stack": f"{software}; {precision}" + TASK_WORDS.get(training.task, "") + pace,
    }
    for key, value in rows.items():
        grid.add_row(Text(key, "dim"), value)
    return grid


def _layout_words(result: Result) -> Iterator[str]:
    layout = result.job.layout
    yield f"dp {layout.dp} x tp {layout.tp} x pp {layout.pp}"
    yield from (f"x {key} {getattr(layout, key)}" for key in ("cp", "ep") if getattr(layout, key) > 1)
    if layout.ep > 1 and layout.expert_tp > 1:
        yield f"x etp {layout.expert_tp}"
    if layout.cp > 1 and layout.context_mode != "ring":
        yield f"(context {layout.context_mode})"
    exchange = [layout.expert_mode] * result.job.shard().sends_once + ["overlapped"] * layout.expert_overlap
    if exchange:
        yield f"({', '.join(exchange)})"
    if layout.pp > 1:
        yield f"({', '.join(_pipeline_words(result))})"
    if layout.sequence_parallel:
        yield "sequence-parallel"
    if layout.zero:
        yield f"ZeRO {layout.zero}" + (f" over {layout.zero_group}" if layout.zero_group else "")


def _pipeline_words(result: Result) -> Iterator[str]:
    layout, shares = result.job.layout, chunk_layers(result.job.trained, result.job.layout)
    yield layout.schedule_name
    if layout.vp > 1:
        yield f"vp {layout.vp}"
    if min(shares) < max(shares):
        yield f"layers {spelt(shares)}"


def _figures(result: Result) -> RenderableType:
    low, high = result.interval_s
    memory = result.memory
    used = memory.held + memory.reserved
    fits = Text("fits", "bold green") if memory.fits else Text("DOES NOT FIT", "bold red")
    peak = units.tera(result.peak_flops_per_s / result.job.gpus)
    grid = _grid("left", "right", "wrap")
    rows: list[tuple[str, str, RenderableType]] = [
        (
            "Step time",
            units.seconds(result.step_s),
            f"90 % interval {units.seconds(low)} to {units.seconds(high)}",
        ),
        (
            "Throughput",
            f"{units.digits(result.tokens_per_s)} tokens/s",
            f"{units.digits(result.tokens_per_s_per_gpu)} tokens/s for each GPU",
        ),
        (
            "MFU",
            units.percent(result.mfu),
            f"of {peak}; {units.percent(result.hfu)} with recomputed work (HFU)",
        ),
        ("Prices", *_origin(result)),
        (
            "Power",
            f"{result.power_w:,.0f} W",
            f"of a GPU, at {units.percent(result.load.clock)} of its clock; {result.energy_j / 3.6e6:,.3g} kWh a step",
        ),
        ("Memory", units.gib(used), Text.assemble(f"of {units.gib(memory.capacity)}; ", fits)),
    ]
    for name, value, words in rows:
        grid.add_row(Text(name, "dim"), Text(value, "bold"), words)
    return Padding(grid, (1, 0, 0, 0))


def _origin(result: Result) -> tuple[str, str]:
    """How much of the prices is measured, and where they come from."""
    if not result.measured_share:
        return "physics", f"from {origin(result.cost_model)}: no profile of this device"
    return units.percent(result.measured_share), f"of kernel time measured: {origin(result.cost_model)}; else physics"


def _breakdown(result: Result) -> RenderableType:
    grid = _grid("left", "right", "right", "left", "wrap")
    largest = max(result.breakdown.values())
    for part, part_s in result.breakdown.items():
        if part_s < NEGLIGIBLE * result.step_s:
            continue
        colour = "magenta" if part.startswith("exposed") else COLOURS.get(part, "green")
        grid.add_row(
            part,
            units.seconds_like(part_s, result.step_s),
            units.percent(part_s / result.step_s),
            Text(units.bar(part_s / largest, BAR).ljust(BAR), colour),
            Text(PARTS.get(part, ""), "dim"),
        )
    grid.add_row("step", units.seconds_like(result.step_s, result.step_s), units.percent(1.0), style="bold")
    return grid


def _critical_path(result: Result) -> RenderableType:
    grid = _grid("left", "right", "right")
    path = list(result.critical_path.items())
    for name, op_s in path[:SHOWN_OF_PATH]:
        grid.add_row(name, units.seconds_like(op_s, result.step_s), units.percent(op_s / result.step_s))
    return grid


def _memory(result: Result) -> RenderableType:
    grid = _grid("left", "right", "right", "left", "wrap")
    capacity = result.memory.capacity
    for part, held in memory_components(result.memory).items():
        if held > 0.0:
            colour = "dim" if part in ("lost", "reserved") else "blue"
            shown = Text(units.bar(held / capacity, BAR).ljust(BAR), colour)
            words = Text(MEMORY.get(part, ""), "dim")
            grid.add_row(part, f"{held / units.GIB:,.1f} GiB", units.percent(held / capacity), shown, words)
    return grid


def _hints(result: Result) -> Iterator[RenderableType]:
    found = hints(result)
    if found:
        yield Padding(Text("What to change", "bold"), (1, 0, 0, 0))
        yield from (Text(f"- {hint}") for hint in found)
