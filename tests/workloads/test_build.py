"""Whole steps: FLOPs are conserved by every split, stages hand on every activation, everybody meets at the end."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from sim.catalog import stack
from tests.conftest import GPT, LLAMA, accepts, changed, make_job, make_shard
from workloads.adapters import RANK
from workloads.build import build
from workloads.graph import COMPUTE, Message, Program, Segment, verify
from workloads.model import step_model_flops
from workloads.ops import Attention, Collective, Gemm, Pointwise, Transfer
from workloads.shard import Shard

LAYOUTS: list[dict[str, Any]] = [
    {},
    {"dp": 4},
    {"tp": 2},
    {"tp": 4, "sequence_parallel": True},
    {"pp": 4},
    {"pp": 5},
    {"pp": 4, "schedule": "gpipe"},
    {"pp": 2, "vp": 4},
    {"pp": 2, "vp": 2, "dp": 2, "zero": 1},
    {"dp": 2, "zero": 2},
    {"dp": 4, "zero": 3},
    {"pp": 2, "dp": 2, "zero": 3},
    {"dp": 2, "tp": 2, "pp": 2, "sequence_parallel": True},
]
CONTEXT_LAYOUTS: list[dict[str, Any]] = [
    *LAYOUTS,
    {"cp": 4},
    {"cp": 2, "dp": 2, "tp": 2, "pp": 2, "sequence_parallel": True},
    {"cp": 8, "dp": 2, "zero": 3},
]
both_models = pytest.mark.parametrize("model", [GPT, LLAMA], ids=["gpt", "llama"])


def flops(shard: Shard, program: Program, phases: tuple[str, ...] = ("forward", "recompute", "backward")) -> float:
    """Of the GEMMs and attention of all ranks; each stage stands for tp x cp x dp ranks."""
    stage = sum(
        count * work.op.flops
        for task in program.tasks
        if isinstance(op := program.ops[task.op], Segment)
        for block, count in op.blocks
        if block.phase in phases
        for work in block.work
        if isinstance(work.op, Gemm | Attention)
    )
    return stage * shard.layout.gpus / shard.layout.pp


def step_flops(model=GPT, stack_name: str = "megatron-lm-2022", **keywords: Any) -> float:
    shard = make_shard(model, stack_name, **keywords)
    return flops(shard, build(shard))


def attention_flops(model, pairs: float, times: float) -> float:
    """Of a step: two products of two FLOPs for each pair, head and dimension; 16 sequences."""
    return times * 16 * model.layers * 2 * 2 * model.heads * model.head_dim * pairs


@both_models
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_unfused_attention_does_the_flops_of_the_model(model, layout):
    """The whole square of scores is computed: three times the forward pass, as the papers count."""
    assert step_flops(model, **layout) == pytest.approx(step_model_flops(model, 64, 16), rel=1e-9)


@both_models
@pytest.mark.parametrize("layout", CONTEXT_LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["torchtitan", "megatron-core"])
def test_flash_attention_skips_the_mask_and_runs_scores_again(model, layout, name):
    """Half the square with its diagonal; 2 products forward, 5 backward, 3.5 times the forward pass."""
    dense = 3 * 16 * 64 * model.matmul_flops_per_token
    attention = attention_flops(model, 64 * 65 / 2, 3.5)
    assert step_flops(model, name, **layout) == pytest.approx(dense + attention, rel=1e-9)


@both_models
@pytest.mark.parametrize("layout", CONTEXT_LAYOUTS, ids=str)
def test_full_recomputation_adds_a_forward_pass_of_the_layers(model, layout):
    """The vocabulary projection is not run again."""
    once, again = (step_flops(model, "torchtitan", training={"recompute": mode}, **layout) for mode in ("none", "full"))
    layers = 16 * 64 * 2 * model.layers * model.layer_matmul_parameters
    assert again - once == pytest.approx(layers + attention_flops(model, 64 * 65 / 2, 1.0), rel=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_selective_recomputation_adds_the_scores_and_values(layout):
    once, again = (step_flops(training={"recompute": mode}, **layout) for mode in ("none", "selective"))
    assert again - once == pytest.approx(attention_flops(GPT, 64 * 64, 1.0), rel=1e-9)


@pytest.mark.parametrize("layers", [1, 3, 8])
def test_recomputing_some_layers_adds_their_share(layers):
    once, again, full = (step_flops(training={"recompute": mode}) for mode in ("none", f"full:{layers}", "full"))
    assert again - once == pytest.approx((full - once) * layers / 8, rel=1e-9)


def test_each_stage_recomputes_its_own_layers():
    once, again, full = (step_flops(training={"recompute": mode}, pp=4) for mode in ("none", "full:1", "full"))
    assert again - once == pytest.approx((full - once) / 2, rel=1e-9)


def test_the_size_of_a_micro_batch_changes_no_flops():
    sums = [step_flops(training={"micro_batch": size}) for size in (1, 2, 8)]
    assert sums[0] == sums[1] == sums[2]


def test_padding_the_vocabulary_costs_flops():
    """500 words padded to 512: 12 more columns for each token, forward and twice backward."""
    padded = step_flops(replace(GPT, vocab=500)) - step_model_flops(replace(GPT, vocab=500), 64, 16)
    assert padded == pytest.approx(3 * 2 * 16 * 64 * 64 * 12)


def test_a_bert_runs_the_head_that_it_is_trained_with():
    """The transform of the masked-token head, h x h at every position, is among the FLOPs of the model."""
    bert = replace(GPT, name="small-bert", family="bert", embedding_norm=True)
    assert step_flops(bert, "bert-base") == pytest.approx(step_model_flops(bert, 64, 16), rel=1e-9)


def test_adapters_train_no_weights_of_the_layers():
    """Forward and data gradients; beside qkv, 64 -> 128, and proj, 64 -> 64, two products forward and four backward."""
    lora = step_flops(LLAMA, training={"task": "lora"})
    weights = 16 * 64 * LLAMA.matmul_flops_per_token
    adapters = 8 * 6 * 2 * 16 * 64 * RANK * (64 + 128 + 64 + 64) / 2
    assert lora == pytest.approx(step_model_flops(LLAMA, 64, 16) - weights + adapters, rel=1e-9)


@both_models
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["megatron-lm-2022", "megatron-core"])
def test_layers_alone_are_the_layers_of_a_step_and_nothing_else(model, layout, name):
    """Their FLOPs are those of the step without its head; there is no loss, no sum over replicas and no update."""
    shard = make_shard(model, name, training={"task": "layers"}, **layout)
    program = build(shard)
    names = {block.name for op in program.ops if isinstance(op, Segment) for block, _ in op.blocks}
    assert names <= {"layer", "accumulate"}
    whole = step_flops(model, name, **layout)
    assert flops(shard, program) == pytest.approx(whole - 3 * 16 * 64 * model.head_flops_per_token, rel=1e-9)
    over_replicas = {op.name for op in program.ops if isinstance(op, Message) and op.dimension == "dp"}
    assert over_replicas <= ({"all_gather"} if shard.layout.zero == 3 else set())


def sends(program: Program) -> list[Transfer]:
    return [
        op
        for task in program.tasks
        if isinstance(message := program.ops[task.op], Message)
        for op in message.ops
        if isinstance(op, Transfer)
    ]


@pytest.mark.parametrize(("pp", "vp"), [(1, 1), (2, 1), (4, 1), (2, 2), (4, 2), (8, 1)])
def test_every_boundary_is_crossed_forward_and_backward(pp, vp):
    """m micro-batches over p v - 1 boundaries between chunks, there and back; s b h in 16 bits each."""
    program = build(make_shard(pp=pp, vp=vp))
    assert len(sends(program)) == 2 * 16 * (pp * vp - 1)
    assert {op.bytes for op in sends(program)} <= {64 * 64 * 2}


def test_scatter_gather_sends_each_part_once():
    """SC21, section 4.1: each of t ranks sends 1 / t, and gathers the whole on arrival."""
    on = changed(stack("megatron-lm-2022"), scatter_gather=True)
    program = build(make_shard(on=on, pp=2, tp=4))
    assert {op.bytes for op in sends(program)} == {64 * 64 * 2 / 4}
    gathers = [op for m in program.ops if isinstance(m, Message) for op in m.ops if isinstance(op, Collective)]
    assert any((op.op, op.bytes, op.ranks) == ("all_gather", 64 * 64 * 2, 4) for op in gathers)


def test_sequence_parallel_ranks_send_their_part():
    on = changed(stack("megatron-lm-2022"), scatter_gather=False)
    sizes = [
        {op.bytes for op in sends(build(make_shard(on=on, pp=2, tp=4, sequence_parallel=sp)))} for sp in (False, True)
    ]
    assert sizes == [{64 * 64 * 2}, {64 * 64 * 2 / 4}]


def test_stages_stand_as_far_apart_as_their_ranks_are_many():
    strides = {op.stride for op in sends(build(make_shard(pp=4, tp=2, cp=1, dp=2)))}
    assert strides == {4}


def test_a_tied_embedding_is_summed_over_the_ends():
    def tables(model: Any, **layout: Any) -> int:
        program = build(make_shard(model, **layout))
        return sum(program.ops[task.op].name == "embedding all_reduce" for task in program.tasks)

    assert tables(GPT, pp=4) == 2
    assert tables(GPT) == tables(LLAMA, pp=4) == 0


def test_every_rank_ends_with_the_optimizer():
    program = build(make_shard(pp=4))
    last = {task.rank: program.ops[task.op].name for task in program.tasks if task.stream == COMPUTE}
    assert last == dict.fromkeys(range(4), "optimizer")


def test_all_ranks_meet_for_the_norm():
    """No rank updates before every rank's last backward pass: an infinity anywhere stops all."""
    program = build(make_shard(pp=4))
    norms = [t for t in program.tasks if program.ops[t.op].name == "norm all_reduce"]
    assert len(norms) == 4
    for norm in norms:
        assert {program.tasks[earlier].rank for earlier in norm.after} == {0, 1, 2, 3}


