"""Rows of a table of runs: what they mean, and why some cannot be simulated."""

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from hardware import catalog as hardware
from sim.catalog import stack
from sim.cells import SkippedRowError
from sim.job import Job
from sim.memory import peak_memory
from sim.row_model import FAMILIES
from sim.rows import NVL72_GPUS, REQUIRED, UNSTATED_STACK, described, job_of
from sim.step import simulate
from sim.usual import release
from workloads.catalog import model as catalogued
from workloads.errors import WorkloadError
from workloads.layout import chunk_layers
from workloads.schedules import schedule

# A run of a small GPT on two nodes of A100.
ROW = {
    "id": "OWN-1",
    "source": "worked by hand",
    "device": "a100-sxm-80g",
    "gpus": "16",
    "gpus_per_node": "8",
    "fabric": "nvlink-switch",
    "inter_node_gbit_per_s": "1600",
    "stack": "megatron-lm-2022",
    "family": "gpt",
    "layers": "4",
    "hidden": "256",
    "ffn": "1024",
    "heads": "8",
    "vocab": "1024",
    "seq_len": "128",
    "global_batch": "16",
    "micro_batch": "2",
    "precision": "fp16",
    "tp": "2",
    "pp": "2",
    "zero": "0",
    "recompute": "none",
    "missing_inputs": "",
}


def job(**cells: str) -> Job:
    return job_of(ROW | cells)


def reason(**cells: str) -> str:
    with pytest.raises((SkippedRowError, WorkloadError)) as raised:
        job(**cells).shard()
    return str(raised.value)


def test_the_row_has_every_column_that_is_required():
    assert set(ROW) == set(REQUIRED)


def test_a_row_is_a_job():
    found = job()
    assert (found.model.layers, found.model.hidden, found.model.ffn, found.model.heads) == (4, 256, 1024, 8)
    assert (found.model.vocab, found.model.head_dim) == (1024, 32)
    assert (found.layout.tp, found.layout.pp, found.layout.dp, found.layout.gpus) == (2, 2, 4, 16)
    assert (found.training.seq_len, found.training.global_batch, found.training.micro_batch) == (128, 16, 2)
    assert (found.training.precision, found.training.recompute) == ("fp16", "none")
    assert found.stack.name == "megatron-lm-2022"
    found.shard()


def test_the_network_is_what_the_row_says():
    """1600 Gbit/s a node are 200 GB/s."""
    found = job().cluster
    assert (found.nodes, found.gpus_per_node, found.domain_gpus) == (2, 8, 8)
    assert found.scale_out_bytes_per_s == 200e9
    assert found.scale_up_bytes_per_s == found.device.links["nvlink-switch"]


def test_a_rack_is_one_domain():
    row = {"device": "gb200", "gpus": "72", "gpus_per_node": "4", "fabric": "nvl72", "tp": "1", "pp": "1"}
    assert job(**row).cluster.domain_gpus == NVL72_GPUS


def test_part_of_a_node_is_a_whole_one():
    assert job(gpus="4").cluster.nodes == 1


@pytest.mark.parametrize(
    ("family", "gated", "norm", "tied", "positions"),
    [
        ("gpt", False, "layer_norm", True, "learned"),
        ("bert", False, "layer_norm", True, "learned"),
        ("llama", True, "rms_norm", False, "rope"),
    ],
)
def test_a_family_says_the_rest_of_the_model(family, gated, norm, tied, positions):
    model = job(family=family).model
    assert (model.gated, model.norm, model.tied_embeddings, model.positions) == (gated, norm, tied, positions)


MEANINGS: list[tuple[dict[str, str], Callable[[Job], object]]] = [
    ({"tp": "", "pp": ""}, lambda found: (found.layout.tp, found.layout.pp, found.layout.dp) == (1, 1, 16)),
    ({"zero": ""}, lambda found: found.layout.zero == 0),
    ({"recompute": ""}, lambda found: found.training.recompute == "none"),
    ({"stack": ""}, lambda found: found.stack.name == UNSTATED_STACK),
    ({"vp": "2"}, lambda found: found.layout.vp == 2),
    ({"cp": "2"}, lambda found: (found.layout.cp, found.layout.dp) == (2, 2)),
    ({"kv_heads": "2"}, lambda found: found.model.kv_heads == 2),
    ({"kv_heads": ""}, lambda found: found.model.kv_heads == 8),
    ({"zero": "3", "zero_group": "2"}, lambda found: (found.layout.zero, found.layout.shards) == (3, 2)),
    ({"zero": "lora"}, lambda found: (found.training.task, found.layout.zero) == ("lora", 0)),
    ({"task": "single layer"}, lambda found: found.training.task == "layers"),
    ({"task": "layers"}, lambda found: found.training.task == "layers"),
    ({"task": "finetune"}, lambda found: found.training.task == "pretrain"),
    ({"sequence_parallel": "yes"}, lambda found: found.layout.sequence_parallel),
    ({"sequence_parallel": "no", "stack": "megatron-core"}, lambda found: not found.layout.sequence_parallel),
    ({"stack": "megatron-core"}, lambda found: found.layout.sequence_parallel),
    ({"stack": "megatron-core", "tp": "1"}, lambda found: not found.layout.sequence_parallel),
    ({"execution": "compile", "stack": "torchtitan"}, lambda found: found.execution == "compile"),
    ({"attention": "flash"}, lambda found: found.attention == "flash"),
    ({"host_pace": "0.73"}, lambda found: found.host_pace == 0.73),
    ({"host_pace": ""}, lambda found: found.host_pace is None),
    ({"model": "GPT small"}, lambda found: found.model.name == "GPT small"),
]


