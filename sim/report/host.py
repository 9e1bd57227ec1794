"""What a host costs, as lines for the file of a stack and as a document; how fast the machines are."""

import math
from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from calibration.steps.fit_host import HostFit, costs_of
from sim.host_costs import HostRuns
from sim.report.terminal import table

# Entries of [host] that the fit may change, in the order of a stack file.
ENTRIES = ("launch_s", "again_s", "message_s", "unit_s", "group_s", "expert_s", "ring_s", "step_s", "tensor_s")


def host_report(found: HostRuns, fit: HostFit) -> Iterator[RenderableType]:
    """Lines for the stack file, machines, and what is left."""
    yield from map(Text, toml_lines(fit))
    if fit.untold:
        yield Text(f"as they were, since no run shows them: {', '.join(fit.untold)}")
    yield Text()
    yield _machines_table(found.of_machine, fit.machines)
    words = f"{len(found.runs)} runs of {len(found.jobs)} cases"
    yield Text(f"\n{words}: a run is off by {100 * fit.residual:.0f} % (one standard deviation), its machine apart")


def toml_lines(fit: HostFit) -> list[str]:
    """Entries of `[host]` that were fitted, each with the standard errors of its costs."""
    costs = costs_of(fit.host)
    named = {entry: [name for name in costs if name.partition(".")[0] == entry] for entry in ENTRIES}
    shown = {entry: names for entry, names in named.items() if any(name in fit.errors for name in names)}
    return [f"{entry} = {_value(costs, names)} # {_errors(fit, names)}" for entry, names in shown.items()]


def host_document(found: HostRuns, fit: HostFit) -> dict[str, object]:
    """For programs."""
    costs = costs_of(fit.host)
    return {
        "stack": found.stack,
        "costs_s": {name: costs[name] for name in fit.errors},
        "standard_errors": dict(fit.errors),
        "untold": list(fit.untold),
        "machines": [
            {"machine": name, "runs": found.of_machine[name], "step": math.exp(effect)}
            for name, effect in fit.machines.items()
        ],
        "runs": len(found.runs),
        "cases": len(found.jobs),
        "residual": fit.residual,
    }


def _value(costs: Mapping[str, float], names: list[str]) -> str:
    cells = {name.partition(".")[2]: _number(costs[name]) for name in names}
    return cells.get("") or "{ " + ", ".join(f"{key} = {cell}" for key, cell in cells.items()) + " }"


def _number(cost: float) -> str:
    """Three digits: `4.31e-5`."""
    digits, _, power = f"{cost:.2e}".partition("e")
    return f"{digits}e{int(power)}" if cost else "0.0"


def _errors(fit: HostFit, names: list[str]) -> str:
    said = [f"{100 * fit.errors[name]:.0f} %" if name in fit.errors else "as it was" for name in names]
    return f"standard error {', '.join(said)}"


def _machines_table(runs: Mapping[str, int], effects: Mapping[str, float]) -> Table:
    made = table("machine", "runs", "its steps, of those on a typical one")
    for name, effect in effects.items():
        made.add_row(name, str(runs[name]), f"{100 * math.exp(effect):.0f} %")
    return made