CASES = [
    case
    for case in product(
        ("megatron-lm-2021", "megatron-core", "torchtitan"),
        (1, 2),
        (1, 2, 4),
        (1, 2),
        (1, 2),
        (0, 1, 2, 3),
    )
    if accepts(
        GPT,
        make_job(tp=case[1], pp=case[2], vp=case[3], dp=case[4], zero=case[5]).layout,
        make_job().training,
    )
]


@pytest.mark.parametrize(("name", "tp", "pp", "vp", "dp", "zero"), CASES)
def test_every_program_is_sound(name, tp, pp, vp, dp, zero):
    program = build(make_shard(LLAMA, name, tp=tp, pp=pp, vp=vp, dp=dp, zero=zero))
    verify(program)
    assert {task.rank for task in program.tasks} == set(range(pp))
    assert {task.op for task in program.tasks} == set(range(len(program.ops)))


def test_the_same_shard_gives_the_same_program():
    tasks = [build(make_shard(LLAMA, "torchtitan", dp=2, zero=3)).tasks for _ in range(2)]
    assert tasks[0] == tasks[1]


def update_work(**keywords: Any) -> list[tuple[str, float]]:
    """(kernel, elements) of everything behind the backward passes."""
    program = build(make_shard(on=changed(stack("megatron-lm-2022"), optimizer=OPTIMIZER), **keywords))
    return [
        (work.op.op, work.op.elements)
        for op in program.ops
        if isinstance(op, Segment)
        for block, _ in op.blocks
        if block.phase == "optimizer"
        for work in block.work
        if isinstance(work.op, Pointwise)
    ]


