"""Tables of machines in, what the host of a stack costs out."""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from calibration.steps.case import shipped
from calibration.steps.fit_host import costs_of, with_costs
from calibration.steps.row import Machine, failed
from calibration.steps.table import write
from sim.catalog import stack
from sim.cli import app
from sim.host_costs import fitted_host, host_runs, prepared
from sim.report.host import host_report, toml_lines
from sim.rows import job_of
from sim.step import simulate

PROFILE = Path(__file__).parents[2] / "calibration" / "profiles" / "h200-sxm" / "torch-2.11-cu130"
TABLES = sorted((PROFILE / "host").glob("*.csv"))
HOST = stack("torchtitan").host
CASES = shipped("host.toml")
EAGER = ("host-bf16", "host-bf16-4", "host-bf16-full", "host-fsdp2", "host-tp2-bf16", "host-fsdp2-tp2")
PLANTED = {"launch_s.eager": 1.5, "again_s.full": 2.0, "message_s.eager": 0.7, "unit_s": 0.8, "step_s": 1.4}


def rows(names: tuple[str, ...] = EAGER, slower: float = 1.0, **costs: float) -> list[dict[str, str]]:
    """What a machine would measure, each cost so many times that of the stack."""
    host = with_costs(HOST, {name: times * costs_of(HOST)[name] for name, times in costs.items()})
    found = []
    for number, case in enumerate(CASES.cases, 1):
        if case.name in names:
            row = {
                name: str(cell) for name, cell in failed(number, case, CASES.shapes[case.shape], "", Machine()).items()
            }
            job = job_of(row)
            step_s = slower * simulate(replace(job, stack=replace(job.stack, host=host))).step_s
            found.append(row | {"outcome": "ok", "step_time_s": str(step_s)})
    return found