@pytest.mark.parametrize(("cells", "read"), MEANINGS, ids=[str(cells) for cells, _ in MEANINGS])
def test_cells_mean_what_they_say_and_blanks_the_usual(cells, read):
    assert read(job(**cells))


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("GPipe", "gpipe"),
        ("1F1B (DeepSpeed)", "one_f_one_b"),
        ("Interleaved-1F1B", "one_f_one_b"),
        ("none", "one_f_one_b"),
    ],
)
def test_a_schedule_that_a_source_names_is_played(word, name):
    """Interleaving needs chunks, and this row has one for each stage."""
    found = job(pp="8", layers="8", schedule=word).layout
    assert schedule(found.schedule_name) is schedule(name)


@pytest.mark.parametrize(
    ("named", "word", "used"),
    [
        ("megatron-lm-2022", "1F1B (DeepSpeed)", "megatron-deepspeed-2022"),
        ("", "1F1B ( deepspeed )", "megatron-deepspeed-2022"),
        ("megatron-lm-2022", "interleaved 1F1B (PTD-P)", "megatron-lm-2022"),
        ("llm-foundry", "1F1B (DeepSpeed)", "llm-foundry"),
    ],
)
def test_pipelines_of_another_software_are_said_in_brackets(named, word, used):
    found = described(ROW | {"stack": named, "schedule": word})
    assert found.job.stack.name == used
    assert (f"stack = {used}" in found.assumed) == (used != (named or used))


def test_a_schedule_that_is_not_covered_is_skipped():
    assert "Hanayo" in reason(pp="8", schedule="Hanayo")
    assert job(pp="1", schedule="ZB-H1").layout.schedule == "auto"


@pytest.mark.parametrize(
    ("word", "optimizer", "assumed"),
    [
        ("Adam (apex FusedAdam)", "adamw", ()),
        ("SGD", "sgd", ()),
        ("", "adamw", ()),
        ("LAMB", "adamw", ("optimizer = adamw",)),
    ],
)
def test_an_optimizer_without_a_price_is_taken_for_adamw_and_that_is_said(word, optimizer, assumed):
    found = described(ROW | {"optimizer": word})
    assert (found.job.training.optimizer, found.assumed) == (optimizer, assumed)


OFF = {"tensor": False, "gradients": "none", "parameters": False, "pipeline": "none"}


@pytest.mark.parametrize(
    ("words", "off"),
    [
        ("", ()),
        ("TP_COMM_OVERLAP=True OVERLAP_GRAD_REDUCE=", ()),
        ("TP_COMM_OVERLAP=False OVERLAP_GRAD_REDUCE=", ("tensor",)),
        ("OVERLAP_GRAD_REDUCE=0 OVERLAP_PARAM_GATHER=1", ("gradients",)),
        ("OVERLAP_GRAD_REDUCE=True OVERLAP_PARAM_GATHER=False", ("parameters",)),
        ("no TP overlap", ("tensor",)),
        ("DeepSpeed PipelineEngine, no DP overlap", ("gradients", "parameters")),
        ("DDP-impl local (all-reduce at end, not overlapped)", ("gradients", "parameters")),
        ("TP overlap, p2p overlap, DP overlap all disabled", ("tensor", "pipeline", "gradients", "parameters")),
    ],
)
def test_what_a_source_says_was_not_overlapped_is_not(words, off):
    now, usual = job(stack="nemo", overlap=words).stack.overlap, job(stack="nemo").stack.overlap
    assert asdict(now) == asdict(usual) | {key: OFF[key] for key in off}


