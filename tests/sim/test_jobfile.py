"""Job files: defaults, settings, and every fault in one go."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from hardware.descriptor import DescriptorError
from sim.catalog import stack
from sim.jobfile import overridden, read_document, read_job, resolved
from sim.jobtables import LayoutTable, TrainingTable, keys
from tests.conftest import GPT, make_job
from workloads.errors import WorkloadError
from workloads.layout import Layout, Training

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
JOB = """
[model]
name = "gpt-3-175b"
[cluster]
name = "dgx-a100-80g"
nodes = 8
[training]
seq_len = 2048
global_batch = 64
precision = "fp16"
recompute = "selective"
[layout]
tp = 8
pp = 8
[stack]
name = "megatron-lm-2022"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path, JOB)


def test_dp_follows_from_the_gpus(path: Path):
    assert read_job(path).layout.dp == 1
    assert read_job(path, ["layout.tp=4"]).layout.dp == 2


def test_a_given_dp_may_use_fewer_gpus_but_not_more(path: Path):
    assert read_job(path, ["layout.pp=4", "layout.dp=1"]).gpus == 32
    with pytest.raises(WorkloadError, match=r"dp = 2 times .* is 128 GPUs"):
        read_job(path, ["layout.dp=2"])


def test_degrees_that_do_not_divide_the_gpus_are_refused(path: Path):
    with pytest.raises(WorkloadError, match="= 48 does not divide the 64 GPUs"):
        read_job(path, ["layout.pp=6"])


def test_sequence_parallelism_follows_the_stack(path: Path):
    assert not read_job(path).layout.sequence_parallel
    assert read_job(path, ["stack.name=nemo"]).layout.sequence_parallel
    assert not read_job(path, ["stack.name=nemo", "layout.sequence_parallel=false"]).layout.sequence_parallel


def test_the_tables_have_the_fields_of_what_they_describe():
    assert {key.name for key in fields(LayoutTable)} == {key.name for key in fields(Layout)}
    assert {key.name for key in fields(TrainingTable)} == {key.name for key in fields(Training)}


def test_settings_are_toml_values_and_bare_words_are_texts(path: Path):
    document = overridden(read_document(path), ["layout.tp=4", "training.precision=bf16", "a.b=true"], "job")
    assert (document["layout"]["tp"], document["training"]["precision"], document["a"]["b"]) == (
        4,
        "bf16",
        True,
    )


def test_settings_leave_the_document_as_it_is(path: Path):
    document = read_document(path)
    overridden(document, ["layout.tp=4"], "job")
    assert document["layout"]["tp"] == 8


@pytest.mark.parametrize("setting", ["layout.tp", "tp=4", "a.b.c=1", ".=1", "layout.=1", ""])
def test_a_setting_that_is_no_key_and_value_is_refused(path: Path, setting: str):
    with pytest.raises(DescriptorError, match=r"should be table.key=value"):
        read_job(path, [setting])


def test_an_unknown_key_of_a_setting_is_refused_with_the_nearest(path: Path):
    with pytest.raises(DescriptorError, match="no key 'zerro'; nearest: zero"):
        read_job(path, ["layout.zerro=1"])


def test_all_faults_of_form_and_names_come_at_once(tmp_path: Path):
    text = """
    [model]
    name = "gpt3-175b"
    [cluster]
    name = "dgx-a100"
    nodes = 0
    [training]
    seq_len = "2048"
    global_batch = nan
    precision = "fp17"
    optimiser = "adam"
    [layout]
    tp = -1
    schedule = "1f1b"
    [extra]
    """
    with pytest.raises(DescriptorError) as error:
        read_job(written(tmp_path, text))
    found = "\n".join(error.value.faults)
    for part in (
        *("no model 'gpt3-175b'; nearest: gpt-3-175b", "no cluster 'dgx-a100'", "cluster.nodes = 0"),
        *("training.seq_len = '2048'", "training.global_batch = nan", "no precision 'fp17'; nearest: fp16"),
        *("no key 'optimiser'; nearest: optimizer", "layout.tp = -1", "no schedule '1f1b'", "no key 'extra'"),
        "stack: missing",
    ):
        assert part in found