OPTIMIZER = {"norm": ("grad_norm",), "clip": ("clip",), "update": ("adamw_fused",), "mixed": ("cast_master",)}


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_the_optimizer_works_on_what_its_rank_holds(zero):
    """All parameters, or with ZeRO one of 4 shards."""
    held = GPT.parameters / (4 if zero else 1)
    kernels = ["grad_norm", "clip", "adamw_fused", "cast_master"]
    assert update_work(dp=4, zero=zero) == [(kernel, held) for kernel in kernels]


def test_without_master_weights_there_is_nothing_to_cast():
    assert [kernel for kernel, _ in update_work(training={"precision": "fp32"})] == ["grad_norm", "clip", "adamw_fused"]


def test_momentum_has_a_kernel_of_its_own():
    assert "sgd" in dict(update_work(training={"optimizer": "sgd"}))


def test_adapters_update_nothing_worth_mentioning():
    assert update_work(training={"task": "lora"}) == []


def table_additions(shard: Shard) -> list[str]:
    """Kernels that add the gradient of an embedding table to its buffer, over all ranks."""
    program, size = build(shard), shard.vocab * shard.model.hidden
    return [
        work.op.op
        for task in program.tasks
        if isinstance(op := program.ops[task.op], Segment)
        for block, count in op.blocks
        for work in block.work * count
        if isinstance(work.op, Pointwise) and block.name == "accumulate" and work.op.rows * work.op.cols == size
    ]


def test_megatron_core_adds_the_dense_gradient_of_the_embedding_once_a_micro_batch():
    """The head's weight gradient is a GEMM that adds up itself; so are those of the layers."""
    batches = {"training": {"global_batch": 3, "micro_batch": 1}}
    for layout in ({}, {"pp": 2}, {"tp": 2}):
        assert table_additions(make_shard(LLAMA, "megatron-core", **batches, **layout)) == ["zero", "accumulate"] * 3
    assert table_additions(make_shard(LLAMA, "megatron-core", training={"task": "lora"})) == []


def test_the_loss_is_read_where_the_host_checks_it():
    def read(name: str) -> set[str]:
        program = build(make_shard(LLAMA, name))
        segments = [op for op in program.ops if isinstance(op, Segment)]
        return {str(work.op) for op in segments for block, _ in op.blocks for work in block.work if work.counted}

    (loss,) = read("megatron-core")
    assert "op='cross_entropy'" in loss
    assert "direction='bwd'" in loss
    assert not read("nemo")