@pytest.mark.parametrize(
    ("words", "on"),
    [
        ("FSDP2 prefetch; async TP", {"tensor": True}),
        ("TP_COMM_OVERLAP=1", {"tensor": True}),
        ("DDP-impl torch (overlapped grad all-reduce)", {"gradients": "backward"}),
        ("OVERLAP_GRAD_REDUCE=True OVERLAP_PARAM_GATHER=True", {"gradients": "backward", "parameters": True}),
    ],
)
def test_what_a_source_says_was_overlapped_is(words, on):
    now, usual = (job(stack="megatron-lm-2020", overlap=each).stack.overlap for each in (words, ""))
    assert asdict(now) == asdict(usual) | on


@pytest.mark.parametrize("family", ["cnn", "", "GPT"])
def test_a_family_that_is_not_covered_is_skipped(family):
    assert "is not simulated" in reason(family=family)
    assert all(known in reason(family=family) for known in FAMILIES)


LATENT = {
    **{"family": "mla-moe", "stack": "megatron-core", "layers": "6", "hidden": "2048", "ffn": "1408", "heads": "16"},
    **{"kv_heads": "", "vocab": "102400", "experts": "64", "topk": "6", "precision": "bf16", "tp": "1"},
}


def test_latent_attention_is_that_of_the_model_with_the_sizes_of_the_row():
    known = catalogued("deepseek-v2-lite")
    assert job(**LATENT).model == replace(known, layers=6, max_positions=128)
    assert "no model of the catalogue fits" in reason(**LATENT | {"heads": "8"})


def test_a_size_of_a_head_that_neither_the_row_nor_the_catalogue_gives_is_not_guessed():
    llama = {"family": "llama", "kv_heads": "8"}
    assert "hidden / heads = 2880 / 64 is not the size of a head" in reason(hidden="2880", heads="64", **llama)
    assert "hidden / heads = 250 / 8 is not the size of a head" in reason(hidden="250")


# Llama 2 70B on 16 H100s without a recomputation that is told: 70 GB of weights, gradients and optimizer each.
LARGE = {
    **{"device": "h100-sxm", "family": "llama", "stack": "megatron-core", "layers": "80", "hidden": "8192"},
    **{"ffn": "28672", "heads": "64", "kv_heads": "8", "vocab": "32000", "seq_len": "4096", "precision": "bf16"},
    **{"tp": "4", "pp": "4", "global_batch": "8", "micro_batch": "1"},
    **{"recompute": "", "missing_inputs": "recompute"},
}


# DeepSeek-V3 on 256 B200s in 16 stages, as NVIDIA's recipe has it.
DEEPSEEK = {
    **{"family": "mla-moe", "stack": "megatron-core", "layers": "61", "hidden": "7168", "ffn": "2048"},
    **{"heads": "128", "vocab": "129280", "experts": "256", "topk": "8", "seq_len": "4096", "precision": "mxfp8"},
    **{"device": "b200-sxm", "gpus": "256", "tp": "1", "pp": "16", "ep": "8", "zero": "1"},
    **{"global_batch": "2048", "micro_batch": "1", "recompute": "", "missing_inputs": "recompute"},
}


def test_small_modules_are_tried_before_whole_layers_where_the_model_has_them():
    """The up-projections of latent attention are run again."""
    assert described(ROW | DEEPSEEK).assumed == (
        "recompute = selective:mla_up_proj",
        "stack = megatron-bridge",
        "mtp_layers = 1",
        "chunk_layers = 4x15 1",
    )


@pytest.mark.parametrize(
    ("cells", "layers", "said"),
    [
        ({}, 1, True),
        ({"mtp_layers": "0"}, 0, False),
        ({"mtp_layers": "2"}, 2, False),
        ({"layers": "60"}, 0, False),
        ({"model": "DeepSeekV3 (w/o MTP)"}, 0, False),
        ({"model": "DeepSeekV3 (w/ MTP)"}, 1, False),
    ],
)
def test_layers_that_predict_further_tokens_are_those_of_the_whole_model_unless_the_row_says(cells, layers, said):
    found = described(ROW | DEEPSEEK | cells)
    assert found.job.trained.mtp_layers == layers
    assert (f"mtp_layers = {layers}" in found.assumed) == said


def test_rows_are_sent_once_where_experts_are_spread_over_nodes_and_groups_limit_how_many():
    over_nodes = described(ROW | DEEPSEEK | {"pp": "8", "ep": "32"})
    assert over_nodes.job.layout.expert_mode == "deduplicated"
    assert "expert_mode = deduplicated" in over_nodes.assumed
    assert described(ROW | DEEPSEEK).job.layout.expert_mode == "all_to_all"