def test_a_name_in_place_of_a_table_is_answered_with_the_table(tmp_path: Path):
    text = JOB.replace('[model]\nname = "gpt-3-175b"', "")
    with pytest.raises(DescriptorError) as caught:
        read_job(written(tmp_path, f'model = "gpt-3-175b"\nlayout = 8\n{text.replace("[layout]", "[other]")}'))
    assert "model = 'gpt-3-175b': should be a table: [model], with name = 'gpt-3-175b'" in caught.value.faults
    assert "layout = 8: should be a table: [layout]" in caught.value.faults


def test_inconsistencies_come_at_once(path: Path):
    settings = ["layout.tp=7", "training.precision=fp8", "training.global_batch=3", "training.micro_batch=2"]
    with pytest.raises(WorkloadError) as error:
        read_job(path, settings)
    found = "\n".join(error.value.faults)
    for part in ("heads = 96", "does not divide the 64 GPUs", "no dtype 'fp8'", "global_batch = 3"):
        assert part in found


def test_degrees_are_checked_beside_faulty_names(path: Path):
    with pytest.raises(DescriptorError) as error:
        read_job(path, ["layout.tp=7", "cluster.name=dgx-a900"])
    found = "\n".join(error.value.faults)
    assert "no cluster 'dgx-a900'; nearest: dgx-a100" in found
    assert "heads = 96 is not divisible by layout.tp = 7" in found


@pytest.mark.parametrize("setting", ["training.recompute=selective:mlpp", "layout.pp=3"])
def test_replicas_that_are_not_known_contradict_no_expert_parallelism(setting: str):
    """16 GPUs and ep = 8: a misspelt word, or degrees that do not divide the GPUs, leave dp open."""
    with pytest.raises((DescriptorError, WorkloadError)) as raised:
        read_job(EXAMPLES / "qwen3-30b-a3b.toml", [setting])
    assert "layout.ep" not in str(raised.value)
    assert len(raised.value.faults) == 1


@pytest.mark.parametrize("word", ["stack.name=megatron", "layout.expert_mode=ring", "cluster.name=dgx-a900"])
def test_sequence_parallelism_that_is_not_known_contradicts_no_experts(word: str):
    """Megatron-Core has it with tensor parallelism, unless the file says otherwise."""
    settings = ["layout.tp=2", "layout.ep=4", word]
    with pytest.raises((DescriptorError, WorkloadError)) as raised:
        read_job(EXAMPLES / "qwen3-30b-a3b.toml", settings)
    assert len(raised.value.faults) == 1
    with pytest.raises((DescriptorError, WorkloadError), match="sequence_parallel is needed for experts"):
        read_job(EXAMPLES / "qwen3-30b-a3b.toml", [*settings, "layout.sequence_parallel=false"])


def test_an_execution_that_the_stack_has_not_is_refused(path: Path):
    with pytest.raises(DescriptorError, match=r"no execution of megatron-lm-2022 'compile'; .* known: eager"):
        read_job(path, ["stack.execution=compile"])


def test_the_pace_of_a_host_is_a_jobs_own_or_its_stacks(path: Path):
    """NeMo's hosts run at 0.73 of what was measured for Megatron-Core's layers."""
    assert read_job(path, ["stack.host_pace=2"]).host.launch_s["eager"] == 2 * read_job(path).host.launch_s["eager"]
    given = read_job(path, ["stack.name=nemo"])
    assert given.host.launch_s["eager"] == pytest.approx(0.73 * stack("nemo").host.launch_s["eager"])
    assert resolved(given)["stack"]["host_pace"] == 0.73
    for pace in ("0", "-1", "fast"):
        with pytest.raises(DescriptorError, match="host_pace"):
            read_job(path, [f"stack.host_pace={pace}"])


