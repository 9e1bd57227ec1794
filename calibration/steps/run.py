"""Measures the cases on the GPUs at hand: `python -m calibration.steps.run --out FOLDER`.

A row is in `step_times.csv` as soon as it is measured; the same command goes on with the cases that are not there.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from calibration.steps import corpus, table
from calibration.steps.case import CASES, TORCHTITAN, Case, Cases, chosen, read, shipped
from calibration.steps.config import written
from calibration.steps.launch import Launch, launcher, tidy
from calibration.steps.log import FailedRunError, measured
from calibration.steps.row import SHIPPED, Machine, failed, row

# A cold compilation and the largest model start within this.
LONGEST_RUN_S = 120.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = _options(arguments)
    if options.cases:
        os.environ[CASES] = str(options.cases.resolve())
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    cases = chosen()
    if cases.framework == TORCHTITAN:
        corpus.build(out / "assets")
    launch = launcher(options.launcher, cases.framework)
    file = options.cases.as_posix() if options.cases else SHIPPED
    machine = Machine(device=options.device, fabric=options.fabric, gpus_per_node=options.gpus_per_node)
    deadline = time.monotonic() + options.budget
    for number, case in _left(cases, out, options):
        if time.monotonic() + options.shortest > deadline:
            break
        began = time.monotonic()
        timeout_s = min(LONGEST_RUN_S, deadline - began)
        found = measure(
            number, case, out, launch, timeout_s, machine=machine, steps=options.steps, trace=options.trace, file=file
        )
        table.append(out / "step_times.csv", found)
        print(_line(case, found, time.monotonic() - began), flush=True)  # noqa: T201


def measure(
    number: int,
    case: Case,
    out: Path,
    launch: Launch,
    timeout_s: float,
    *,
    machine: Machine,
    steps: tuple[int, int],
    trace: bool = False,
    file: str = SHIPPED,
) -> dict[str, object]:
    """Row of one case.

    steps: how many are run, and how many of them, the first ones, do not count.
    file: of the cases, which the row names.
    """
    shape = chosen().shapes[case.shape]
    folder = out / "runs" / case.name
    folder.mkdir(parents=True, exist_ok=True)
    config = written(case, out / "assets", folder, steps[0], trace=trace)
    logs = launch(config, case.gpus, folder, timeout_s)
    tidy(folder)
    tokens_per_gpu = case.global_batch * case.seq_len / case.gpus
    try:
        return row(number, case, shape, measured(logs, tokens_per_gpu=tokens_per_gpu, skip=steps[1]), machine, file)
    except FailedRunError as error:
        return failed(number, case, shape, str(error), machine, file)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="calibration.steps.run", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table, configurations and logs")
    parser.add_argument("--budget", type=float, default=1800.0, help="seconds after which no run goes on")
    parser.add_argument("--shortest", type=float, default=10.0, help="seconds that have to be left to start a run")
    parser.add_argument("--gpus", type=int, default=2, help="cases that need more are left out")
    parser.add_argument("--device", default="h200-sxm", help="name of the GPU in the catalogue")
    parser.add_argument("--fabric", default="nvlink-switch", help="inside a node, as in the table of steps")
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--cases", type=_case_file, help="a file of shapes and cases, by default the one that ships")
    parser.add_argument("--case", nargs="*", default=[], help="these only")
    parser.add_argument("--steps", type=int, nargs=2, default=(12, 4), help="steps of a run; first steps not counted")
    parser.add_argument("--trace", action="store_true", help="profile the last step; its time is not a measurement")
    parser.add_argument("--launcher", choices=("torchrun", "fork"), default="torchrun")
    options = parser.parse_args(arguments)
    known = (read(options.cases) if options.cases else shipped()).cases
    if strangers := set(options.case) - {case.name for case in known}:
        parser.error(f"no case {', '.join(sorted(strangers))}")
    if large := [case.name for case in known if case.name in options.case and case.gpus > options.gpus]:
        parser.error(f"{', '.join(large)}: more GPUs than --gpus {options.gpus}")
    return options


def _case_file(text: str) -> Path:
    """The path, if cases can be read from it."""
    path = Path(text)
    try:
        read(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{text} is no file of cases: {error}") from None
    return path


def _left(cases: Cases, out: Path, options: argparse.Namespace) -> list[tuple[int, Case]]:
    """Numbered as they ship, so that a row keeps its name whichever cases are run."""
    measured_before = out / "step_times.csv"
    done = {found["cite"] for found in table.read(measured_before)} if measured_before.exists() else set()
    chosen = [(number, case) for number, case in enumerate(cases.cases, 1) if case.gpus <= options.gpus]
    return [
        (number, case)
        for number, case in chosen
        if (not options.case or case.name in options.case) and not any(case.name == cite.split()[1] for cite in done)
    ]


def _line(case: Case, found: dict[str, object], took_s: float) -> str:
    if found["outcome"] != "ok":
        return f"{case.name:32} {found['outcome']}: {found['notes']} ({took_s:.0f} s)"
    return f"{case.name:32} {found['step_time_s']:>9} s  {found['memory_gb']:>7} GiB  ({took_s:.0f} s)"


if __name__ == "__main__":
    main()
