"""Tables of steps that wait for their host -> what the host of a stack costs."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calibration.cost.model import CostModel
from calibration.steps.fit_host import HostFit, Run, fit_host
from hardware.descriptor import DescriptorError
from sim import profiles
from sim.catalog import stack
from sim.cells import SkippedRowError
from sim.job import Job
from sim.price import Price, price
from sim.rows import Row, job_of
from sim.step import played
from sim.validate import description, measured_s, read_rows
from workloads.build import build
from workloads.graph import Program, leaf_ops
from workloads.ops import Op
from workloads.stack import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRuns:
    """Runs on one or more machines, all of one stack, and the different cases among them."""

    stack: str
    runs: tuple[Run, ...]
    jobs: tuple[Job, ...]

    @property
    def recomputations(self) -> tuple[str, ...]:
        """That occur in the cases."""
        return tuple(sorted({job.shard().recompute_mode for job in self.jobs} - {"none"}))

    @property
    def of_machine(self) -> Mapping[str, int]:
        """How many runs each machine has."""
        return Counter(run.machine for run in self.runs)


def fitted_host(found: HostRuns) -> HostFit:
    """What the host costs, starting from what the stack says of it."""
    cases = [prepared(job) for job in found.jobs]
    host = stack(found.stack).host
    return fit_host(found.runs, host, found.recomputations, lambda costs: [case.step_s(costs) for case in cases])


def host_runs(tables: Sequence[Path], stack_name: str) -> HostRuns:
    """The runs that went well, of a table for each machine; raises DescriptorError with every fault of a table."""
    stack(stack_name)
    rows = [(name, row) for name, table in named(tables).items() for row in _rows(table, stack_name)]
    cases = {description(row): row for _, row in rows}
    places = {case: place for place, case in enumerate(cases)}
    return HostRuns(
        stack=stack_name,
        runs=tuple(Run(machine=name, case=places[description(row)], step_s=_step_s(row)) for name, row in rows),
        jobs=tuple(job_of(row) for row in cases.values()),
    )


def named(tables: Sequence[Path]) -> dict[str, Path]:
    """Tables by the name of their machine: the path from the folder that holds all of them."""
    paths = [table.resolve() for table in tables]
    folder = os.path.commonpath([path.parent for path in paths])
    names = [path.relative_to(folder).as_posix() for path in paths]
    if twice := [name for name, often in Counter(names).items() if often > 1]:
        raise DescriptorError("", [f"{name}: given twice" for name in twice])
    return dict(zip(names, tables, strict=True))


def _rows(table: Path, stack_name: str) -> list[Row]:
    rows = [row for row in read_rows(table) if row.get("outcome") == "ok"]
    faults = [f"{row['id']}: {fault}" for row in rows for fault in _faults(row, stack_name)]
    if faults or not rows:
        raise DescriptorError(table, faults or ["no run has outcome = ok"])
    return rows


def _faults(row: Row, stack_name: str) -> Iterator[str]:
    if row["stack"] != stack_name:
        yield f"stack = {row['stack']!r}: runs of {stack_name!r} are needed"
        return
    try:
        job_of(row).shard()
        _step_s(row)
    except (SkippedRowError, ValueError) as error:
        yield str(error)


def _step_s(row: Row) -> float:
    found = measured_s(row)
    if found is None:
        raise SkippedRowError("the table gives no step time")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A case whose program is built and priced; neither depends on what the host costs."""

    job: Job
    program: Program
    prices: Mapping[Op, Price]
    cost_model: CostModel

    def step_s(self, host: Host) -> float:
        """With other costs of the host."""
        job = replace(self.job, stack=replace(self.job.stack, host=host))
        return played(job, self.program, self.prices, self.cost_model).step_s


def prepared(job: Job) -> Prepared:
    """All of a simulation that the costs of the host leave as it is."""
    program, model = build(job.shard()), profiles.cost_model(job.cluster.device)
    return Prepared(job=job, program=program, prices=price(leaf_ops(program), job.machine, model), cost_model=model)
