import csv
import json
import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from calibration.steps import config, corpus, launch, log, run
from calibration.steps.case import CASES as CASES_OF_RUN
from calibration.steps.case import Case, Shape, parsed, shipped
from calibration.steps.row import COLUMNS, Machine, failed, recompute, row
from sim.rows import job_of
from sim.validate import read_rows

CASES = shipped()
BY_NAME = {case.name: case for case in CASES.cases}
PROFILE = Path(__file__).parents[2] / "calibration" / "profiles" / "h200-sxm" / "torch-2.11-cu130"
ASSETS = Path("assets")


def line(step: int, tokens_per_s: float, active: float = 30.0, reserved: float = 33.0) -> str:
    fields = {
        "step": step,
        log.TOKENS: tokens_per_s,
        log.ACTIVE: active,
        log.RESERVED: reserved,
        log.DATA: 0.001,
        "loss_metrics/global_avg_loss": 8.0,
    }
    return log.METRICS + json.dumps(fields)


def console(*lines: str) -> str:
    """A rank's log, with what TorchTitan prints between the lines."""
    return "\n".join(["[titan] 2026-01-01 00:00:00,000 - root - INFO - Training starts at step 1", *lines])


@pytest.mark.parametrize("case", CASES.cases, ids=lambda case: case.name)
def test_every_shipped_case_becomes_a_valid_toml_file(case: Case, tmp_path: Path) -> None:
    path = config.written(case, ASSETS, tmp_path, steps=12)
    document = tomllib.loads(path.read_text())
    assert document["training"]["global_batch_size"] == case.global_batch
    assert document["model"]["flavor"] in CASES.shapes
    degrees = document["parallelism"]
    shared = degrees["data_parallel_shard_degree"] * degrees["data_parallel_replicate_degree"]
    others = (
        degrees["tensor_parallel_degree"] * degrees["pipeline_parallel_degree"] * degrees["context_parallel_degree"]
    )
    assert shared * others == case.gpus


@pytest.mark.parametrize(
    ("shape", "name", "family"),
    [
        ("1b", config.MODEL, "llama"),
        ("5b-moe", config.MODEL_OF_EXPERTS, "moe"),
        ("7b-latent", config.MODEL_LATENT, "mla-moe"),
    ],
)
def test_a_shape_is_a_flavour_of_the_model_that_its_row_names(shape: str, name: str, family: str) -> None:
    case = next(case for case in CASES.cases if case.shape == shape)
    assert config.sections(case, ASSETS, Path(), 8)["model"]["name"] == name
    assert failed(1, case, CASES.shapes[shape], "not run", Machine())["family"] == family


@pytest.mark.parametrize("case", CASES.cases, ids=lambda case: case.name)
def test_every_shipped_case_is_a_job_that_the_simulator_reads(case: Case) -> None:
    found = failed(1, case, CASES.shapes[case.shape], "not run", Machine())
    job = job_of({name: str(value) for name, value in found.items()})
    assert job.layout.dp * job.layout.tp * job.layout.pp * job.layout.cp == case.gpus
    assert job.model.parameters == pytest.approx(CASES.shapes[case.shape].parameters, rel=1e-3)


def test_names_of_cases_are_unique() -> None:
    assert len(BY_NAME) == len(CASES.cases)


def test_the_cases_cover_each_parallelism_recomputation_and_data_type() -> None:
    cases = CASES.cases
    assert {(case.fsdp, case.ddp, case.tp, case.pp, case.cp) for case in cases if case.gpus == 2} == {
        (2, 1, 1, 1, 1),
        (1, 2, 1, 1, 1),
        (1, 1, 2, 1, 1),
        (1, 1, 1, 2, 1),
        (1, 1, 1, 1, 2),
    }
    assert {case.recompute for case in cases} == {"none", "op", "layers:2", "full"}
    assert {case.precision for case in cases} == {"bf16", "bf16-pure", "fp32", "fp8", "fp8-rowwise", "fp8-rowwise-pure"}


def test_tp_and_pp_without_fsdp_compute_in_fp32_unless_all_is_bf16() -> None:
    tp = Case(name="t", shape="1b", seq_len=64, batch=1, tp=2)
    assert tp.precision == "fp32"
    assert replace(tp, dtype="bfloat16").precision == "bf16-pure"
    assert replace(tp, tp=1, cp=2).precision == "bf16"