RACK = {"device": "gb200", "gpus_per_node": "4", "fabric": "nvl72"}
NODE = {"device": "b200-sxm", "gpus_per_node": "8", "fabric": "nvlink-switch"}
MIXED = {"family": "moe", "layers": "94", "hidden": "4096", "ffn": "1536", "heads": "64", "kv_heads": "4"}
MIXED |= {"vocab": "151936", "experts": "128", "topk": "8", "pp": "8"}


@pytest.mark.parametrize(
    ("cells", "mode"),
    [
        ({"date": "2026-02"}, "deduplicated"),
        ({"cite": "26.04.01 container"}, "deduplicated"),
        ({"date": "2025-11"}, "all_to_all"),
        ({}, "all_to_all"),
        (MIXED | {"date": "2026-02"}, "deduplicated"),
        (MIXED | NODE | {"date": "2026-02"}, "all_to_all"),
        (NODE | {"date": "2026-02"}, "deduplicated"),
        (NODE | {"date": "2026-01"}, "all_to_all"),
        ({"date": "2026-02", "expert_mode": "all_to_all"}, "all_to_all"),
        ({"date": "2026-02", "stack": "torchtitan"}, "all_to_all"),
    ],
)
def test_rows_are_sent_once_in_racks_and_of_some_models_in_nodes_since_recipes_have_it(cells, mode):
    assert job(**DEEPSEEK | RACK | cells).layout.expert_mode == mode


@pytest.mark.parametrize(
    ("cells", "execution", "name"),
    [
        (DEEPSEEK, "", "megatron-bridge"),
        (DEEPSEEK | {"date": "2026-02"}, "", "megatron-bridge"),
        (DEEPSEEK | RACK, "graph", "megatron-bridge"),
        (DEEPSEEK | {"model": "DeepSeekV3 (tokendrop)"}, "graph", "megatron-bridge"),
        (DEEPSEEK | RACK | {"execution": "eager"}, "eager", "megatron-bridge"),
        (DEEPSEEK | RACK | {"recompute": "none", "missing_inputs": ""}, "", "megatron-core"),
    ],
)
def test_a_recipe_that_is_not_given_is_taken_as_tuned_on_its_machine(cells, execution, name):
    """Graphs with the slow hosts of a rack, and where the shapes of experts are fixed; nothing that reads the loss."""
    found = described(ROW | cells)
    assert (found.job.execution, found.job.stack.name) == (execution, name)
    assert ("stack = megatron-bridge" in found.assumed) == (name == "megatron-bridge")
    assert ("execution = graph" in found.assumed) == (execution == "graph")


@pytest.mark.parametrize(
    ("cells", "overlaps"),
    [
        ({"cite": "26.04.01", "pp": "8", "vp": "2", "ep": "32"}, True),
        ({"cite": "26.04", "pp": "8", "vp": "2", "ep": "32"}, False),
        ({"cite": "26.04.01"}, False),  # within nodes
        ({"cite": "26.04.01", "pp": "8", "vp": "2", "ep": "32", "precision": "bf16"}, False),
        ({"cite": "26.04.01", "pp": "8", "vp": "2", "ep": "32", "zero": "3"}, False),  # which cannot
        ({"cite": "26.04.01", "pp": "8", "vp": "2", "ep": "32", "expert_overlap": "no"}, False),
    ],
)
def test_exchanges_run_beside_computation_since_recipes_have_it(cells, overlaps):
    found = described(ROW | DEEPSEEK | {"cite": ""} | cells)
    assert found.job.layout.expert_overlap == overlaps
    assert ("expert_overlap = True" in found.assumed) == overlaps


def test_graphs_are_taken_outside_of_racks_where_recipes_of_the_model_have_them():
    assert job(**DEEPSEEK | MIXED | NODE | {"date": "2026-07"}).execution == "graph"
    assert job(**DEEPSEEK | MIXED | NODE | {"date": "2026-04"}).execution == ""


@pytest.mark.parametrize(("day", "name"), [("2026-05", "megatron-bridge"), ("2026-06", "megatron-bridge-fused")])
def test_experts_have_their_activation_in_their_gemms_since_recipes_have_it(day, name):
    cells = DEEPSEEK | MIXED | RACK | {"date": day, "overlap": "no DP overlap"}
    found = described(ROW | cells)
    assert found.job.stack.name == name
    assert f"stack = {name}" in found.assumed
    assert found.job.stack.kernels == stack(name).kernels
    assert not found.job.stack.overlap.parameters  # what its words say stays
    assert job(**cells | {"recompute": "none", "missing_inputs": ""}).stack.name == "megatron-core"