def table(path: Path, made: list[dict[str, str]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    write(path, made)
    return path


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, ["fit-host", *map(str, words)], env={"COLUMNS": "100"})


@pytest.fixture(scope="module")
def shipped_fit() -> Mapping[str, Any]:
    done = invoke(*TABLES, "--json")
    assert done.exit_code == 0, done.output
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def test_planted_costs_and_speeds_are_found_again_from_tables(tmp_path: Path):
    tables = [
        table(tmp_path / name / "step_times.csv", rows(slower=slower, **PLANTED))
        for name, slower in (("a", 1.1), ("b", 1 / 1.1))
    ]
    found = host_runs(tables, "torchtitan")
    fit = fitted_host(found)
    planted = {name: times * costs_of(HOST)[name] for name, times in PLANTED.items()}
    assert {name: costs_of(fit.host)[name] for name in planted} == pytest.approx(planted, rel=0.02)
    effect = math.log(1.1) * len(EAGER) / (len(EAGER) + 1)  # the prior weighs as one run more
    assert fit.machines == pytest.approx({"a/step_times.csv": effect, "b/step_times.csv": -effect}, abs=5e-3)
    assert fit.untold == ("launch_s.compile", "again_s.selective-op-alternate", "message_s.compile")


def test_a_case_is_simulated_as_the_whole_simulator_does_it():
    for row in rows(("host-fsdp2-tp2", "host-bf16-full")):
        assert prepared(job_of(row)).step_s(HOST) == simulate(job_of(row)).step_s


def test_rows_of_the_same_inputs_are_one_case(tmp_path: Path):
    made = rows(("host-bf16", "host-fsdp2"))
    tables = [table(tmp_path / f"{name}.csv", made) for name in "ab"]
    found = host_runs(tables, "torchtitan")
    assert (len(found.jobs), len(found.runs)) == (2, 4)


def test_a_failed_run_does_not_count(tmp_path: Path):
    good, bad = rows(("host-bf16",)), rows(("host-fsdp2",))
    whole = table(tmp_path / "a.csv", [*good, bad[0] | {"outcome": "failed", "step_time_s": ""}])
    assert host_runs([whole], "torchtitan") == host_runs([table(tmp_path / "b" / "a.csv", good)], "torchtitan")


def test_the_stack_has_the_costs_that_the_shipped_tables_give(shipped_fit: Mapping[str, Any]):
    """To the three digits of the stack file."""
    costs = costs_of(HOST)
    assert shipped_fit["costs_s"] == pytest.approx({name: costs[name] for name in shipped_fit["costs_s"]}, rel=5e-3)
    assert set(shipped_fit["costs_s"]) == set(costs)
    assert (shipped_fit["runs"], len(shipped_fit["machines"])) == (157, 8)


def test_the_spread_of_hosts_is_what_machines_and_runs_scatter(shipped_fit: Mapping[str, Any]):
    """Machines and noise are independent, so their variances add up."""
    steps = [one["step"] for one in shipped_fit["machines"]]
    machines = sum((step - 1.0) ** 2 for step in steps) / (len(steps) - 1)
    assert (shipped_fit["residual"] ** 2 + machines) ** 0.5 == pytest.approx(HOST.spread, rel=0.1)


def test_the_lines_are_toml_with_the_fitted_costs(tmp_path: Path):
    found = host_runs([table(tmp_path / "a.csv", rows(("host-bf16", "host-bf16-4")))], "torchtitan")
    fit = fitted_host(found)
    read = tomllib.loads("\n".join(toml_lines(fit)))
    assert set(read) == {"launch_s", "step_s"}
    assert read["launch_s"] == pytest.approx(fit.host.launch_s, rel=5e-3)
    assert "as it was" in toml_lines(fit)[0]
    assert "message_s.eager, message_s.compile, unit_s" in "\n".join(map(str, host_report(found, fit)))


def test_a_file_that_is_no_table_of_steps_is_refused(tmp_path: Path):
    (tmp_path / "some.csv").write_text("a,b\n1,2\n")
    for path, fault in ((tmp_path / "none.csv", "cannot be read"), (tmp_path / "some.csv", "columns are missing")):
        done = invoke(path)
        assert (done.exit_code, done.stdout) == (2, "")
        assert str(path) in done.stderr
        assert fault in done.stderr


def test_every_fault_of_a_table_is_told_with_its_row(tmp_path: Path):
    made = rows(("host-bf16", "host-fsdp2", "host-tp2-bf16"))
    faulty = [made[0] | {"stack": "nemo-24.07"}, made[1] | {"step_time_s": "soon"}, made[2] | {"tp": "3"}]
    done = invoke(table(tmp_path / "a.csv", faulty))
    assert done.exit_code == 2
    for words in ("stack = 'nemo-24.07': runs of 'torchtitan'", "step_time_s = 'soon'", "not divisible"):
        assert words in done.stderr


def test_a_table_without_a_good_run_is_refused(tmp_path: Path):
    done = invoke(table(tmp_path / "a.csv", [rows(("host-bf16",))[0] | {"outcome": "failed"}]))
    assert done.exit_code == 2
    assert "no run has outcome = ok" in done.stderr


def test_a_table_given_twice_and_an_unknown_stack_are_refused(tmp_path: Path):
    path = table(tmp_path / "a.csv", rows(("host-bf16",)))
    assert "a.csv: given twice" in invoke(path, path).stderr
    assert "no stack 'torchtitn'" in invoke(path, "--stack", "torchtitn").stderr


def test_megatron_core_has_the_costs_that_its_tables_give():
    """Within the errors of the fit, for the costs that three machines tell."""
    folder = PROFILE / "megatron-core" / "host"
    found = host_runs(sorted(folder.glob("*.csv")), "megatron-core")
    fit = fitted_host(found)
    stated, fitted = costs_of(stack("megatron-core").host), costs_of(fit.host)
    assert {name for name, error in fit.errors.items() if error < 0.5} == {
        "launch_s.eager",
        "message_s.eager",
        "expert_s",
        "ring_s",
    }
    assert all(fitted[name] == pytest.approx(stated[name], rel=error) for name, error in fit.errors.items())
    assert (len(found.runs), len(fit.machines)) == (25, 3)
