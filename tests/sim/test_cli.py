"""The command line: one document or one table out, one message and exit code 2 for bad input."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sim.cli import app

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
JOB = str(EXAMPLES / "korthikanti-175b.toml")
HEAVY = ("pandas", "sklearn", "networkx", "plotly", "joblib", "scipy")


@pytest.fixture(autouse=True)
def wide_output(monkeypatch: pytest.MonkeyPatch):
    """Lines long enough that no name is folded, whatever runs the tests."""
    monkeypatch.setenv("COLUMNS", "100")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def document(*words: str) -> Any:
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refusal(*words: str) -> str:
    """The message of a command that refuses its input."""
    result = invoke(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def test_run_prints_the_figures_and_where_the_time_goes():
    result = invoke("run", JOB)
    assert result.exit_code == 0
    for words in ("Step time", "90 % interval", "MFU", "fits", "Where the time goes", "bubble", "Memory"):
        assert words in result.stdout


def test_no_line_of_the_report_is_longer_than_a_hundred_characters():
    assert max(map(len, invoke("run", JOB).stdout.splitlines())) <= 100


def test_run_prints_one_json_document_with_consistent_figures():
    found = document("run", JOB)
    tokens = 64 * 2048
    assert found["tokens_per_s"] == pytest.approx(tokens / found["step_s"])
    assert found["tokens_per_s_per_gpu"] == pytest.approx(found["tokens_per_s"] / 64)
    assert sum(found["breakdown"].values()) == pytest.approx(found["step_s"])
    assert found["step_low_s"] < found["step_s"] < found["step_high_s"]
    states = {part: held for part, held in found["memory"].items() if part not in ("lost", "reserved")}
    assert sum(states.values()) == pytest.approx(found["memory_bytes"])
    assert found["fits"] is True
    assert found["job"]["layout"]["dp"] == 1


def test_the_same_job_gives_the_same_bytes(tmp_path: Path):
    traces = [tmp_path / "a.json", tmp_path / "b.json"]
    outputs = [invoke("run", JOB, "--json", "--trace", str(trace)).stdout for trace in traces]
    assert outputs[0] == outputs[1]
    assert traces[0].read_bytes() == traces[1].read_bytes()


def test_the_layout_says_how_experts_are_split_where_the_file_does_not():
    """NeMo splits them over the tensor-parallel ranks."""
    job = str(EXAMPLES / "qwen3-30b-a3b.toml")
    settings = ["--set", "layout.tp=2", "--set", "layout.ep=4"]
    assert (
        "x tp 2 x pp 1 x ep 4 x etp 2 sequence-parallel"
        in invoke("run", job, *settings, "--set", "stack.name=nemo").stdout
    )
    assert "x tp 2 x pp 1 x ep 4 sequence-parallel" in invoke("run", job, *settings).stdout


def test_settings_change_the_job():
    assert document("run", JOB, "--set", "layout.vp=1")["job"]["layout"]["schedule"] == "one_f_one_b"


def test_what_does_not_fit_is_said_with_what_to_change():
    words = invoke("run", JOB, "--set", "training.recompute=none", "--set", "training.micro_batch=4").stdout
    assert "DOES NOT FIT" in words
    assert 'training.recompute = "full"' in words
    assert 'training.gradients = "compute"' in words


def test_gradients_of_another_type_than_the_stack_s_are_said():
    words = invoke("run", JOB, "--set", "training.gradients=compute").stdout
    assert "gradients reduced in fp16" in " ".join(words.split())
    tight = (
        "--set",
        "training.gradients=compute",
        "--set",
        "training.recompute=none",
        "--set",
        "training.micro_batch=4",
    )
    assert "training.gradients" not in invoke("run", JOB, *tight).stdout


def test_all_faults_of_a_job_are_one_message():
    message = refusal("run", JOB, "--set", "layout.tp=0", "--set", "model.name=gpt-4", "--set", "stack.nam=x")
    assert message.startswith(f"{JOB}: 3 faults\n")
    assert message.count("\n") == 4


@pytest.mark.parametrize("command", ["run", "study", "price", "validate"])
def test_a_file_that_is_not_there_is_refused(command: str):
    assert refusal(command, "none.toml").startswith("none.toml: ")


def test_no_partial_output_is_left(tmp_path: Path):
    refusal("run", JOB, "--set", "layout.tp=7", "--trace", str(tmp_path / "trace.json"))
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path):
    assert "cannot be written" in refusal("run", JOB, "--json", "--trace", str(tmp_path / "no" / "trace.json"))
    assert "cannot be written" in refusal("run", JOB, "--trace", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_gemm_is_slower_in_a_long_run_and_below_its_peak():
    found = document("gemm", "8192", "8192", "8192", "--device", "h200-sxm")
    assert found["predicted_low_s"] < found["predicted_s"] < found["predicted_high_s"]
    assert found["sustained_s"] >= found["predicted_s"] > found["compute_bound_s"]
    assert found["bound_by"] == "compute"
    assert document("gemm", "1", "8192", "8192", "--device", "h200-sxm")["bound_by"] == "memory"
    assert "TFLOP/s" in invoke("gemm", "8", "8", "8", "--device", "h200-sxm").stdout


@pytest.mark.parametrize("size", ["0", "x", "1.5", "nan"])
def test_gemm_sizes_are_positive_whole_numbers(size: str):
    assert "Invalid value" in refusal("gemm", size, "8", "8", "--device", "h200-sxm")


def test_gemm_names_are_checked():
    assert "nearest: h200" in refusal("gemm", "8", "8", "8", "--device", "h200")
    assert "known: bf16" in refusal("gemm", "8", "8", "8", "--device", "h200-sxm", "--dtype", "bf17")


@pytest.mark.parametrize("kind", ["devices", "clusters", "models", "stacks", "schedules", "collectives"])
def test_the_catalogue_lists_every_kind(kind: str):
    entries = document("catalog", kind)
    assert entries == document("catalog")[kind]
    table = invoke("catalog", kind)
    assert table.exit_code == 0
    assert all(entry["name"] in table.stdout for entry in entries)
    assert kind in invoke("catalog").stdout


def test_a_study_is_a_table_a_csv_and_a_document(tmp_path: Path):
    study = tmp_path / "study.toml"
    study.write_text(Path(JOB).read_text("utf-8") + "\n[grid.layout]\nvp = [1, 2, 3, 15]\n", "utf-8")
    found = document("study", str(study), "--csv", str(tmp_path / "rows.csv"))
    assert found["grid"] == {"layout.vp": [1, 2, 3, 15]}
    assert len((tmp_path / "rows.csv").read_text("utf-8").splitlines()) == len(found["rows"]) + 1 == 5
    assert "4 points: 3 fit, 0 do not, 1 skipped" in invoke("study", str(study), "--jobs", "1").stdout


def test_the_version_is_printed():
    assert invoke("--version").stdout.startswith("steptime ")


@pytest.mark.parametrize(
    "words", [["run", JOB], ["run", JOB, "--json"], ["gemm", "8", "8", "8", "--device", "h100-sxm"]]
)
def test_commands_do_not_pay_for_heavy_libraries(words: list[str]):
    code = (
        "import sys; from sim.cli import app; app(sys.argv[1:], standalone_mode=False); "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]")


def test_help_starts_without_the_simulator():
    code = "import sys, sim.cli; print([name for name in ('numpy', 'pydantic', 'simpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