def test_words_on_overlap_hold_for_the_stack_of_a_recipe_too():
    assert not job(**DEEPSEEK, overlap="no DP overlap").stack.overlap.parameters
    assert job(**DEEPSEEK).stack.overlap.parameters


def test_a_row_may_say_how_experts_get_their_rows():
    assert described(ROW | DEEPSEEK | {"expert_overlap": "yes"}).job.layout.expert_overlap
    assert not described(ROW | DEEPSEEK).job.layout.expert_overlap
    assert "expert_overlap = 'perhaps'" in reason(**DEEPSEEK | {"expert_overlap": "perhaps"})
    told = described(ROW | DEEPSEEK | {"pp": "8", "ep": "32", "expert_mode": "all_to_all"})
    assert told.job.layout.expert_mode == "all_to_all"
    assert "expert_mode = deduplicated" not in told.assumed
    assert "layout.expert_mode" in reason(**DEEPSEEK | {"expert_mode": "by post"})


def test_a_row_may_say_how_ranks_share_a_sequence():
    llama = {"family": "llama", "cp": "2", "stack": "megatron-core"}
    assert job(**llama).layout.context_mode == "ring"
    assert job(**llama, context_mode="all_to_all").layout.context_mode == "all_to_all"
    assert "layout.context_mode: no mode 'by post'" in reason(**llama, context_mode="by post")


TUNED = {"stack": "nemo", "date": "2024-07-01", "tp": "1", "pp": "4", "global_batch": "64", "layers": "24"}
TUNED |= {"recompute": "", "missing_inputs": "recompute"}


@pytest.mark.parametrize(
    ("cells", "chunks"),
    [
        ({}, 6),
        ({"vp": "1"}, 1),  # the source says so
        ({"task": "LoRA"}, 1),  # whose recipes have none
        ({"pp": "1"}, 1),
        ({"global_batch": "8"}, 1),  # one micro-batch cannot be interleaved
        ({"date": "2026-07-01"}, 1),
        ({"recompute": "none", "missing_inputs": ""}, 1),  # not a recipe that is not given
    ],
)
def test_a_recipe_that_is_not_given_interleaves_as_the_stack_usually_does(cells, chunks):
    found = described(ROW | TUNED | cells)
    assert found.job.layout.vp == chunks
    assert ("vp = 6" in found.assumed) == (chunks == 6)


@pytest.mark.parametrize(("layers", "chunks"), [("24", 6), ("22", 6), ("4", 1)])  # 22: with embedding and loss 24
def test_interleaving_whose_chunks_are_not_given_is_in_chunks_of_one_layer(layers, chunks):
    found = described(ROW | {"pp": "4", "global_batch": "64", "layers": layers, "schedule": "interleaved 1F1B"})
    assert found.job.layout.vp == chunks
    assert (f"vp = {chunks}" in found.assumed) == (chunks > 1)


@pytest.mark.parametrize("word", ["1F1B (not interleaved)", "none"])
def test_only_the_schedule_itself_says_that_chunks_are_interleaved(word):
    assert job(pp="4", global_batch="64", layers="24", schedule=word).layout.vp == 1


def test_interleaving_that_does_not_go_is_told():
    why = reason(pp="4", global_batch="64", layers="21", schedule="interleaved 1F1B")
    assert "does not give vp, and in chunks of one layer: " in why


def test_layers_that_do_not_come_out_even_are_said_unless_the_source_says_how():
    uneven = ROW | {"pp": "4", "global_batch": "64", "layers": "21"}
    assert "chunk_layers = 5 6x2 4" in described(uneven).assumed
    stated = described(uneven | {"chunk_layers": "6 5x3"})
    assert stated.assumed == ()
    assert chunk_layers(stated.job.model, stated.job.layout) == (6, 5, 5, 5)
    assert "adds up to 20, and layers = 21" in reason(**uneven | {"chunk_layers": "5x4"})


def test_recomputation_that_a_source_leaves_open_is_the_least_that_fits():
    roomy, tight = described(ROW | LARGE | {"gpus": "64", "zero": "1"}), described(ROW | LARGE | {"device": "h200-sxm"})
    assert roomy.assumed == tight.assumed == ("recompute = none", "stack = megatron-bridge")
    fuller = described(ROW | LARGE | {"gpus": "64", "zero": "1", "micro_batch": "2", "seq_len": "32768"})
    assert fuller.assumed == ("recompute = full", "stack = megatron-bridge")
    assert fuller.job.training.recompute == "full"
    assert peak_memory(fuller.job.shard(), fuller.job.cluster.device.memory_bytes).fits


