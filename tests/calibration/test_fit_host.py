"""What the host costs, from steps whose costs were planted: launches, messages and work that can be counted by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from calibration.steps.fit_host import HostFit, Run, costs_of, fit_host, with_costs
from workloads.stack import Host

STACK = Host(
    launch_s={"eager": 4e-5, "compile": 4e-5},
    message_s={"eager": 1e-3, "compile": 1e-3},
    again_s={"full": 1e-4},
    unit_s=2e-3,
    step_s=5e-3,
)
PLANTED = {"launch_s.eager": 6e-5, "message_s.eager": 8e-4, "again_s.full": 2e-4, "unit_s": 1e-3, "step_s": 8e-3}
# Of each case: kernels, messages, kernels that are run again, units.
CASES = ((700, 0, 0, 0), (200, 0, 0, 0), (900, 130, 0, 0), (800, 0, 400, 0), (700, 0, 0, 34), (900, 130, 400, 34))
EFFECTS = {"slow": 0.2, "usual": 0.0, "fast": -0.2}


def simulated(host: Host) -> list[float]:
    costs = costs_of(host)
    names = ("launch_s.eager", "message_s.eager", "again_s.full", "unit_s")
    return [sum(costs[name] * count for name, count in zip(names, case, strict=True)) + host.step_s for case in CASES]


def measured(host: Host, cases: Sequence[int] = range(len(CASES))) -> list[Run]:
    """Every case once on every machine, without noise."""
    steps = simulated(host)
    return [
        Run(machine=name, case=case, step_s=steps[case] * math.exp(effect))
        for name, effect in EFFECTS.items()
        for case in cases
    ]


def fitted(runs: Sequence[Run], host: Host = STACK) -> HostFit:
    return fit_host(runs, host, ("full",), simulated)


RUNS = measured(with_costs(STACK, PLANTED))


def test_planted_costs_are_found_again():
    found = costs_of(fitted(RUNS).host)
    assert {name: found[name] for name in PLANTED} == pytest.approx(PLANTED, rel=0.01)


def test_a_machine_that_is_slower_has_an_effect_above_zero():
    """Six runs of standard deviation s against a prior of s: the mean of the effect is drawn to zero by 1 / (6 + 1)."""
    found = fitted(RUNS).machines
    assert found == pytest.approx({name: effect * 6 / 7 for name, effect in EFFECTS.items()}, abs=0.01)


def test_what_is_left_is_what_the_prior_takes_from_the_effects():
    """Two of three machines, 0.2 / 7 each."""
    assert fitted(RUNS).residual == pytest.approx(0.2 / 7 * math.sqrt(2 / 3), rel=0.1)


def test_a_case_measured_many_times_on_one_machine_weighs_as_one():
    once = [*RUNS, Run(machine="busy", case=0, step_s=0.2)]
    often = [*RUNS, *[Run(machine="busy", case=0, step_s=0.2)] * 20]
    assert costs_of(fitted(often).host) == pytest.approx(costs_of(fitted(once).host), rel=1e-5)
    assert fitted(often).machines == pytest.approx(fitted(once).machines, abs=1e-5)
    assert fitted(often).errors == pytest.approx(fitted(once).errors, rel=1e-4)


def test_twice_the_machines_make_surer():
    more = [*RUNS, *(replace(run, machine=f"another {run.machine}") for run in RUNS)]
    few, many = fitted(RUNS).errors, fitted(more).errors
    assert set(few) == set(PLANTED)
    assert all(many[name] < few[name] for name in PLANTED)


def test_a_run_that_took_ten_times_as_long_moves_a_cost_less_than_its_standard_error():
    (broken, *others) = RUNS
    found, best = fitted([replace(broken, step_s=10.0 * broken.step_s), *others]), fitted(RUNS)
    moved = math.log(found.host.launch_s["eager"] / best.host.launch_s["eager"])
    assert abs(moved) < best.errors["launch_s.eager"]


def test_a_cost_that_changes_no_run_stays_as_it_is_and_is_said():
    found = fitted(RUNS)
    assert found.untold == ("launch_s.compile", "message_s.compile")
    assert found.host.launch_s["compile"] == STACK.launch_s["compile"]


def test_costs_that_the_stack_has_not_are_found_too():
    bare = replace(STACK, again_s={}, unit_s=0.0)
    found = fitted(RUNS, bare)
    assert found.host.again_s["full"] == pytest.approx(PLANTED["again_s.full"], rel=0.05)
    assert found.host.unit_s == pytest.approx(PLANTED["unit_s"], rel=0.05)


def test_other_costs_leave_the_rest_of_the_host_alone():
    found = with_costs(STACK, {"message_s.compile": 1.0, "step_s": 2.0})
    assert found == replace(STACK, message_s={"eager": 1e-3, "compile": 1.0}, step_s=2.0)


def test_a_cost_that_hides_behind_the_gpu_is_found_from_above():
    """As the stack has it, the GPU takes longer in the one case that would tell: nothing changes around it."""
    host = replace(STACK, expert_s=5e-6)
    planted = with_costs(host, PLANTED | {"expert_s": 4e-5})

    def busy(costs: Host) -> list[float]:
        return [*simulated(costs), max(0.015, 1000 * costs.expert_s), 0.03 + 10 * costs.expert_s]

    runs = [Run(machine=name, case=case, step_s=step) for name in EFFECTS for case, step in enumerate(busy(planted))]
    found = fit_host(runs, host, ("full",), busy)
    assert found.host.expert_s == pytest.approx(4e-5, rel=0.02)
