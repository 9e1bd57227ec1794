"""Learns what the host of a trainer costs from steps that wait for it, on several machines.

    log(measured) = log(simulated with the costs) + effect of the machine + noise

Machines differ, and so do runs: the effect of a machine and the noise are both drawn from normal distributions, and a
run far off the others counts less (soft L1). Costs are fitted in logarithm, weakly drawn to those of the stack. The
simulated steps come as a function: the simulator's layer lies above.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.cost.rates import Floats
from workloads.stack import Host

NOISE = 0.15  # of log(measured) from run to run
MACHINE = 0.15  # of log(measured) from machine to machine
COST = 2.0  # of log(cost) around that of the stack: e^2 to each side
OUTLIER = 1.5  # standard deviations of noise from which a run counts less
UNKNOWN_S = 3e-4  # where a stack has no such cost: a factor of e^4 to each side spans kernels and steps
OPTIONAL = ("group_s", "expert_s", "ring_s", "tensor_s")  # costs that a stack may be without
ABOVE = 4.0  # times the costs of the stack: another place to start from
NEGLIGIBLE = 1e-3  # of every step: what a cost changes at most, when it is doubled, that cannot be told

# Costs of the host -> step of every case, in seconds.
Simulated = Callable[[Host], Sequence[float]]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured run.

    Args:
        machine: where it ran.
        case: what it trains, by its place among those that are simulated; runs of one case on one machine together
            weigh as one.
    """

    machine: str
    case: int
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFit:
    """What the host costs.

    Args:
        host: that of the stack with the costs that were fitted.
        errors: standard error of the logarithm of each cost that was fitted, `launch_s.eager` by name.
        untold: costs that change none of the runs, and stay as they are.
        machines: log(step on a machine / on the typical one); positive where it is slower.
        residual: standard deviation of what is left of log(measured) of a run.
    """

    host: Host
    errors: Mapping[str, float]
    untold: tuple[str, ...]
    machines: Mapping[str, float]
    residual: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """What is fitted, and to what. A point is the logarithms of the costs, then the effects of the machines.

    Args:
        start: log of the costs of the stack.
        log_s: of each run, as `case`, `machine` (places) and `weight`, 1 over the runs of its case on its machine.
        steps: log of each case's step with costs of these logarithms.
    """

    names: Sequence[str]
    machines: Sequence[str]
    start: Floats
    log_s: Floats
    case: Places
    machine: Places
    weight: Floats
    steps: Callable[[tuple[float, ...]], Floats]

    @property
    def origin(self) -> Floats:
        """The costs of the stack, and machines that are alike."""
        return np.concatenate([self.start, np.zeros(len(self.machines))])

    @property
    def above(self) -> Floats:
        """Higher costs: one that hides behind the GPU has no derivative, and shows when it is looked at from above."""
        return np.concatenate([self.start + np.log(ABOVE), np.zeros(len(self.machines))])

    def costs(self, point: Floats) -> dict[str, float]:
        """Seconds by name."""
        return dict(zip(self.names, np.exp(point).tolist(), strict=False))

    def left(self, point: Floats) -> Floats:
        """What a point does not explain of log(measured), of each run."""
        costs, effects = np.split(point, [len(self.names)])
        found: Floats = self.log_s - self.steps(tuple(costs.tolist()))[self.case] - effects[self.machine]
        return found

    def deviations(self, point: Floats) -> Floats:
        """Of the runs and of what is drawn to its prior, in standard deviations."""
        costs, effects = np.split(point, [len(self.names)])
        return np.concatenate([self.left(point) / NOISE, (costs - self.start) / COST, effects / MACHINE])

    def loss(self, squares: Floats) -> Floats:
        """Weighted soft L1 of the runs, plain squares of the rest; with two derivatives, as scipy takes it."""
        runs, priors = np.split(squares, [len(self.log_s)])
        root = np.sqrt(1.0 + runs)
        noise = self.weight * np.array([2.0 * (root - 1.0), 1.0 / root, -0.5 / root**3])
        return np.hstack([noise, [priors, np.ones_like(priors), np.zeros_like(priors)]])


