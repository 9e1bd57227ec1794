# ruff: noqa: PLC0415 -- a command imports what it needs itself, and takes its options as typer passes them
"""The command line. Commands import what they need themselves, so that each starts fast."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sim import cli_calibrate, cli_validate
from sim.cli_input import (
    AsJson,
    DeviceName,
    JobPath,
    ProfilePath,
    Settings,
    Size,
    Sustained,
    TablePath,
    bad_input,
    print_json,
)

app = typer.Typer(
    name="steptime",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SHOWN_POINTS = 20


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


@app.command()
def run(
    path: JobPath,
    settings: Settings = None,
    profile: ProfilePath = None,
    as_json: AsJson = False,
    trace: Annotated[Path | None, typer.Option(help="Write a trace for Perfetto or chrome://tracing.")] = None,
) -> None:
    """Simulate one training step: its time, where it goes, and whether it fits."""
    from sim.jobfile import read_job
    from sim.profiles import chosen
    from sim.step import simulate

    with bad_input():
        job = read_job(path, settings or ())
        result = simulate(job, chosen(profile, job.cluster.device))
        if trace:
            from sim.report.files import write_text
            from sim.report.trace import trace_text

            write_text(trace, trace_text(result))
    if as_json:
        from sim.report.document import run_document

        print_json(run_document(result))
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

    with bad_input():
        found = read_study(path, settings or ())
        with progress(len(found.points())) as done:
            rows = run_study(found, jobs, done)
        if csv:
            write_text(csv, csv_text(rows))
    if as_json:
        print_json({"grid": {key: list(values) for key, values in found.grid.items()}, "rows": rows})
    else:
        show(*study_table(rows, list(found.grid), top))


@app.command()
def price(
    path: TablePath,
    device: DeviceName = "",
    cluster: Annotated[str, typer.Option(help="Where collectives run; by default a usual one.")] = "",
    profile: ProfilePath = None,
    sustained: Sustained = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the table there.")] = None,
) -> None:
    """Price the rows of a measurement table: adds predicted_s, predicted_low_s, predicted_high_s."""
    from sim.pricing_table import Machines, price_table
    from sim.report.files import write_text
    from sim.report.tables import price_summary
    from sim.report.terminal import show

    with bad_input():
        machines = Machines(device=device, cluster=cluster, profile=profile)
        priced = price_table(path, machines, sustained=sustained)
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

    with bad_input():
        op = Gemm(m=m, n=n, k=k, dtype=dtype, batch=batch, layout=layout.value, out_dtype=out_dtype(dtype))
        document = gemm_document(op, catalog.device(device))
    if as_json:
        print_json(document)
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
        print_json(entries(kind) if kind else {each.value: entries(each) for each in Kind})
    else:
        show(listing(kind) if kind else overview())


app.registered_commands += cli_validate.app.registered_commands
app.registered_commands += cli_calibrate.app.registered_commands


if __name__ == "__main__":
    main()
