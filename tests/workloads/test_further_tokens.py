"""Layers behind the last one that predict further tokens (multi-token prediction), as DeepSeek-V3 has one."""

from dataclasses import replace

import pytest

from sim.catalog import stack
from sim.memory import peak_memory
from sim.step import simulate
from tests.conftest import GPT, LLAMA, SIMPLE, make_job, make_shard
from workloads import chunks
from workloads.build import build
from workloads.catalog import model as catalogued
from workloads.errors import WorkloadError
from workloads.graph import leaf_runs
from workloads.model import Model, step_model_flops
from workloads.ops import Gemm
from workloads.parallelism import pipeline
from workloads.stage import chunk_parameters, stage_chunks
from workloads.tensors import chunk_tensors

FURTHER = replace(LLAMA, mtp_layers=1)
ROUTED = replace(FURTHER, experts=8, topk=2, dense_layers=3, dense_ffn=128)


@pytest.mark.parametrize("layout", [{}, {"pp": 2}, {"pp": 2, "vp": 4}, {"tp": 2, "sequence_parallel": True}], ids=str)
@pytest.mark.parametrize("model", [FURTHER, replace(FURTHER, mtp_layers=2), ROUTED], ids=["one", "two", "routed"])
def test_the_gemms_of_a_step_are_those_of_the_model(model: Model, layout):
    shard = make_shard(model, "megatron-core", **layout)
    attention = 3.0 * 16 * 64 * model.attention_flops_per_token(64, causal=False)
    found = leaf_runs(build(shard)).items()
    gemms = sum(often * op.flops for op, often in found if isinstance(op, Gemm))
    ranks = shard.layout.gpus / shard.layout.pp
    assert gemms * ranks == pytest.approx(step_model_flops(model, 64, 16) - attention, rel=1e-9)


def test_flops_counted_on_paper():
    """A layer more, 128 columns projected to 64, and a head more: 2 (layer + 2 64² + 64 x 512) for a token."""
    more = FURTHER.matmul_flops_per_token - LLAMA.matmul_flops_per_token
    assert more == 2 * (LLAMA.layer_matmul_parameters + 2 * 64 * 64 + 64 * 512)
    eight, nine = (each.attention_flops_per_token(64, causal=True) for each in (LLAMA, FURTHER))
    assert nine / eight == pytest.approx(9 / 8)
    assert FURTHER.parameters == LLAMA.parameters


@pytest.mark.parametrize(("pp", "copies"), [(1, 0), (2, 1)])
def test_parameters_counted_on_paper(pp: int, copies: int):
    """A layer, the projection and three norms; on another stage than the embedding a copy of its table."""

    def last_stage(model: Model) -> float:
        shard = make_shard(model, "megatron-core", pp=pp)
        return chunk_parameters(shard, stage_chunks(shard, pp - 1)[-1]).total

    extra = LLAMA.layer_parameters + 2 * 64 * 64 + 3 * 64 + copies * 512 * 64
    assert last_stage(FURTHER) - last_stage(LLAMA) == extra


def test_its_tensors_are_counted():
    """Of a layer (4 weights, 2 norms), the projection and three norms."""
    shards = [make_shard(model, "megatron-core") for model in (LLAMA, FURTHER)]
    without, with_it = (chunk_tensors(shard, stage_chunks(shard, 0)[0]).dense for shard in shards)
    assert with_it - without == 4 + 2 + 1 + 3


@pytest.mark.parametrize(("pp", "often"), [(1, 0), (2, 1)])
def test_the_gradients_of_the_two_tables_are_summed(pp: int, often: int):
    shard = make_shard(FURTHER, "megatron-core", pp=pp)
    (summed,) = pipeline.embedding_gradients(shard).ops
    assert leaf_runs(build(shard)).get(summed, 0) == 2 * often


def test_it_costs_time_and_memory():
    plain, further = (make_job(model, "megatron-core") for model in (LLAMA, FURTHER))
    assert simulate(further, SIMPLE).step_s > 9 / 8 * simulate(plain, SIMPLE).step_s
    held = [peak_memory(job.shard(), 8e10).allocated for job in (plain, further)]
    assert held[1] > held[0]


@pytest.mark.parametrize(("count", "split"), [(4, "16x3 13"), (8, "8x7 5"), (16, "4x15 1"), (32, "1 2x30 0")])
def test_deepseek_v3_is_dealt_out_as_its_recipes_have_it(count: int, split: str):
    """Layouts of Megatron-Bridge's recipes: `Et*4|(t*4|)*14tmL`, `Et|(tt|)*30mL` and the like."""
    assert chunks.spelt(chunks.even(61, count, 1)) == split


def test_more_chunks_than_there_is_for_them_are_refused():
    (fewer,) = chunks.faults(61, 64, "", 1)
    (heavy,) = chunks.faults(61, 62, "", 2)
    assert "are fewer than pp x vp = 64" in fewer
    assert "too few for pp x vp = 62 beside 2 MTP layers" in heavy


@pytest.mark.parametrize(
    ("name", "training", "trained"),
    [
        ("megatron-core", {}, 1),
        ("nemo", {}, 1),
        ("torchtitan", {}, 0),
        ("megatron-core", {"mtp_layers": 0}, 0),
        ("megatron-core", {"mtp_layers": 3}, 3),
        ("megatron-core", {"task": "lora"}, 0),
        ("megatron-core", {"task": "layers"}, 0),
    ],
)
def test_a_stack_that_can_trains_them_unless_told_otherwise(name: str, training, trained: int):
    job = make_job(FURTHER, name, training=training)
    assert job.trained.mtp_layers == job.shard().model.mtp_layers == trained


@pytest.mark.parametrize(
    ("name", "model", "training", "fault"),
    [
        ("torchtitan", LLAMA, {"mtp_layers": 1}, "torchtitan does not train layers that predict further tokens"),
        ("megatron-core", LLAMA, {"mtp_layers": 1, "task": "lora"}, "is of pretraining, not of task 'lora'"),
        ("megatron-core", replace(GPT, family="bert"), {"mtp_layers": 1}, "is of causal models"),
    ],
)
def test_what_cannot_be_trained_is_told(name: str, model: Model, training, fault: str):
    with pytest.raises(WorkloadError, match=fault):
        make_job(model, name, training=training).shard()


def test_deepseek_v3_has_one_and_its_software_trains_it():
    assert catalogued("deepseek-v3").mtp_layers == 1
    assert catalogued("deepseek-v2").mtp_layers == catalogued("kimi-k2").mtp_layers == 0
    assert stack("megatron-core").mtp
