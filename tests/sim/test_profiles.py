"""A profile that a person names prices what its device does, and nothing else."""

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from calibration.cost.physics import Physics
from calibration.fit import fingerprint
from calibration.profile import FILE, Profile, ProfileError, profile_for, save
from calibration.table import read_table
from hardware import catalog
from sim.cli import app
from sim.profiles import chosen, given, given_for, model_of
from sim.rows import job_of
from sim.step import simulate
from sim.validate import validate_table
from tests.sim.test_validate import row, table
from workloads.ops import Gemm

EXAMPLE = Path(__file__).parents[2] / "examples" / "b200-simumax"
DRAWS_MORE = 1.8
LARGE = {"layers": "16", "hidden": "12288", "ffn": "49152", "heads": "96"}  # GEMMs that hold the power limit
TABLE = "op,device,dtype,m,n,k\ngemm,h100-sxm,bf16,8192,8192,8192\ngemm,a100-sxm-80g,bf16,8192,8192,8192\n"


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    """Of an H100 that is as described but for what its kernels draw."""
    path = tmp_path / "hot" / FILE
    save(Profile(device="h100-sxm", stack="", devices=("h100-sxm",), families={}, provenance={}, draw=DRAWS_MORE), path)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return table(
        tmp_path / "runs.csv",
        row(id="old"),
        row(id="hot", device="h100-sxm", stack="megatron-core", execution="graph", **LARGE),
    )


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def predicted(*arguments: object) -> dict[str, float]:
    done = run("validate", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return {one["id"]: one["predicted_s"] for one in json.loads(done.stdout)["rows"]}


def test_rows_of_its_device_get_its_prices_and_others_theirs(runs: Path, hot: Path):
    usual, named = predicted(runs), predicted(runs, "--profile", hot)
    assert named["old"] == usual["old"]
    assert named["hot"] > usual["hot"]


def test_its_folder_names_it_as_well(runs: Path, hot: Path):
    assert predicted(runs, "--profile", hot.parent) == predicted(runs, "--profile", hot)


def test_kernels_that_draw_more_lower_the_clock_of_a_step(hot: Path):
    job = job_of(row(device="h100-sxm", stack="megatron-core", execution="graph", **LARGE))
    usual, drawn = simulate(job), simulate(job, chosen(hot, job.cluster.device))
    assert drawn.load.clock == pytest.approx(usual.load.clock / DRAWS_MORE**0.5, rel=0.02)
    assert usual.load.clock < 1
    assert drawn.step_s > usual.step_s


def test_a_machine_at_full_clock_is_no_faster_for_drawing_less():
    job = job_of(row(device="h100-sxm", stack="megatron-core", execution="graph", **LARGE))
    cool = Profile(device="h100-sxm", stack="", devices=("h100-sxm",), families={}, provenance={}, draw=0.5)
    assert simulate(job, model_of(cool, job.cluster.device)).load.clock == 1


def test_a_profile_of_another_device_is_told(hot: Path, tmp_path: Path):
    done = run("validate", table(tmp_path / "a100.csv", row(id="old")), "--profile", hot)
    assert done.exit_code == 2
    assert "is of h100-sxm; priced is a100-sxm-80g" in done.output
    (tmp_path / "shapes.csv").write_text(TABLE, "utf-8")
    done = run("price", tmp_path / "shapes.csv", "--device", "h200-sxm", "--profile", hot)
    assert done.exit_code == 2
    assert "is of h100-sxm; priced is h200-sxm" in done.output
    done = run("evaluate", EXAMPLE / "measurements.csv", "--profile", hot)
    assert done.exit_code == 2
    assert "is of h100-sxm; priced is b200-sxm" in done.output
    done = run("run", "examples/korthikanti-175b.toml", "--profile", hot)
    assert done.exit_code == 2
    assert "is of h100-sxm" in done.output


def test_no_profile_is_told(runs: Path, tmp_path: Path):
    for path in (tmp_path, tmp_path / "none.npz", runs):
        done = run("validate", runs, "--profile", path)
        assert done.exit_code == 2
        assert "cannot be read as a profile" in done.output


def test_a_step_runs_with_it(hot: Path):
    usual, named = (
        json.loads(
            run("run", "examples/llama-3.1-8b-fsdp.toml", "--set", "cluster.name=dgx-h100", *extra, "--json").stdout
        )["step_s"]
        for extra in ((), ("--profile", hot))
    )
    assert named > usual


def test_kernels_are_priced_with_it(hot: Path, tmp_path: Path):
    (tmp_path / "shapes.csv").write_text(TABLE, "utf-8")
    prices = {
        extra: [line.split(",")[6] for line in run("price", tmp_path / "shapes.csv", *extra).stdout.splitlines()[1:3]]
        for extra in (("--sustained",), ("--sustained", "--profile", hot), (), ("--profile", hot))
    }
    usual, named = prices["--sustained",], prices["--sustained", "--profile", hot]
    assert float(named[0]) > 1.2 * float(usual[0])
    assert named[1] == usual[1]
    # A burst is over before the power limit counts, and that profile has no measured kernels
    physics = Physics().price([Gemm(m=8192, n=8192, k=8192, dtype="bf16")], catalog.device("h100-sxm")).seconds[0]
    assert float(prices["--profile", hot][0]) == pytest.approx(physics, rel=1e-5)
    assert prices[()][1] == prices["--profile", hot][1]


def test_without_a_profile_prices_are_the_usual_ones(runs: Path):
    assert chosen(None, catalog.device("h100-sxm")) is None
    assert model_of(None, catalog.device("h100-sxm")) is None
    assert validate_table(runs).rows == validate_table(runs, None).rows


def test_the_device_is_one_of_those_asked_for(hot: Path):
    assert given_for(hot, ["a100-sxm-80g", "h100-sxm"]).devices == ("h100-sxm",)
    with pytest.raises(ProfileError, match="is of h100-sxm; priced is a100-sxm-80g, v100"):
        given_for(hot, ["v100", "a100-sxm-80g"])


def test_the_profile_of_the_example_was_fitted_on_this_physics():
    """If this fails, physics or its data changed: `steptime fit EXAMPLE/measurements.csv -o EXAMPLE/profile.npz`."""
    fitted_on = given(EXAMPLE).provenance["base_sha256"]
    assert fitted_on == {"b200-sxm": fingerprint(catalog.device("b200-sxm"))}


def test_kernels_of_a_machine_predict_its_steps_better_than_its_data_sheet():
    """Nothing but kernels was fitted. Two thirds of the mean error go; half would do."""
    before, after = (validate_table(EXAMPLE / "runs.csv", profile).summary for profile in (None, EXAMPLE))
    for model in ("SimuMax v1.2, Llama 70B", "SimuMax v1.2, Llama 405B"):
        usual, named = (next(one for one in found if one["source"] == model) for found in (before, after))
        assert named["mean_abs_error"] < 0.5 * usual["mean_abs_error"]


def test_no_profile_of_an_example_is_found_by_itself():
    found = profile_for("b200-sxm")
    assert found and found.stack == "aiconfigurator"


def test_kernels_of_the_example_are_burst_long_or_of_unknown_clock():
    rows = read_table(EXAMPLE / "measurements.csv")
    counts = Counter((row.op, row.mode) for row in rows)
    assert counts["gemm", "sustained"] == 232
    assert {row.notes.split(",")[0] for row in rows if row.notes} == {"SimuMax b200_bf16_ceperm"}


def test_the_times_of_the_example_show_which_size_is_summed_over():
    """65536 x 160 x 5120: with k 160 it writes 0.67 GB, with n 160 it reads as much, and reads are faster."""
    gemms = [row for row in read_table(EXAMPLE / "measurements.csv") if row.op == "gemm" and row.m == 65536]
    short_k = next(row.time_s for row in gemms if row.k == 160)
    short_n = next(row.time_s for row in gemms if row.n == 160)
    assert (short_k or 0) > 2 * (short_n or 0)