# Llama 3.1 8B with FSDP on 8 H200s, as TorchTitan's recipes have it.
RECIPE = {
    **{"device": "h200-sxm", "gpus": "8", "gpus_per_node": "8", "fabric": "nvlink-switch", "stack": "torchtitan"},
    **{"family": "llama", "layers": "32", "hidden": "4096", "ffn": "14336", "heads": "32", "kv_heads": "8"},
    **{"vocab": "128256", "seq_len": "8192", "global_batch": "8", "micro_batch": "1", "precision": "bf16"},
    **{"tp": "1", "pp": "1", "zero": "3", "recompute": "", "missing_inputs": "recompute"},
}


@pytest.mark.parametrize("stack", ["torchtitan", "torchtitan-2024"])
def test_recipes_of_torchtitan_recompute_by_op_even_where_nothing_had_to_be_run_again(stack):
    found = described(ROW | RECIPE | {"stack": stack})
    memory = found.job.cluster.device.memory_bytes
    nothing = replace(found.job, training=replace(found.job.training, recompute="none"))
    assert peak_memory(nothing.shard(), memory).fits
    assert found.assumed == ("recompute = selective-op",)
    assert found.job.shard().recompute_mode == "selective-op-alternate"


def test_torchtitan_runs_whole_layers_again_where_recomputation_by_op_does_not_fit():
    tight = {"device": "h100-sxm", "global_batch": "24", "micro_batch": "3", "date": "2026-01"}
    assert described(ROW | RECIPE | tight).assumed == ("recompute = full",)


FULL = RECIPE | {"recompute": "full", "missing_inputs": ""}


@pytest.mark.parametrize(("device", "name"), [("h100-sxm", "torchtitan-2024"), ("h200-sxm", "torchtitan")])
def test_a_run_without_a_date_is_of_the_release_of_its_device_s_time(device, name):
    """H100s were sold from 2023 on, H200s from April 2024; runs are published a year and a half later."""
    found = described(ROW | FULL | {"device": device})
    assert found.job.stack.name == name
    assert found.assumed == ((f"stack = {name}",) if name != "torchtitan" else ())


@pytest.mark.parametrize(
    ("date", "name"),
    [("2024-12", "torchtitan-2024"), ("2025-05-31", "torchtitan-2024"), ("2025-06-01", "torchtitan")],
)
@pytest.mark.parametrize("device", ["h100-sxm", "h200-sxm"])
def test_a_run_with_a_date_is_of_the_release_of_that_day(date, name, device):
    found = described(ROW | FULL | {"device": device, "date": date})
    assert (found.job.stack.name, found.assumed) == (name, ())


@pytest.mark.parametrize(
    ("source", "cite", "name"),
    [
        ("MLPerf Training v5.0", "results/n8_ngc24.09_nemo", "nemo"),
        ("MLPerf Training v4.0", "results/n8_ngc24.04_nemo", "nemo-2024"),
        ("NeMo 24.07, summary", "as of 24.07 and 24.10", "nemo"),
    ],
)
def test_a_release_that_the_source_names_dates_the_run_and_is_not_assumed(source, cite, name):
    found = described(ROW | FULL | {"device": "h100-sxm", "stack": "nemo", "source": source, "cite": cite})
    assert found.job.stack.name == name
    assert not any(words.startswith("stack") for words in found.assumed)


@pytest.mark.parametrize("words", ["arXiv:2310.01889", "v2.11 of 24", "124.07 tokens", "24.13", "Table 24.0712"])
def test_other_numbers_are_no_releases(words):
    found = described(ROW | FULL | {"device": "h100-sxm", "stack": "nemo", "source": words, "cite": words})
    assert "stack = nemo-2024" in found.assumed


@pytest.mark.parametrize("date", ["2024", "december", "2024-13", "2024-12-1", "12/2024"])
def test_a_date_that_is_none_is_said(date):
    assert f"date = '{date}': a month as in 2024-12" in reason(date=date)


def test_the_release_of_a_device_that_nobody_dated_is_today_s():
    undated = replace(hardware.device("h100-sxm"), sold_from=None)
    assert release(stack("torchtitan"), undated) == "torchtitan"


# Llama 3 70B with FSDP on 64 GB200s.
SHARDED = LARGE | {
    **{"device": "gb200", "gpus": "64", "gpus_per_node": "4", "fabric": "nvl72", "vocab": "128256", "seq_len": "8192"},
    **{"tp": "1", "pp": "1", "zero": "3", "global_batch": "128", "micro_batch": "2", "precision": "fp8"},
}


