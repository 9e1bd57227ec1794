"""Data parallelism: gradients are summed, shards gathered; bytes by hand, and none lost in buckets."""

from dataclasses import replace
from itertools import product

import pytest

from sim.catalog import stack
from tests.conftest import GPT, LLAMA, accepts, changed, make_job, make_shard
from workloads.build import build
from workloads.graph import Message, Program, Segment
from workloads.ops import Collective
from workloads.parallelism import data
from workloads.parameters import Parameters, summed
from workloads.shard import Shard
from workloads.stack import Stack
from workloads.stage import chunk_parameters, layer_parameters, stage_chunks

ADDED_BEHIND = changed(stack("megatron-lm-2022"), attention="flash", overlap={"gradients": "none", "parameters": False})
BESIDE = changed(
    stack("megatron-lm-2022"),
    attention="flash",
    overlap={"gradients": "backward", "parameters": True},
    data={"bucket_bytes": 3e5, "zero_gradients": "reduce_scatter"},
)
EVERY_WAY = {"behind": ADDED_BEHIND, "beside": BESIDE}


def sent(program: Program, kind: str, rank: int = 0) -> float:
    """Bytes of all data-parallel messages of that kind, of one rank; the norm's one number left out."""
    return sum(
        op.bytes
        for task in program.tasks
        if task.rank == rank and isinstance(message := program.ops[task.op], Message)
        for op in message.ops
        if message.dimension == "dp" and isinstance(op, Collective) and op.op == kind and op.bytes > 4.0
    )


def parameters(shard: Shard, stage: int = 0) -> float:
    return summed(chunk_parameters(shard, chunk) for chunk in stage_chunks(shard, stage)).total


def made(on: Stack = ADDED_BEHIND, model=GPT, **layout) -> tuple[Shard, Program]:
    shard = make_shard(model, on=on, **layout)
    return shard, build(shard)


def test_parameters_of_one_rank_are_those_of_the_model():
    assert parameters(make_shard(GPT)) == GPT.parameters
    assert parameters(make_shard(LLAMA)) == LLAMA.parameters


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_ranks_share_the_matrices(tp):
    norms = 2 * GPT.norm_parameters
    assert layer_parameters(make_shard(GPT, tp=tp)).total == (GPT.layer_parameters - norms) / tp + norms


@pytest.mark.parametrize("pp", [2, 4, 8])
def test_stages_hold_the_model_and_a_second_embedding_table(pp):
    """First and last stage both need the table where it is tied."""
    shard = make_shard(GPT, pp=pp)
    held = sum(parameters(shard, stage) for stage in range(pp))
    assert held == GPT.parameters + GPT.vocab * GPT.hidden
    untied = make_shard(LLAMA, pp=pp)
    assert sum(parameters(untied, stage) for stage in range(pp)) == LLAMA.parameters


def test_one_replica_sends_nothing():
    _, program = made(dp=1)
    assert [sent(program, kind) for kind in ("all_reduce", "reduce_scatter", "all_gather")] == [0, 0, 0]


def test_one_gpu_sends_nothing_at_all():
    _, program = made()
    ops = [op for message in program.ops if isinstance(message, Message) for op in message.ops]
    assert all(isinstance(op, Collective) and op.ranks == 1 for op in ops)


@pytest.mark.parametrize(("reduce", "width"), [("fp32", 4.0), ("compute", 2.0)])
@pytest.mark.parametrize("on", EVERY_WAY.values(), ids=EVERY_WAY)
def test_every_gradient_is_reduced_once(on, reduce, width):
    _, program = made(changed(on, storage={"reduce": reduce}), dp=4)
    assert sent(program, "all_reduce") == pytest.approx(GPT.parameters * width)
    assert sent(program, "reduce_scatter") == sent(program, "all_gather") == 0


@pytest.mark.parametrize("on", EVERY_WAY.values(), ids=EVERY_WAY)
@pytest.mark.parametrize("layout", [{"tp": 2}, {"pp": 2}, {"pp": 4, "tp": 2}, {"pp": 2, "vp": 2}, {"cp": 2}], ids=str)
def test_every_stage_reduces_what_it_holds(on, layout):
    shard, program = made(on, dp=2, **layout)
    for stage in range(shard.layout.pp):
        assert sent(program, "all_reduce", stage) == pytest.approx(4.0 * parameters(shard, stage))


@pytest.mark.parametrize(
    ("how", "layout", "same"),
    [
        ("without-tensor", {"pp": 2}, "backward"),
        ("without-tensor", {"tp": 2}, "none"),
        ("without-pipeline", {"tp": 2}, "backward"),
        ("without-pipeline", {"pp": 2}, "none"),
    ],
)
def test_gradients_may_be_reduced_beside_the_backward_pass_without_another_parallelism(how, layout, same):
    def tasks(gradients):
        _, program = made(changed(BESIDE, overlap={"gradients": gradients}), dp=2, **layout)
        return [(task.rank, task.after) for task in program.tasks]

    assert tasks(how) == tasks(same)
    assert tasks("none") != tasks("backward")


@pytest.mark.parametrize("on", EVERY_WAY.values(), ids=EVERY_WAY)
def test_zero_1_scatters_gradients_and_gathers_parameters(on):
    """ZeRO, section 7: as many bytes as an all-reduce; fp32 gradients, 16-bit parameters."""
    _, program = made(on, dp=4, zero=1)
    assert sent(program, "reduce_scatter") == pytest.approx(4.0 * GPT.parameters)
    assert sent(program, "all_gather") == pytest.approx(2.0 * GPT.parameters)
    assert sent(program, "all_reduce") == 0