@pytest.mark.parametrize(("dp", "pace"), [(8, 0.73), (1, 1.0)])
def test_a_job_that_fills_its_nodes_has_their_cores_to_itself(dp: int, pace: float):
    job = make_job(GPT, "megatron-core", dp=dp)
    assert job.cluster.gpus_per_node == 8
    assert job.pace == pace
    assert replace(job, host_pace=2.0).pace == 2.0


def test_a_step_too_long_to_play_is_refused(path: Path):
    with pytest.raises(WorkloadError, match="passes are more than"):
        read_job(path, ["training.global_batch=1_000_000"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "is empty"), ("# nothing\n", "is empty"), ("{}", "is not TOML"), ("[model\n", "is not TOML")],
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, text: str, fault: str):
    with pytest.raises(DescriptorError, match=fault):
        read_job(written(tmp_path, text))


def test_unreadable_files_are_refused(tmp_path: Path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name, fault in (("none.toml", "no such file"), ("bytes.toml", "not UTF-8"), (".", "is a folder")):
        with pytest.raises(DescriptorError, match=fault):
            read_job(tmp_path / name)


def test_paths_start_at_the_folder_of_the_job(tmp_path: Path):
    catalogue = EXAMPLES.parent / "workloads"
    text = (catalogue / "models" / "gpt-3-175b.toml").read_text("utf-8")
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    stack = (catalogue / "stacks" / "megatron-lm-2022.toml").read_text("utf-8")
    (tmp_path / "my-stack.toml").write_text(stack, "utf-8")
    job = JOB.replace('"gpt-3-175b"', '"mine.toml"').replace('"megatron-lm-2022"', '"my-stack.toml"')
    read = read_job(written(tmp_path, job))
    assert read.model.parameters == read_job(EXAMPLES / "korthikanti-175b.toml").model.parameters


def test_a_config_of_an_architecture_not_covered_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}', "utf-8")
    with pytest.raises(DescriptorError, match="mamba"):
        read_job(written(tmp_path, JOB.replace('"gpt-3-175b"', '"config.json"')))


@pytest.mark.parametrize(
    "path", sorted(set(EXAMPLES.glob("*.toml")) - set(EXAMPLES.glob("study-*"))), ids=lambda p: p.stem
)
def test_the_examples_are_jobs(path: Path):
    job = read_job(path)
    assert job.gpus == job.cluster.gpus


def test_a_resolved_job_says_what_the_file_left_open(path: Path):
    tables = resolved(read_job(path))
    assert tables["layout"]["dp"] == 1
    assert tables["layout"]["schedule"] == "one_f_one_b"
    stack = {"name": "megatron-lm-2022", "execution": "eager", "attention": "unfused", "host_pace": 1.0}
    assert tables["stack"] == stack
    assert tables["training"]["micro_batches"] == 64


def test_every_key_can_be_named():
    assert {"model.name", "cluster.nodes", "layout.tp", "training.recompute", "stack.execution"} <= set(keys())


def test_experts_are_split_as_the_stack_does_unless_the_file_says(path: Path):
    """NeMo splits them over all tensor-parallel ranks; nothing is split of a model without experts."""
    routed = ["model.name=mixtral-8x7b", "cluster.name=dgx-h100", "training.precision=bf16", "training.recompute=none"]
    routed += ["layout.pp=1", "layout.tp=2", "layout.ep=4"]
    found = {
        (name, etp): read_job(path, [*routed, f"stack.name={name}", *([f"layout.etp={etp}"] if etp else [])]).layout
        for name, etp in (("nemo", 0), ("nemo", 1), ("megatron-core", 0))
    }
    assert {key: layout.expert_tp for key, layout in found.items()} == {
        ("nemo", 0): 2,
        ("nemo", 1): 1,
        ("megatron-core", 0): 1,
    }
    dense = read_job(path, ["stack.name=nemo", "training.precision=bf16", "cluster.name=dgx-h100"])
    assert dense.layout.etp == 0