def test_all_faults_of_a_case_file_are_told_at_once() -> None:
    document = {
        "shapes": {},
        "case": [{"name": "x", "shape": "no", "seq_len": 8, "batch": 3, "micro_batch": 2, "recompute": "some"}],
    }
    with pytest.raises(ValueError, match=r"(?s)x: no shape 'no'.*x: batch 3.*x: recompute 'some'"):
        parsed(document)


@pytest.mark.parametrize(("said", "word"), [("float32", "auto"), ("bfloat16", "compute")])
def test_what_gradients_are_reduced_in_reaches_the_trainer_and_the_simulator(said: str, word: str) -> None:
    case = Case(name="r", shape="1b", seq_len=64, batch=1, fsdp=2, reduce=said)
    assert config.sections(case, ASSETS, Path(), 8)["training"]["mixed_precision_reduce"] == said
    found = failed(1, case, CASES.shapes["1b"], "not run", Machine())
    assert job_of({name: str(value) for name, value in found.items()}).training.gradients == word


def test_only_fsdp_reduces_in_16_bits() -> None:
    fields = {"name": "x", "shape": "1b", "seq_len": 8, "batch": 1, "ddp": 2, "reduce": "bfloat16"}
    sizes = {"layers": 1, "hidden": 8, "ffn": 8, "heads": 1, "kv_heads": 1}
    with pytest.raises(ValueError, match=r"x: reduce 'bfloat16'; known: float32, bfloat16 \(with FSDP\)"):
        parsed({"shapes": {"1b": sizes}, "case": [fields]})


def test_every_second_layer_is_half_of_the_layers_of_a_stage() -> None:
    case = BY_NAME["one-1b-4k-bf16-layers2"]
    assert recompute(case, CASES.shapes["1b"]) == "full:8"


def test_the_step_time_is_the_median_of_the_steps_that_count() -> None:
    text = console(line(1, 10.0), line(2, 100.0), line(3, 200.0), line(4, 400.0))
    found = log.measured([text], tokens_per_gpu=1000.0, skip=1)
    assert found.step_time_s == pytest.approx(5.0)
    assert (found.fastest_s, found.slowest_s, found.steps) == (pytest.approx(2.5), pytest.approx(10.0), 3)
    assert found.tokens_per_s_per_gpu == pytest.approx(200.0)


def test_memory_is_that_of_the_fullest_rank() -> None:
    ranks = [console(line(2, 100.0, active=10.0, reserved=12.0)), console(line(2, 100.0, active=9.0, reserved=15.0))]
    found = log.measured(ranks, tokens_per_gpu=100.0, skip=1)
    assert (found.active_gib, found.reserved_gib) == (10.0, 15.0)


