# ruff: noqa: PLC0415 -- a command imports what it needs itself, and takes its options as typer passes them
"""The command line. Commands import what they need themselves, so that each starts fast."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="steptime",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BAD_INPUT = 2
SHOWN_POINTS = 20
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the job, as in layout.tp=4. Can be repeated."),
]
JobPath = Annotated[Path, typer.Argument(metavar="JOB", help="A job file (TOML).", show_default=False)]
TablePath = Annotated[Path, typer.Argument(metavar="TABLE", help="A CSV table.", show_default=False)]
Sustained = Annotated[bool, typer.Option("--sustained/--burst", help="Clocks of a long run, or of a short benchmark.")]
DeviceName = Annotated[str, typer.Option("--device", help="A device of the catalogue, or a TOML file.")]
Size = Annotated[int, typer.Argument(min=1, max=10**9, show_default=False)]


class Kind(StrEnum):
    """What the catalogue holds."""

    DEVICES = "devices"
    CLUSTERS = "clusters"
    MODELS = "models"
    STACKS = "stacks"
    SCHEDULES = "schedules"
    COLLECTIVES = "collectives"


class GemmLayout(StrEnum):
    """Memory order of the inputs: forward, data gradient, weight gradient."""

    TN = "tn"
    NN = "nn"
    NT = "nt"


def main() -> None:
    """Entry point of the `steptime` command."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"steptime {version('steptime')}")
        raise typer.Exit


@app.callback()
def _steptime(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Predicts how long a training step or a GEMM takes on a GPU cluster, and says why."""


@contextmanager
def _bad_input() -> Iterator[None]:
    """Faults of the input become one message and exit code 2; anything else is a bug and shows itself."""
    try:
        yield
    except ValueError as error:
        if not hasattr(error, "faults"):
            raise
        typer.echo(_message(error), err=True)
        raise typer.Exit(BAD_INPUT) from None


def _message(error: ValueError) -> str:
    """One line for one fault; else their number, and a line each."""
    faults = getattr(error, "faults", ())
    where = getattr(error, "path", "") or getattr(error, "where", "")
    if len(faults) == 1:
        return str(error)
    return "\n  ".join([f"{where}: {len(faults)} faults" if where else f"{len(faults)} faults", *faults])


@app.command()
def run(
    path: JobPath,
    settings: Settings = None,
    as_json: AsJson = False,
    trace: Annotated[Path | None, typer.Option(help="Write a trace for Perfetto or chrome://tracing.")] = None,
) -> None:
    """Simulate one training step: its time, where it goes, and whether it fits."""
    from sim.jobfile import read_job
    from sim.step import simulate

    with _bad_input():
        result = simulate(read_job(path, settings or ()))
        if trace:
            from sim.report.files import write_text
            from sim.report.trace import trace_text

            write_text(trace, trace_text(result))
    if as_json:
        from sim.report.document import run_document

        _print_json(run_document(result))
    else:
        from sim.report.terminal import run_report, show

        show(run_report(result))


@app.command()
def study(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help="A job file with a [grid].", show_default=False)],
    settings: Settings = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all rows as CSV.")] = None,
    as_json: AsJson = False,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for one on each core.")] = 0,
    top: Annotated[int, typer.Option(min=1, help="Rows of the table.")] = SHOWN_POINTS,
) -> None:
    """Simulate a job over a grid of values, and rank what comes out."""
    from sim.report.files import write_text
    from sim.report.progress import progress
    from sim.report.tables import csv_text, study_table
    from sim.report.terminal import show
    from sim.study import read_study, run_study

    with _bad_input():
        found = read_study(path, settings or ())
        with progress(len(found.points())) as done:
            rows = run_study(found, jobs, done)
        if csv:
            write_text(csv, csv_text(rows))
    if as_json:
        _print_json({"grid": {key: list(values) for key, values in found.grid.items()}, "rows": rows})
    else:
        show(*study_table(rows, list(found.grid), top))


@app.command()
def price(
    path: TablePath,
    device: DeviceName = "",
    cluster: Annotated[str, typer.Option(help="Where collectives run; by default a usual one.")] = "",
    sustained: Sustained = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the table there.")] = None,
) -> None:
    """Price the rows of a measurement table: adds predicted_s, predicted_low_s, predicted_high_s."""
    from sim.pricing_table import Machines, price_table
    from sim.report.files import write_text
    from sim.report.tables import price_summary
    from sim.report.terminal import show

    with _bad_input():
        priced = price_table(path, Machines(device=device, cluster=cluster), sustained=sustained)
        if output:
            write_text(output, priced.text())
    if not output:
        typer.echo(priced.text(), nl=False)
    show(*price_summary(priced), errors=not output)


@app.command()
def gemm(
    m: Size,
    n: Size,
    k: Size,
    device: Annotated[str, typer.Option(help="A device of the catalogue, or a TOML file.", show_default=False)],
    dtype: Annotated[str, typer.Option(help="Of the inputs.")] = "bf16",
    layout: Annotated[
        GemmLayout, typer.Option(help="tn forward, nn data gradient, nt weight gradient.")
    ] = GemmLayout.TN,
    batch: Annotated[int, typer.Option(min=1, max=10**9, help="Equal GEMMs in one kernel.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Price one GEMM, C[m, n] = A[m, k] B[k, n]."""
    from hardware import catalog
    from sim.gemm import gemm_document
    from sim.table_rows import out_dtype
    from workloads.ops import Gemm

    with _bad_input():
        op = Gemm(m=m, n=n, k=k, dtype=dtype, batch=batch, layout=layout.value, out_dtype=out_dtype(dtype))
        document = gemm_document(op, catalog.device(device))
    if as_json:
        _print_json(document)
    else:
        from sim.report.tables import gemm_table
        from sim.report.terminal import show

        show(*gemm_table(document))


@app.command()
def catalog(
    kind: Annotated[Kind | None, typer.Argument(help="All kinds if left out.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List what can be asked for by name."""
    from sim.report.listing import entries, listing, overview
    from sim.report.terminal import show

    if as_json:
        _print_json(entries(kind) if kind else {each.value: entries(each) for each in Kind})
    else:
        show(listing(kind) if kind else overview())


@app.command()
def validate(
    path: Annotated[Path | None, typer.Argument(metavar="[TABLE]")] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate measured training steps, and report the errors; by default of the published runs that ship."""
    from sim.report.tables import validation_summary, validation_table
    from sim.report.terminal import show
    from sim.validate import validate_table

    with _bad_input():
        found = validate_table(path)
    if as_json:
        _print_json({"rows": found.rows, "summary": found.summary})
    else:
        show(validation_table(found.rows), "", validation_summary(found.summary))


def _print_json(document: object) -> None:
    from sim.report.document import json_text

    typer.echo(json_text(document), nl=False)


if __name__ == "__main__":
    main()