def test_layers_are_offloaded_where_that_is_faster_than_running_them_again():
    """Of 4 sequences a layer keeps 7.3 GB. Over PCIe that takes 126 ms, which a layer does not hide."""
    larger = SHARDED | {"global_batch": "256", "micro_batch": "4"}
    over_c2c, over_pcie = job(**larger), job(**(larger | {"device": "b200-sxm", "fabric": "nvlink-switch"}))
    assert over_c2c.training.recompute_mode == "offload"
    assert over_pcie.training.recompute_mode == "full"
    again = replace(over_c2c, training=replace(over_c2c.training, recompute="full"))
    assert simulate(over_c2c).step_s < simulate(again).step_s


# GPT-OSS 120B on 64 B200s, eight of which share the experts.
SPARSE = {
    **{"device": "b200-sxm", "gpus": "64", "gpus_per_node": "8", "fabric": "nvlink-switch", "stack": "megatron-core"},
    **{"family": "moe", "layers": "36", "hidden": "2880", "ffn": "2880", "heads": "64", "kv_heads": "8"},
    **{"experts": "128", "topk": "4", "ep": "8", "vocab": "201088", "seq_len": "4096", "global_batch": "1280"},
    **{"micro_batch": "4", "precision": "bf16", "tp": "1", "pp": "1", "zero": "1"},
    **{"recompute": "", "missing_inputs": "recompute"},
}


def test_small_modules_are_run_again_before_whole_layers_and_gradients_of_recipes_are_narrow():
    found = described(ROW | SPARSE)
    assert found.assumed == ("recompute = selective:moe_act", "stack = megatron-bridge")
    memory = found.job.cluster.device.memory_bytes
    assert peak_memory(found.job.shard(), memory).fits
    wide = replace(found.job, training=replace(found.job.training, gradients="fp32"))
    assert not peak_memory(wide.shard(), memory).fits
    less = replace(found.job, training=replace(found.job.training, recompute="none"))
    assert not peak_memory(less.shard(), memory).fits


def test_a_row_may_say_the_type_of_its_gradients():
    said = described(ROW | SPARSE | {"gradients": "fp32"})
    assert said.job.shard().gradient_dtype == "fp32"
    assert said.assumed == ("recompute = full", "stack = megatron-bridge")
    assert "training.gradients: no type 'int8'" in reason(gradients="int8")


def test_no_more_layers_are_offloaded_than_have_to_be():
    found = job(**SHARDED)
    fewer = f"offload:{found.training.offloaded_layers - 1}"
    memory = found.cluster.device.memory_bytes
    assert peak_memory(found.shard(), memory).fits
    assert not peak_memory(replace(found, training=replace(found.training, recompute=fewer)).shard(), memory).fits


def test_pipelines_and_stacks_that_cannot_offload_recompute():
    assert job(**(SHARDED | {"tp": "4", "pp": "4", "zero": "1"})).training.recompute_mode != "offload"
    assert job(**(SHARDED | {"stack": "torchtitan"})).training.recompute_mode != "offload"


def test_a_job_that_fits_with_no_recomputation_at_all_is_skipped():
    assert "not even with all of it" in reason(**(LARGE | {"pp": "1"}))


def test_a_stage_of_zero_that_a_source_leaves_open_is_the_stack_s_usual_one():
    found = described(ROW | {"stack": "torchtitan-2024", "zero": "", "missing_inputs": "zero_stage_or_fsdp"})
    assert (found.job.layout.zero, found.assumed) == (3, ("zero = 3",))


def test_an_input_that_is_there_after_all_is_taken():
    found = described(ROW | {"recompute": "full", "missing_inputs": "recompute;zero_stage_or_fsdp"})
    assert (found.job.training.recompute, found.job.layout.zero, found.assumed) == ("full", 0, ())


def test_adapters_need_no_stage_of_zero():
    found = described(ROW | {"task": "LoRA", "zero": "", "missing_inputs": "zero_stage_or_fsdp"})
    assert (found.job.training.task, found.assumed) == ("lora", ())


def test_a_vocabulary_is_not_assumed():
    assert reason(missing_inputs="inter_node;vocab") == "the source does not give vocab"


def test_layers_alone_need_no_vocabulary():
    found = described(ROW | {"task": "single layer", "vocab": "", "missing_inputs": "vocab"})
    assert (found.job.training.layers_alone, found.assumed) == (True, ())


def test_a_model_of_the_catalogue_says_what_a_row_has_no_column_for():
    """Qwen3 30B: heads of 128 columns where hidden / heads is 64; half of its layers."""
    known = catalogued("qwen3-30b-a3b")
    shape = {"hidden": "2048", "ffn": "768", "heads": "32", "kv_heads": "4", "vocab": "151936", "topk": "8"}
    found = job(family="moe", layers="24", experts="128", **shape).model
    assert (found.head_dim, found.qk_norm, found.layers) == (known.head_dim, True, 24)
    assert job(family="moe", layers="24", experts="64", **shape).model.head_dim == 64