def fit_host(runs: Sequence[Run], host: Host, recomputations: Iterable[str], simulated: Simulated) -> HostFit:
    """The costs under which the simulated steps are most like the measured ones.

    Args:
        host: of the stack.
        recomputations: that occur in the cases; each may have costs of its own (`Host.again_s`).
        simulated: the step of every case with other costs, in seconds.
    """
    from scipy.optimize import least_squares  # noqa: PLC0415  (heavy)

    problem = _problem(runs, host, told(host, start_of(host, recomputations), simulated), simulated)
    starts = (problem.origin, problem.above)
    fits = [least_squares(problem.deviations, start, loss=problem.loss, f_scale=OUTLIER) for start in starts]
    found = min(fits, key=lambda fit: fit.cost)
    errors = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac)))
    return HostFit(
        host=with_costs(host, problem.costs(found.x)),
        errors=dict(zip(problem.names, errors.tolist(), strict=False)),
        untold=tuple(name for name in costs_of(host) if name not in problem.names),
        machines=dict(zip(problem.machines, found.x[len(problem.names) :].tolist(), strict=True)),
        residual=float(np.sqrt(np.average(problem.left(found.x) ** 2, weights=problem.weight))),
    )


def _problem(runs: Sequence[Run], host: Host, start: Mapping[str, float], simulated: Simulated) -> _Problem:
    alike = Counter((run.machine, run.case) for run in runs)
    machines = sorted({run.machine for run in runs})

    @cache  # derivatives by the effects of the machines ask for the same costs again
    def steps(logs: tuple[float, ...]) -> Floats:
        return np.log(simulated(with_costs(host, dict(zip(start, np.exp(logs).tolist(), strict=True)))))

    return _Problem(
        names=tuple(start),
        machines=machines,
        start=np.log(list(start.values())),
        log_s=np.log([run.step_s for run in runs]),
        case=np.array([run.case for run in runs], dtype=np.intp),
        machine=np.array([machines.index(run.machine) for run in runs], dtype=np.intp),
        weight=np.array([1.0 / alike[run.machine, run.case] for run in runs]),
        steps=steps,
    )


def told(host: Host, costs: Mapping[str, float], simulated: Simulated) -> dict[str, float]:
    """The costs that show in a step: where they are doubled, some case takes longer."""
    once = np.array(simulated(with_costs(host, costs)))
    twice = {name: np.array(simulated(with_costs(host, {**costs, name: 2.0 * cost}))) for name, cost in costs.items()}
    return {name: costs[name] for name, steps in twice.items() if (steps > (1.0 + NEGLIGIBLE) * once).any()}


def costs_of(host: Host) -> dict[str, float]:
    """Seconds by name: `launch_s.eager`, `unit_s`."""
    tables = {"launch_s": host.launch_s, "again_s": host.again_s, "message_s": host.message_s}
    found = {f"{table}.{key}": cost for table, costs in tables.items() for key, cost in costs.items()}
    shown = {name: getattr(host, name) for name in OPTIONAL if getattr(host, name)}
    return {**found, "unit_s": host.unit_s, "step_s": host.step_s, **shown}


def start_of(host: Host, recomputations: Iterable[str]) -> dict[str, float]:
    """Where the fit begins: the costs of the stack, and a guess for those that it has not."""
    known = costs_of(host)
    return {name: known.get(name) or UNKNOWN_S for name in [*known, *(f"again_s.{mode}" for mode in recomputations)]}


def with_costs(host: Host, costs: Mapping[str, float]) -> Host:
    """The host with other costs, by the names of `costs_of`."""
    changes: dict[str, Any] = {}
    for name, cost in costs.items():
        field, _, key = name.partition(".")
        changes[field] = {**changes.get(field, getattr(host, field)), key: cost} if key else cost
    return replace(host, **changes)