def test_a_line_that_was_cut_short_is_passed_over() -> None:
    whole = line(2, 100.0)
    assert len(log.steps(console(line(1, 100.0), whole[: len(whole) // 2]))) == 1


def test_a_run_without_enough_steps_says_what_it_died_of() -> None:
    died = console(line(1, 100.0), "Traceback (most recent call last):", "torch.OutOfMemoryError: CUDA out of memory.")
    with pytest.raises(log.FailedRunError, match="CUDA out of memory"):
        log.measured([console(line(1, 1.0)), died], tokens_per_gpu=1.0, skip=1)


def test_out_of_memory_is_an_outcome_of_its_own() -> None:
    case = BY_NAME["one-1b-4k"]
    shape = CASES.shapes["1b"]
    assert failed(1, case, shape, "torch.OutOfMemoryError: CUDA", Machine())["outcome"] == "OOM Error"
    assert failed(1, case, shape, "RuntimeError: shapes", Machine())["outcome"] == "failed"


def test_a_row_tells_of_autocast_and_of_what_is_recomputed() -> None:
    found = log.measured([console(line(2, 100.0))], tokens_per_gpu=8192.0, skip=1)
    autocast = row(1, BY_NAME["one-1b-4k"], CASES.shapes["1b"], found, Machine())
    sharded = row(2, BY_NAME["fsdp2-1b-4k"], CASES.shapes["1b"], found, Machine())
    assert "autocast" in str(autocast["notes"])
    assert "autocast" not in str(sharded["notes"])
    assert tuple(autocast) == COLUMNS


def test_the_corpus_fills_the_longest_sequence_and_is_the_same_each_time(tmp_path: Path) -> None:
    corpus.build(tmp_path)
    text = (tmp_path / "text" / "data.jsonl").read_text()
    vocabulary = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(text.split()) > 8 * max(case.seq_len for case in CASES.cases)
    assert set(json.loads(text.splitlines()[0])["text"].split()) <= set(vocabulary)
    assert max(vocabulary.values()) < min(shape.vocab for shape in CASES.shapes.values())
    assert corpus.documents(1)[:2] == corpus.documents(1)[:2]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--case", "one-1b-5k"], "no case one-1b-5k"),
        (["--case", "fsdp4-7b-latent-4k-full"], "more GPUs than --gpus 2"),
    ],
)
def test_a_case_that_cannot_be_run_is_said(
    arguments: list[str], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run.main(["--out", str(tmp_path), *arguments])
    assert fault in capsys.readouterr().err


def test_a_measured_case_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def launched(path: Path, ranks: int, _folder: Path, _timeout_s: float) -> list[str]:
        started.append(path.stem)
        return [console(*(line(step, 100.0) for step in range(1, 13)))] * ranks

    monkeypatch.setattr(run, "launcher", lambda *_: launched)
    arguments = ["--out", str(tmp_path), "--case", "one-1b-4k", "fsdp2-1b-4k"]
    run.main(arguments)
    run.main(arguments)
    assert started == ["one-1b-4k", "fsdp2-1b-4k"]
    with (tmp_path / "step_times.csv").open(newline="") as file:
        assert [found["id"] for found in csv.DictReader(file)] == ["H200-TT-0002", "H200-TT-0003"]


def test_a_row_names_the_file_that_its_case_was_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def launched(_config: Path, ranks: int, _folder: Path, _timeout_s: float) -> list[str]:
        return [console(line(12, 100.0))] * ranks if ranks == 1 else ["RuntimeError: no"] * ranks

    monkeypatch.setattr(run, "launcher", lambda *_: launched)
    monkeypatch.setenv(CASES_OF_RUN, "")
    monkeypatch.chdir(Path(__file__).parents[2])
    out, own = ["--out", str(tmp_path)], ["--cases", "calibration/steps/host.toml"]
    run.main([*out, "--case", "one-1b-4k"])
    run.main([*out, *own, "--case", "host-bf16", "host-fsdp2"])
    with (tmp_path / "step_times.csv").open(newline="") as file:
        found = [(each["id"], each["cite"], each["outcome"]) for each in csv.DictReader(file)]
    assert found == [
        ("H200-TT-0002", "case one-1b-4k of calibration/steps/cases.toml", "ok"),
        ("H200-TT-0001", "case host-bf16 of calibration/steps/host.toml", "ok"),
        ("H200-TT-0007", "case host-fsdp2 of calibration/steps/host.toml", "failed"),
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_rank_that_fails_leaves_its_reason_in_the_log(tmp_path: Path) -> None:
    def train(_config: Path) -> None:
        raise RuntimeError(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} is tired")

    trainer = replace(launch.TRAINERS["torchtitan"], train=train)
    logs = launch.forked(trainer, tmp_path / "none.toml", 2, tmp_path, 20.0)
    assert [log.cause([text]) for text in logs] == [f"RuntimeError: rank {rank} of 2 is tired" for rank in (0, 1)]


@pytest.mark.skipif(os.name != "posix", reason="needs a shell script")
@pytest.mark.parametrize(
    ("said", "reason"), [("No module named 'torch'", "No module named 'torch'"), ("", "it said nothing")]
)
def test_a_launch_that_no_rank_came_out_of_says_why(
    said: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(python))
    logs = launch.torchrun(launch.TRAINERS["torchtitan"], tmp_path / "none.toml", 2, tmp_path, 60.0)
    assert log.cause(logs) == f"LaunchError: {reason}"


@pytest.mark.parametrize("found", read_rows(PROFILE / "step_times.csv"), ids=lambda found: found["id"])
def test_a_measured_row_is_a_shipped_case_with_figures_that_agree(found: dict[str, str]) -> None:
    case = BY_NAME[found["cite"].split()[1]]
    shape = CASES.shapes[case.shape]
    assert int(found["id"][-4:]) == CASES.cases.index(case) + 1
    tokens = float(found["tokens_per_s_per_gpu"]) * int(found["gpus"]) * float(found["step_time_s"])
    assert tokens == pytest.approx(case.global_batch * case.seq_len, rel=1e-3)
    flops_per_s = 6 * shape.parameters * tokens / float(found["step_time_s"]) / case.gpus
    assert flops_per_s < 1.98e15
    assert 0.0 < float(found["memory_active_gb"]) <= float(found["memory_gb"]) < 139.8


def test_a_file_that_holds_no_cases_is_refused_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cases.toml").write_text("case = [")
    for path in (tmp_path / "none.toml", tmp_path / "cases.toml"):
        with pytest.raises(SystemExit) as stopped:
            run.main(["--out", str(tmp_path), "--cases", str(path)])
        assert stopped.value.code == 2
        assert f"{path} is no file of cases" in capsys.readouterr().err


def test_runs_that_wait_for_their_host_differ_from_the_others_by_name() -> None:
    host = shipped("host.toml").cases
    assert {case.name for case in host}.isdisjoint(BY_NAME)
    assert {case.recompute for case in host} == {"none", "op", "full"}
    assert all(case.seq_len <= 256 for case in host)


MEGATRON = shipped("megatron.toml")
MEGATRON_FILE = Path(config.__file__).with_name("megatron.toml")
MEGATRON_TABLES = PROFILE / "megatron-core"


@pytest.fixture
def megatron(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CASES_OF_RUN, str(MEGATRON_FILE))


def test_cases_of_megatron_are_named_once_and_cover_what_it_is_run_for() -> None:
    cases = MEGATRON.cases
    assert MEGATRON.framework == "megatron"
    assert len({case.name for case in cases}) == len(cases)
    assert {case.tp for case in cases} == {case.pp for case in cases} == {case.cp for case in cases} == {1, 2}
    assert {case.float8 for case in cases} == {"", "tensorwise", "delayed"}
    assert {case.recompute for case in cases} == {"none", "full", "selective:mla_up_proj"}
    assert {MEGATRON.shapes[case.shape].model for case in cases} >= {"deepseek-v2", "deepseek-v3", "gpt-oss-20b"}
    assert any(case.ep > 1 for case in cases)


@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize("case", MEGATRON.cases, ids=lambda case: case.name)
def test_a_case_of_megatron_is_a_file_for_its_ranks_and_a_job_for_the_simulator(case: Case, tmp_path: Path) -> None:
    document = json.loads(config.written(case, ASSETS, tmp_path, steps=12).read_text())
    assert Case(**document["case"]) == case
    assert Shape(**document["shape"]) == MEGATRON.shapes[case.shape]
    found = failed(1, case, MEGATRON.shapes[case.shape], "not run", Machine())
    job = job_of({name: str(value) for name, value in found.items()})
    assert job.layout.gpus == case.gpus
    assert job.training.global_batch == case.batch * case.ddp
    assert (job.stack.name, job.execution, job.training.gradients) == ("megatron-core", "eager", "fp32")
    assert not job.stack.overlap.tensor
    assert (job.stack.overlap.gradients == "backward") is case.overlap


@pytest.mark.usefixtures("megatron")
@pytest.mark.parametrize("name", ["step_times.csv", "host/machine-1.csv", "host/machine-2.csv"])
def test_a_measured_row_of_megatron_is_a_shipped_case(name: str) -> None:
    by_name = {case.name: case for case in MEGATRON.cases}
    for found in read_rows(MEGATRON_TABLES / name):
        case = by_name[found["cite"].split()[1]]
        assert int(found["id"][-4:]) == MEGATRON.cases.index(case) + 1
        inputs = failed(1, case, MEGATRON.shapes[case.shape], "", Machine())
        stated = ("layers", "tp", "pp", "cp", "ep", "dp", "global_batch", "recompute", "overlap", "precision")
        assert [found[column] for column in stated] == [str(inputs[column]) for column in stated]
        tokens = float(found["tokens_per_s_per_gpu"]) * int(found["gpus"]) * float(found["step_time_s"])
        assert tokens == pytest.approx(case.global_batch * case.seq_len, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ({"fsdp": 2}, "fsdp, accumulate, compile and schedules other than 1F1B are TorchTitan's"),
        ({"float8": "rowwise"}, "float8 'rowwise'; known: tensorwise, delayed"),
        ({"recompute": "op"}, "recompute 'op'; known: none, full"),
        ({"ep": 2}, "ep 2: some has no experts"),
    ],
)
def test_a_case_that_megatron_cannot_run_is_refused(words: dict[str, object], fault: str) -> None:
    shape = {"layers": 1, "hidden": 64, "ffn": 64, "heads": 1, "kv_heads": 1}
    case = {"name": "one", "shape": "some", "seq_len": 8, "batch": 1} | words
    with pytest.raises(ValueError, match=re.escape(fault)):
        parsed({"framework": "megatron", "shapes": {"some": shape}, "case": [case]})


def test_an_unknown_framework_and_a_choice_of_the_other_one_are_refused() -> None:
    shape = {"layers": 1, "hidden": 64, "ffn": 64, "heads": 1, "kv_heads": 1}
    case = {"name": "one", "shape": "some", "seq_len": 8, "batch": 1, "overlap": True}
    with pytest.raises(ValueError, match="framework 'jax'; known: torchtitan, megatron"):
        parsed({"framework": "jax", "shapes": {"some": shape}, "case": [case]})
    with pytest.raises(ValueError, match="overlap is a choice with Megatron-Core alone"):
        parsed({"shapes": {"some": shape}, "case": [case]})


TRANSFORMERS = shipped("transformers.toml")
TRANSFORMERS_FILE = Path(config.__file__).with_name("transformers.toml")


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CASES_OF_RUN, str(TRANSFORMERS_FILE))


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("case", TRANSFORMERS.cases, ids=lambda case: case.name)
def test_a_case_of_transformers_is_a_file_for_its_ranks_and_a_job_for_the_simulator(case: Case, tmp_path: Path) -> None:
    shape = TRANSFORMERS.shapes[case.shape]
    document = json.loads(config.written(case, ASSETS, tmp_path, steps=12).read_text())
    assert Case(**document["case"]) == case
    assert Shape(**document["shape"]) == shape
    found = failed(1, case, shape, "not run", Machine())
    job = job_of({name: str(value) for name, value in found.items()})
    assert (job.stack.name, job.layout.dp, job.layout.zero) == ("transformers", case.ddp, 0)
    assert job.model.qk_norm is (shape.model != "")
    assert job.training.precision == ("bf16" if case.dtype == "float32" else "bf16-pure")
    assert job.training.recompute == case.recompute


@pytest.mark.usefixtures("transformers")
def test_a_measured_row_of_transformers_is_a_shipped_case() -> None:
    by_name = {case.name: case for case in TRANSFORMERS.cases}
    for found in read_rows(PROFILE / "transformers" / "step_times.csv"):
        case = by_name[found["cite"].split()[1]]
        assert int(found["id"][-4:]) == TRANSFORMERS.cases.index(case) + 1
        assert found["memory_gb"] == found["memory_active_gb"]
        inputs = failed(1, case, TRANSFORMERS.shapes[case.shape], "", Machine())
        stated = ("layers", "dp", "global_batch", "micro_batch", "recompute", "precision", "qk_norm")
        assert {key: found[key] for key in stated} == {key: str(inputs[key]) for key in stated}


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ({"tp": 2}, "on one GPU or under DDP alone"),
        ({"fsdp": 2}, "on one GPU or under DDP alone"),
        ({"compile": True}, "other trainers'"),
        ({"recompute": "op"}, "recompute 'op'; known: none, full"),
        ({"float8": "tensorwise"}, "float8 'tensorwise'; known: none"),
    ],
)
def test_a_case_that_transformers_does_not_run_here_is_refused(words: dict[str, object], fault: str) -> None:
    shape = {"layers": 2, "hidden": 512, "ffn": 1536, "heads": 8, "kv_heads": 4}
    case = {"name": "one", "shape": "some", "seq_len": 128, "batch": 1} | words
    with pytest.raises(ValueError, match=re.escape(fault)):
        parsed({"framework": "transformers", "shapes": {"some": shape}, "case": [case]})
