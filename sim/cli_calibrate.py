# ruff: noqa: PLC0415 -- a command imports what it needs itself, and takes its options as typer passes them
"""Commands of calibration: measure kernels, read other tools' measurements, fit, evaluate, compare with a trace."""

from pathlib import Path
from typing import Annotated

import typer

from sim.cli_input import BAD_INPUT, AsJson, DeviceName, JobPath, ProfilePath, TablePath, bad_input, print_json

app = typer.Typer()
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.")]
ClusterName = Annotated[str, typer.Option("--cluster", help="Where collectives ran; by default a usual one.")]


@app.command()
def capture(
    out: Annotated[Path, typer.Argument(help="The table to write; rows that are in it are not measured again.")],
    budget: Annotated[float, typer.Option(min=1.0, help="Seconds to measure for.")] = 600.0,
    seed: Annotated[int, typer.Option(help="Which shapes are drawn; another seed gives others of the same kinds.")] = 1,
    family: Annotated[list[str] | None, typer.Option(help="Only this family of microbenchmarks. Repeatable.")] = None,
) -> None:
    """Measure kernels and collectives on the GPUs of this machine, into a table."""
    from calibration.capture import Options
    from calibration.capture import capture as measure
    from calibration.environment import CaptureError

    with bad_input():
        try:
            done = measure(Options(out=out, budget_s=budget, seed=seed, families=tuple(family or ())))
        except CaptureError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(BAD_INPUT) from None
    for name, rows in done.rows.items():
        typer.echo(f"{name:16} {rows:6} rows, {done.failures.get(name, 0)} not possible", err=True)


@app.command(name="import")
def import_files(
    files: Annotated[list[Path], typer.Argument(help="What nccl-tests, Nsight, rocprof, Kineto, ... wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write, a CSV file.")],
    reader: Annotated[str | None, typer.Option(help="The tool, where a file does not show it.")] = None,
    device: Annotated[str | None, typer.Option(help="What was measured, where a file does not say.")] = None,
    stack: Annotated[str | None, typer.Option(help="On which software, e.g. nccl-2.28.")] = None,
    op: Annotated[str | None, typer.Option(help="The collective, for logs that do not name it.")] = None,
    ranks_per_node: Annotated[int | None, typer.Option(min=1, help="Devices of one node in a collective.")] = None,
    kernel: Annotated[str | None, typer.Option(help="Of attention, e.g. cudnn, where a file does not say.")] = None,
) -> None:
    """Read the output of other measuring tools into a table."""
    from calibration.readers import Context, read_file
    from calibration.table import append

    context = Context(device=device, stack=stack, op=op, ranks_per_node=ranks_per_node, kernel=kernel)
    with bad_input():
        found = [read_file(file, reader=reader, context=context) for file in files]
        append(out, [record for one in found for record in one.records])
    for file, one in zip(files, found, strict=True):
        typer.echo(f"{file}: {len(one.records)} rows", err=True)
        for note in one.notes:
            typer.echo(f"  {note}", err=True)


@app.command()
def topology(
    file: Annotated[Path, typer.Argument(help="nvidia-smi topo -m, rocm-smi --showtopo, or NCCL's topology XML.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The cluster file to write, a TOML file.")],
    device: Annotated[str, typer.Option(help="The GPUs, a device of the catalogue.")],
    nics: Annotated[int | None, typer.Option(min=1, help="Adapters for training, if not all that are there.")] = None,
    nic_gbit_per_s: Annotated[float | None, typer.Option(min=0.1, help="Of each adapter, in Gb/s.")] = None,
    network: Annotated[str, typer.Option(help="Fabric between nodes, a name of the catalogue.")] = "infiniband",
) -> None:
    """Turn what a machine says of its links into a cluster file for job files."""
    from calibration.readers import cluster_toml, read_topology
    from hardware import catalog
    from sim.report.files import write_text

    with bad_input():
        machine = catalog.device(device)
        catalog.fabric(network)
        found = read_topology(file)
        text = cluster_toml(found, machine, name=out.stem, nics=nics, nic_gb_per_s=nic_gbit_per_s, scale_out=network)
        write_text(out, text)


