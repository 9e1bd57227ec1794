"""Calibration from the command line: what it writes, and how it answers what it cannot use."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from calibration.table import read_table
from hardware import catalog
from sim.cli import app

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "calibration" / "fixtures"
MEASURED = ROOT / "calibration" / "profiles" / "h200-sxm" / "torch-2.11-cu130"
JOB = str(ROOT / "examples" / "llama-3.1-8b-fsdp.toml")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_what_a_tool_wrote_becomes_a_table(tmp_path: Path):
    out = tmp_path / "rows.csv"
    done = invoke("import", FIXTURES / "nccl-tests-mpi.txt", "-o", out, "--device", "h100-sxm", "--stack", "nccl-2.20")
    assert done.exit_code == 0, done.stderr
    rows = read_table(out)
    assert rows and all(row.ranks and row.time_s for row in rows)


def test_a_file_of_no_known_tool_is_refused_and_writes_nothing(tmp_path: Path):
    out = tmp_path / "rows.csv"
    done = invoke("import", ROOT / "README.md", "-o", out)
    assert done.exit_code == 2
    assert "known: aiconfigurator, cutlass-profiler" in done.stderr
    assert not out.exists()


def test_a_topology_becomes_a_cluster(tmp_path: Path):
    out = tmp_path / "my-node.toml"
    words = ("topology", FIXTURES / "nvidia-smi-topo.txt", "--device", "h200-sxm", "--nic-gbit-per-s", 400, "-o", out)
    done = invoke(*words)
    assert done.exit_code == 0, done.stderr
    assert catalog.cluster(out).device.name == "h200-sxm"


def test_a_topology_of_unknown_gpus_is_refused(tmp_path: Path):
    out = tmp_path / "my-node.toml"
    done = invoke("topology", FIXTURES / "nvidia-smi-topo.txt", "--device", "h999", "-o", out)
    assert (done.exit_code, out.exists()) == (2, False)


def test_evaluation_says_how_good_a_profile_is():
    """Better than physics alone on shapes that the fit has not seen, and honest about it."""
    table = MEASURED / "held_out.csv"
    learned, physics = (
        json.loads(invoke("evaluate", table, "--json", *more).stdout)["summary"] for more in ((), ("--physics",))
    )
    mean = [{(row["family"], row["group"]): row for row in rows} for rows in (learned, physics)]
    for family in ("gemm", "attention", "pointwise", "collective"):
        assert mean[0][family, "all"]["mean"] < 0.6 * mean[1][family, "all"]["mean"]
        assert 0.85 <= mean[0][family, "all"]["inside"] <= 0.96


def test_held_out_collectives_from_1_mb_up_meet_their_goal():
    summary = json.loads(invoke("evaluate", MEASURED / "held_out.csv", "--json").stdout)["summary"]
    large = [line for line in summary if line["family"] == "collective" and line["group"].endswith("1 MB up")]
    assert len(large) == 13
    assert all(line["median"] < 0.04 and line["mean"] < 0.07 for line in large)


def test_evaluation_of_long_runs_has_power_and_clock():
    document = json.loads(invoke("evaluate", MEASURED / "held_out.csv", "--sustained", "--json").stdout)
    lines = {(line["family"], line["group"]): line for line in document["power"]}
    assert lines["power", "gemm"]["median"] < 0.04
    assert lines["power", "gemm"]["mean"] < 0.07
    assert lines["clock", "gemm"]["n"] > 10


def test_collectives_on_a_cluster_of_another_device_are_refused():
    done = invoke("evaluate", MEASURED / "held_out.csv", "--cluster", "dgx-h100")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "dgx-h100 has h100-sxm, not h200-sxm" in done.stderr


def test_leaving_out_the_only_device_is_refused():
    done = invoke("evaluate", MEASURED / "held_out.csv", "--leave-out-device")
    assert done.exit_code == 2
    assert "at least two devices are needed" in done.stderr


def test_too_few_rows_are_no_profile(tmp_path: Path):
    table = tmp_path / "few.csv"
    table.write_text("\n".join((MEASURED / "measurements.csv").read_text("utf-8").splitlines()[:6]) + "\n", "utf-8")
    done = invoke("fit", table, "-o", tmp_path / "profile.npz")
    assert done.exit_code == 2
    assert "nothing to fit" in done.stderr
    assert not (tmp_path / "profile.npz").exists()


def test_a_step_stands_beside_a_trace():
    done = invoke("compare", JOB, FIXTURES / "kineto-cuda.json", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(found["measured"].values()) == pytest.approx(found["measured_s"], rel=1e-6)
    assert sum(found["predicted"].values()) == pytest.approx(found["predicted_s"], rel=1e-6)