def test_zero_1_may_all_reduce():
    _, program = made(changed(ADDED_BEHIND, data={"zero_gradients": "all_reduce"}), dp=4, zero=1)
    assert sent(program, "all_reduce") == pytest.approx(4.0 * GPT.parameters)
    assert sent(program, "reduce_scatter") == 0


@pytest.mark.parametrize("count", [1, 4])
def test_zero_2_beside_the_backward_pass_reduces_after_every_micro_batch(count):
    _, program = made(BESIDE, dp=4, zero=2, training={"global_batch": 4 * count})
    assert sent(program, "reduce_scatter") == pytest.approx(4.0 * GPT.parameters * count)
    assert sent(program, "all_gather") == pytest.approx(2.0 * GPT.parameters)


@pytest.mark.parametrize("count", [1, 3])
def test_zero_3_gathers_twice_and_reduces_once(count):
    """ZeRO, section 7.2.2: 3 of the parameters; the unit in which forward turns to backward stays for both."""
    shard, program = made(BESIDE, model=LLAMA, dp=4, zero=3, training={"global_batch": 4 * count})
    assert sent(program, "reduce_scatter") == pytest.approx(4.0 * LLAMA.parameters * count)
    ends = LLAMA.parameters - 8 * layer_parameters(shard).total
    gathered = sent(program, "all_gather") / 2.0 / count
    # What both ends hold is shared out evenly over the first and the last unit.
    assert gathered == pytest.approx(2 * LLAMA.parameters - layer_parameters(shard).total - ends / 2)


@pytest.mark.parametrize("group", [2, 4])
def test_zero_groups_scatter_inside_and_sum_across(group):
    """Hybrid sharding: an all-reduce of what a rank keeps, 1 / group of the gradients."""
    _, program = made(ADDED_BEHIND, dp=8, zero=1, zero_group=group)
    assert sent(program, "reduce_scatter") == pytest.approx(4.0 * GPT.parameters)
    assert sent(program, "all_reduce") == pytest.approx(4.0 * GPT.parameters / group)


def test_groups_stand_as_far_apart_as_their_members():
    """8 replicas of 2 tensor-parallel ranks, shards over 4: members 2 apart, groups 8 apart."""
    shard = make_shard(on=ADDED_BEHIND, dp=8, tp=2, zero=1, zero_group=4)
    message = data.reduce_gradients(shard, Parameters(dense=1000.0))
    assert message is not None
    assert [(op.op, op.ranks, op.stride) for op in message.ops if isinstance(op, Collective)] == [
        ("reduce_scatter", 4, 2),
        ("all_reduce", 2, 8),
    ]


def test_context_parallel_ranks_share_their_gradients():
    message = data.reduce_gradients(make_shard(on=BESIDE, dp=2, cp=4), Parameters(dense=10.0))
    assert message is not None
    assert [op.ranks for op in message.ops if isinstance(op, Collective)] == [8]


def test_adapters_reduce_nothing():
    shard, program = made(ADDED_BEHIND, dp=4, training={"task": "lora"})
    assert data.reduce_gradients(shard, Parameters(dense=1e6)) is None
    assert sent(program, "all_reduce") == 0


def test_reduction_beside_the_backward_pass_waits_for_its_gradients():
    """Every bucket waits for the part of the last backward pass that it comes from, and for no more."""
    _, program = made(BESIDE, dp=4)
    reduces = [t for t in program.tasks if t.stream == "dp" and program.ops[t.op].name == "all_reduce"]
    sources = [task.after[-1] for task in reduces]
    assert len(reduces) > 2
    assert sources == sorted(set(sources))
    assert all(program.ops[program.tasks[source].op].name == "backward" for source in sources)
    assert {task.micro_batch for task in reduces} == {3}  # of 0 to 3


def test_the_optimizer_waits_for_the_last_gradient():
    for on in EVERY_WAY.values():
        _, program = made(on, dp=4)
        last = max(
            i for i, t in enumerate(program.tasks) if program.ops[t.op].name == "all_reduce" and t.stream == "dp"
        )
        names = ("gradient norm", "optimizer")
        first = next(i for i, t in enumerate(program.tasks) if program.ops[t.op].name in names)
        assert last in program.tasks[first].after


def runs(program: Program, name: str, phase: str) -> int:
    """How often blocks of that name are run, over all stages."""
    return sum(
        count
        for task in program.tasks
        if isinstance(op := program.ops[task.op], Segment)
        for block, count in op.blocks
        if (block.name, block.phase) == (name, phase)
    )


WAYS = [
    (name, layout)
    for name, layout in product(
        EVERY_WAY,
        [{"dp": 2, "zero": zero, "pp": pp, "vp": vp} for zero, pp, vp in product((0, 1, 2, 3), (1, 2, 5), (1, 2))],
    )
    if accepts(GPT, make_job(**layout).layout, make_job().training)
]


@pytest.mark.parametrize(("name", "layout"), WAYS, ids=str)
def test_units_of_layers_lose_no_work(name, layout):
    """8 micro-batches through 8 layers, an embedding and a head, however the passes are cut up."""
    _, program = made(EVERY_WAY[name], **layout)
    assert runs(program, "layer", "forward") == runs(program, "layer", "backward") == 8 * 8
    assert all(runs(program, end, phase) == 8 for end in ("embedding", "head") for phase in ("forward", "backward"))


@pytest.mark.parametrize("name", EVERY_WAY)
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_stage_without_layers_still_embeds(name, zero):
    """2 layers on 4 stages: the first has the embedding alone, the last the head."""
    _, program = made(EVERY_WAY[name], replace(GPT, layers=2), dp=2, pp=4, zero=zero)
    assert runs(program, "layer", "forward") == 2 * 8
    assert all(runs(program, end, phase) == 8 for end in ("embedding", "head") for phase in ("forward", "backward"))