@app.command()
def fit(table: TablePath, device: DeviceName = "", cluster: ClusterName = "", out: Out = None) -> None:
    """Learn the correction over physics from a table of measurements, as a profile that `run` uses by itself."""
    from calibration import profile as profiles
    from calibration.fit import fit as learn
    from hardware.descriptor import DescriptorError
    from sim.machine import domain_of, machine_of
    from sim.measured import measured_device

    with bad_input():
        rows, machine = measured_device(table, device)
        joined = machine_of(machine, cluster)
        try:
            found = learn(
                rows,
                machine,
                done=lambda family: typer.echo(f"{family}: fitted", err=True),
                domain=domain_of(joined) if joined else None,
            )
        except ValueError as error:
            raise DescriptorError(table, [str(error)]) from error
        path = out or profiles.FOLDER / machine.name / (found.stack or "measured") / profiles.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        profiles.save(found, path)
    typer.echo(str(path))


@app.command()
def fit_host(
    tables: Annotated[list[Path], typer.Argument(metavar="TABLE...", help="Measured steps, a table for each machine.")],
    stack: Annotated[str, typer.Option(help="Which stack of the catalogue ran.")] = "torchtitan",
    as_json: AsJson = False,
) -> None:
    """Learn what the host costs from steps that wait for it: lines for the file of the stack."""
    from sim.host_costs import fitted_host, host_runs
    from sim.report.host import host_document, host_report
    from sim.report.terminal import show

    with bad_input():
        found = host_runs(tables, stack)
    fitted = fitted_host(found)
    if as_json:
        print_json(host_document(found, fitted))
    else:
        show(*host_report(found, fitted))


@app.command()
def evaluate(
    table: TablePath,
    device: DeviceName = "",
    cluster: ClusterName = "",
    profile: ProfilePath = None,
    physics: Annotated[bool, typer.Option("--physics", help="Physics alone, without a profile.")] = False,
    sustained: Annotated[bool, typer.Option("--sustained/--burst", help="Rows of long runs, or of bursts.")] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out-device", help="Each device of the table by a fit on all the others.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write two plots: accuracy and roofline.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how good prices are on measurements that the fit has not seen; of long runs also power and clock."""
    from calibration.evaluate import evaluate as compare_rows
    from calibration.evaluate_power import power_points, power_summary
    from sim.machine import machine_of, priced_messages
    from sim.measured import measured_device
    from sim.profiles import cost_model
    from sim.report.tables import evaluation_table
    from sim.report.terminal import show

    if leave_out:
        _leave_out(table, as_json)
        return
    with bad_input():
        rows, machine = measured_device(table, device)
        model = cost_model(machine, profile=profile, physics=physics, sustained=sustained)
        joined = machine_of(machine, cluster)
        messages = priced_messages(joined, model) if joined else None
        report = compare_rows(rows, model, machine, mode="sustained" if sustained else "burst", messages=messages)
        burst = cost_model(machine, profile=profile, physics=physics)
        power = power_summary(power_points(rows, burst, machine)) if sustained else []
        if html:
            from calibration.plots import page
            from sim.report.files import write_text

            write_text(html, page(report, machine))
    if as_json:
        print_json(report.document() | ({"power": power} if sustained else {}))
    else:
        reasons = [f"{rows:,} rows without a price: {reason}" for reason, rows in report.skipped.items()]
        show(evaluation_table([*report.summary(), *power]), *reasons)


def _leave_out(table: Path, as_json: bool) -> None:
    """Print the errors on each device of a table by what was learned on its other devices."""
    from calibration.leave_out import leave_out_lines
    from hardware.descriptor import DescriptorError
    from sim.measured import measured_devices
    from sim.report.tables import leave_out_table
    from sim.report.terminal import show

    with bad_input():
        rows, devices = measured_devices(table)
        try:
            lines = leave_out_lines(rows, devices, lambda name: typer.echo(f"{name}: left out", err=True))
        except ValueError as error:
            raise DescriptorError(table, [str(error)]) from error
    if as_json:
        print_json({"devices": list(devices), "summary": lines})
    else:
        show(leave_out_table(lines))


@app.command()
def compare(
    path: JobPath,
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A Kineto trace of one rank.")],
    as_json: AsJson = False,
) -> None:
    """Lay a simulated step beside a measured one: a job file and a trace of PyTorch's profiler."""
    from calibration.readers import as_in_a_trace, step_breakdown
    from sim.jobfile import read_job
    from sim.report.tables import comparison_table
    from sim.report.terminal import show
    from sim.step import simulate

    with bad_input():
        measured = step_breakdown(trace)
        result = simulate(read_job(path, ()))
    predicted = as_in_a_trace(result.breakdown)
    if as_json:
        print_json(
            {
                "measured_s": measured.step_s,
                "predicted_s": result.step_s,
                "measured": dict(measured.breakdown),
                "predicted": predicted,
                "notes": list(measured.notes),
            }
        )
        return
    show(comparison_table(predicted, measured.breakdown, result.step_s, measured.step_s), *measured.notes)