def test_windows_sinks_and_biases_are_those_of_the_model_of_the_catalogue():
    known = catalogued("gpt-oss-120b")
    shape = {"hidden": "2880", "ffn": "2880", "heads": "64", "kv_heads": "8", "vocab": "201088", "topk": "4"}
    found = job(family="moe", stack="megatron-core", layers="36", experts="128", tp="1", **shape).model
    assert replace(found, name=known.name, max_positions=known.max_positions) == known


def test_what_hardly_matters_may_be_missing():
    assert job(missing_inputs="inter_node_gbit_per_s").layout.gpus == 16


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"stack": "megatron-lm-2023"}, "no stack 'megatron-lm-2023'; nearest: megatron-lm-202"),
        ({"device": "h900"}, "no device 'h900'"),
        ({"fabric": "smoke-signals"}, "no fabric 'smoke-signals'"),
        ({"layers": "four"}, "layers = 'four'"),
        ({"layers": ""}, "layers = ''"),
        ({"hidden": "256.5"}, "hidden = '256.5'"),
        ({"global_batch": ""}, "global_batch = ''"),
        ({"tp": "two"}, "tp = 'two'"),
        ({"zero": "yes"}, "zero = 'yes'"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_read_says_why(cells, words):
    assert words in reason(**cells)


@pytest.mark.parametrize(
    "cells",
    [
        {"inter_node_gbit_per_s": "fast"},
        {"inter_node_gbit_per_s": ""},
        {"inter_node_gbit_per_s": "-100"},
        {"inter_node_gbit_per_s": "0"},
        {"inter_node_gbit_per_s": "nan"},
        {"heads": "0"},
        {"heads": "7"},
        {"layers": "-4"},
        {"vocab": "0"},
        {"vocab": "-1"},
        {"kv_heads": "3"},
        {"gpus": "0"},
        {"gpus_per_node": "0"},
        {"gpus_per_node": "-8"},
        {"tp": "0"},
        {"pp": "0"},
        {"execution": "turbo"},
        {"attention": "flesh"},
        {"sequence_parallel": "maybe"},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_a_reason_that_names_its_column(cells):
    assert next(iter(cells)) in reason(**cells).lower()


@pytest.mark.parametrize("cells", [{"gpus": "10"}, {"gpus": "2"}, {"dp": "2"}], ids=str)
def test_gpus_that_the_degrees_do_not_make_up_are_a_reason(cells):
    """10 GPUs are no multiple of 4; 2 are fewer than 4; 2 x 4 are not 16."""
    assert "gpus" in reason(**cells).lower()


def test_zero_ranks_that_split_an_expert_are_as_good_as_a_blank():
    split = {"family": "moe", "experts": "8", "topk": "2", "sequence_parallel": "yes"}
    assert job(**split, etp="0").layout == job(**split, etp="").layout
    assert job(**split, etp="2").layout.etp == 2
    assert "ep = '0': a whole number of 1 or more is needed" in reason(**split, ep="0")


@pytest.mark.parametrize(
    ("software", "cells", "ranks"),
    [
        ("nemo", {}, 2),
        ("nemo-2024", {}, 2),
        ("nemo", {"etp": "1"}, 1),
        ("megatron-core", {}, 1),
        ("megatron-core", {"etp": "2"}, 2),
    ],
)
def test_experts_are_split_where_the_stack_does_so_unless_the_row_says(
    software: str, cells: dict[str, str], ranks: int
):
    routed = {"family": "moe", "kv_heads": "8", "experts": "8", "topk": "2", "ep": "4", "pp": "1"}
    assert job(stack=software, sequence_parallel="yes", precision="bf16", **routed, **cells).layout.expert_tp == ranks


def test_a_dense_row_has_no_experts_to_split():
    assert job(stack="nemo", precision="bf16").layout.etp == 0


@pytest.mark.parametrize(
    ("word", "vp", "name"),
    [
        ("ZB-1p", "1", "zero_bubble"),
        ("zb-h1", "1", "zero_bubble"),
        ("ZB-V", "2", "zero_bubble_v"),
        ("DualPipe", "1", "dualpipe"),
        ("1F1B-I", "2", "interleaved"),
    ],
)
def test_schedules_are_called_what_papers_call_them(word, vp, name):
    found = job(schedule=word, vp=vp, tp="1", gpus="2", gpus_per_node="2")
    assert found.layout.schedule_name == name
    found.shard()
