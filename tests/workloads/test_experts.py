"""Mixtures of experts: FLOPs of those that work, parameters of all, and rows that travel."""

from dataclasses import replace
from math import comb

import pytest

from hardware import catalog as hardware
from sim import profiles
from sim.catalog import stack
from sim.memory import peak_memory
from sim.price import price
from sim.step import simulate
from tests.conftest import LLAMA, SIMPLE, changed, make_job, make_shard
from workloads import transformer
from workloads.build import build
from workloads.errors import WorkloadError
from workloads.graph import Message, Program, Segment, leaf_runs
from workloads.layout import check
from workloads.model import Model, step_model_flops
from workloads.ops import Collective, Exchange, Gemm, Pointwise
from workloads.parallelism import data
from workloads.routing import Routing
from workloads.shard import Shard
from workloads.stage import layer_parameters

ROUTED = replace(LLAMA, name="small-routed", ffn=64, experts=8, topk=2)
TITAN = stack("torchtitan")
TOKENS = 64  # of a micro-batch


def shard_of(model: Model = ROUTED, **layout: object) -> Shard:
    return make_shard(model, "megatron-core", **layout)


def gemm_flops(shard: Shard) -> float:
    return sum(often * op.flops for op, often in leaf_runs(build(shard)).items() if isinstance(op, Gemm))


def exchanges(program: Program) -> list[tuple[Collective, int]]:
    runs = leaf_runs(program).items()
    return [(op, often) for op, often in runs if isinstance(op, Collective) and op.op == "all_to_all"]


def test_parameters_are_of_all_experts_and_flops_of_those_that_work():
    """A router of h e; k experts of 3 h f each."""
    expert = 3 * 64 * 64
    assert ROUTED.layer_expert_parameters == 8 * expert
    dense = replace(LLAMA, ffn=128)  # as wide as two experts
    assert ROUTED.layer_active_parameters == dense.layer_matmul_parameters + 64 * 8
    assert ROUTED.parameters == dense.parameters + ROUTED.layers * (6 * expert + 64 * 8)


@pytest.mark.parametrize("layout", [{}, {"ep": 2, "dp": 2}, {"ep": 4, "dp": 8}, {"pp": 2, "ep": 2, "dp": 2}], ids=str)
def test_the_gemms_of_a_step_are_those_of_the_model(layout):
    """On all ranks together; attention is not among them."""
    shard = shard_of(training={"global_batch": 16}, **layout)
    attention = 3.0 * 16 * 64 * ROUTED.attention_flops_per_token(64, causal=False)
    ranks = shard.layout.gpus / shard.layout.pp
    assert gemm_flops(shard) * ranks == pytest.approx(step_model_flops(ROUTED, 64, 16) - attention, rel=1e-9)


def test_rows_travel_to_their_experts_and_back_in_both_passes():
    """k rows of h in 16 bits for each token, 4 times a layer and micro-batch."""
    shard = shard_of(ep=4, dp=4, training={"global_batch": 16})
    ((op, often),) = exchanges(build(shard))
    assert (op.bytes, op.ranks, op.stride) == (TOKENS * 2 * 64 * 2, 4, 1)
    assert often == 4 * ROUTED.layers * 4


def test_one_rank_for_all_experts_sends_nothing():
    assert exchanges(build(shard_of(dp=4))) == []


def test_tensor_parallel_ranks_send_their_part_of_the_sequence_and_may_share_each_expert():
    program = build(shard_of(ep=2, etp=2, dp=2, tp=2, sequence_parallel=True))
    ((op, _),) = exchanges(program)
    assert (op.bytes, op.ranks, op.stride) == (TOKENS * 64 * 2, 2, 2)
    grouped = {
        (g.batch, g.m, g.n) for g in leaf_runs(program) if isinstance(g, Gemm) and g.grouped and g.layout == "tn"
    }
    assert grouped == {(4, TOKENS * 2 // 4, 64), (4, TOKENS * 2 // 4, 64 // 2 * 2)}


def test_experts_are_whole_unless_tensor_parallelism_is_all_there_is():
    """The usual of NVIDIA's recipes and of TorchTitan."""
    tensor = {"tp": 2, "sequence_parallel": True}
    layouts = [{"ep": 2, "dp": 2, **tensor}, {"ep": 1, "dp": 2, **tensor}, {"ep": 2, "etp": 2, "dp": 2, **tensor}]
    shards = [shard_of(**layout) for layout in layouts]
    assert [shard.layout.expert_tp for shard in shards] == [1, 2, 2]
    held = [layer_parameters(shard).experts / ROUTED.layer_expert_parameters for shard in shards]
    assert held == [1 / 2, 1 / 2, 1 / 4]
    rows = TOKENS * 2 * 64 * 2  # of all experts of a token, gathered over the ranks that split them
    gathered = [
        {op.op for op in leaf_runs(build(each)) if isinstance(op, Collective) and op.bytes == rows} for each in shards
    ]
    assert gathered == [set(), {"all_gather", "reduce_scatter"}, {"all_gather", "reduce_scatter"}]


@pytest.mark.parametrize("shared_ffn", [0, 64])
def test_a_trainer_may_gather_the_input_of_experts_and_route_every_token_on_every_rank(shared_ffn):
    """One gather and one scatter more a layer and pass; with a shared MLP its own do for both."""
    found = []
    for gathers in (False, True):
        on = changed(TITAN, gathers_routed=gathers)
        model = replace(ROUTED, shared_ffn=shared_ffn)
        shard = make_shard(model, on=on, tp=2, dp=2, ep=2, sequence_parallel=True)
        pieces = transformer.layer(shard)
        works = [work.op for piece in pieces for work in (*piece.forward, *piece.backward)]
        kinds = [op.op for op in works if isinstance(op, Collective)]
        (router,) = (piece.forward[-1].op for piece in pieces if piece.name == "router")
        found.append((kinds.count("all_gather"), kinds.count("reduce_scatter"), router.m))
    (gathers, scatters, rows), more = found
    extra = 0 if shared_ffn else 2
    assert more == (gathers + extra, scatters + extra, 2 * rows)


def test_a_rank_that_routes_every_token_sums_up_rows_for_every_token():
    """Half of them, from the other tensor-parallel rank's tokens, are zeros; what is exchanged stays the same."""
    shard = make_shard(ROUTED, on=TITAN, tp=2, dp=2, ep=2, sequence_parallel=True)
    works = [work.op for piece in transformer.layer(shard) if piece.name == "combine" for work in piece.forward]
    rows = {op.op: op.rows for op in works if isinstance(op, Pointwise)}
    assert rows == {"zero": TOKENS, "scatter_rows": TOKENS, "combine_rows_eager": 2 * TOKENS}


def test_more_expert_parallel_ranks_than_data_parallel_ones_keep_experts_whole():
    """Two replicas of two tensor-parallel parts: each sends its part of the sequence, and nothing is split."""
    shard = shard_of(ep=4, dp=2, tp=2, sequence_parallel=True)
    assert (shard.layout.expert_tp, shard.layout.expert_data_ranks) == (1, 1)
    ((op, _),) = exchanges(build(shard))
    assert (op.bytes, op.ranks, op.stride) == (TOKENS * 64 * 2, 4, 1)
    assert layer_parameters(shard).experts == ROUTED.layer_expert_parameters / 4
    flops = gemm_flops(shard) * 4 - 3 * 2 * TOKENS * 16 * 64 * 8 * ROUTED.layers  # routers of both parts
    assert flops == pytest.approx(gemm_flops(shard_of(training={"global_batch": 16})), rel=0.02)


def test_experts_are_reduced_over_the_ranks_that_hold_the_same():
    shard = shard_of(ep=4, dp=8, training={"global_batch": 8})
    message = data.reduce_gradients(shard, layer_parameters(shard))
    assert message is not None
    assert [(op.ranks, op.stride) for op in message.ops if isinstance(op, Collective)] == [(8, 1), (2, 4)]
    sizes = [op.bytes / 4 for op in message.ops]
    assert sizes == [ROUTED.layer_parameters, ROUTED.layer_expert_parameters / 4]


def test_experts_of_one_rank_alone_are_not_reduced():
    shard = shard_of(ep=8, dp=8, training={"global_batch": 8})
    message = data.reduce_gradients(shard, layer_parameters(shard))
    assert message is not None
    assert [op.ranks for op in message.ops if isinstance(op, Collective)] == [8]


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_more_ranks_for_the_experts_hold_less_each(zero):
    """But where ZeRO shards everything over all ranks anyway."""
    sizes = [
        sum(
            getattr(peak_memory(shard_of(ep=ep, dp=8, zero=zero, training={"global_batch": 8}), 80e9), part)
            for part in ("weights", "gradients", "optimizer")
        )
        for ep in (1, 2, 8)
    ]
    if zero == 3:
        assert sizes == pytest.approx([sizes[0]] * 3)
    else:
        assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_a_dense_model_with_one_expert_does_the_same_products(recompute):
    one = replace(LLAMA, experts=1, topk=1)
    router = 3 * 2 * TOKENS * 64 * LLAMA.layers * 16 * (1 if recompute != "full" else 4 / 3)
    flops = [gemm_flops(make_shard(model, "torchtitan", training={"recompute": recompute})) for model in (one, LLAMA)]
    assert flops[0] == pytest.approx(flops[1] + router, rel=1e-9)


def test_recomputation_by_op_runs_experts_again():
    """Its list of what is kept names the products of linear layers, not those in groups."""
    none, by_op = (
        gemm_flops(make_shard(ROUTED, "torchtitan", training={"recompute": mode})) for mode in ("none", "selective-op")
    )
    experts = 16 * TOKENS * 2 * 2 * 3 * 64 * 64 * ROUTED.layers
    assert by_op - none > experts


def test_the_step_has_its_exchange_as_a_part_and_the_parts_add_up():
    result = simulate(make_job(ROUTED, "megatron-core", ep=4, dp=4), SIMPLE)
    assert result.breakdown["exposed ep"] > 0
    assert sum(result.breakdown.values()) == pytest.approx(result.step_s, rel=1e-9)
    assert "exposed ep" not in simulate(make_job(ROUTED, "megatron-core", dp=4), SIMPLE).breakdown


def test_a_host_that_reads_counts_is_not_ahead():
    on = {how: changed(TITAN, host={"reads_counts": how}) for how in (True, False)}
    slow = {how: simulate(make_job(ROUTED, on=found, ep=2, dp=2, zero=3), SIMPLE).step_s for how, found in on.items()}
    assert slow[True] >= slow[False]


def test_all_experts_of_a_pass_are_in_groups():
    found = [
        work.op
        for segment in build(shard_of(ep=2, dp=2)).ops
        if isinstance(segment, Segment)
        for block, _ in segment.blocks
        for work in block.work
        if isinstance(work.op, Gemm) and work.op.grouped
    ]
    assert {op.batch for op in found} == {4}
    assert {op.layout for op in found} == {"tn", "nn", "nt"}


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        ({"ep": 3, "dp": 3}, "experts = 8 is not divisible by layout.ep = 3"),
        ({"ep": 4, "dp": 2}, "layout.ep = 4 does not divide dp x cp x tp = 2"),
        (
            {"ep": 2, "etp": 2, "dp": 1, "tp": 2, "sequence_parallel": True},
            "layout.ep = 2 times etp = 2 does not divide",
        ),
        ({"etp": 2, "dp": 2}, "layout.etp = 2: 0 \\(the usual\\), or a divisor of tp = 1"),
        ({"tp": 2}, "layout.sequence_parallel is needed for experts"),
    ],
)
def test_what_does_not_go_together_is_said(layout, fault):
    job = make_job(ROUTED, **layout)
    with pytest.raises(WorkloadError, match=fault.replace(".", r"\.")):
        check(ROUTED, job.layout, replace(job.training, global_batch=12))


@pytest.mark.parametrize(
    ("sizes", "layout", "fault"),
    [
        ({"shared_ffn": 66}, {"ep": 2}, "shared_ffn = 66 is not divisible by layout.tp = 4"),
        ({"dense_layers": 1, "dense_ffn": 258}, {"ep": 2}, "dense_ffn = 258 is not divisible by layout.tp = 4"),
        ({"ffn": 66}, {}, "ffn = 66 is not divisible by layout.tp = 4"),
        ({"ffn": 66}, {"ep": 2, "etp": 4}, "ffn = 66 is not divisible by layout.etp = 4"),
        ({"ffn": 66}, {"ep": 2}, None),
    ],
    ids=str,
)
def test_columns_are_divisible_by_the_ranks_that_split_them(sizes, layout, fault):
    """Those of an expert that stays whole need not be."""
    model = replace(ROUTED, **sizes)
    job = make_job(model, dp=2, tp=4, sequence_parallel=True, **layout)
    if fault is None:
        check(model, job.layout, job.training)
        return
    with pytest.raises(WorkloadError, match=fault):
        check(model, job.layout, job.training)


def test_messages_of_experts_are_part_of_those_of_all():
    program = build(shard_of(ep=2, dp=4, zero=1))
    ranks = {op.ranks for m in program.ops if isinstance(m, Message) for op in m.ops if isinstance(op, Collective)}
    assert {2, 4} <= ranks


def test_how_many_parts_of_the_experts_a_token_reaches_worked_by_hand():
    # 2 of 4 experts in 2 parts: both in one part in 2 of 6 ways, 5/3 parts in the mean.
    assert Routing(4, 2).hit(2) == pytest.approx(5 / 3)
    # The same in 2 groups of which one is allowed: always one half of the experts, and both of its two.
    assert Routing(4, 2, groups=2, allowed=1).hit(2) == pytest.approx(1.0)
    assert Routing(4, 2, groups=2, allowed=1).hit(4) == pytest.approx(2.0)
    # 8 of 256 on 8 nodes: 8 (1 - C(224, 8) / C(256, 8)).
    assert Routing(256, 8).hit(8) == pytest.approx(8 * (1 - comb(224, 8) / comb(256, 8)))


@pytest.mark.parametrize("routing", [Routing(64, 6), Routing(256, 8), Routing(256, 8, 8, 4), Routing(160, 6, 8, 3)])
def test_a_token_reaches_no_more_parts_than_it_has_experts_or_groups_allow_and_more_of_smaller_ones(routing: Routing):
    found = [routing.hit(parts) for parts in (1, 2, 4, 8, 16, 32)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(1.0)
    assert all(hit <= min(parts, routing.picked) + 1e-9 for hit, parts in zip(found, (1, 2, 4, 8, 16, 32), strict=True))
    assert routing.groups == 1 or found[3] <= routing.allowed
    assert routing.hit(routing.experts) == pytest.approx(routing.picked)


def test_rows_that_are_sent_once_are_expanded_and_summed_up_where_the_experts_are():
    """No rows by index before the exchange, none after it; bytes count each row once."""
    shard = shard_of(ep=4, dp=4, expert_mode="deduplicated")
    pieces = {piece.name: piece for piece in transformer.layer(shard)}
    for name in ("dispatch", "combine"):
        (work,) = pieces[name].forward
        assert work.op == Exchange(bytes=TOKENS * 64 * 2, ranks=4, routing=Routing(8, 2))
    assert [work.op.op for work in pieces["restore"].forward if isinstance(work.op, Pointwise)] == ["unpermute_te"]


def test_sending_rows_once_over_nodes_takes_less_time():
    model, machine = replace(ROUTED, experts=16, topk=8), hardware.cluster("dgx-h100", 2)
    spread = {"training": {"global_batch": 16}, "machine": machine, "dp": 16, "ep": 16}
    modes = ("all_to_all", "deduplicated")
    jobs = [make_job(model, "megatron-core", expert_mode=mode, **spread) for mode in modes]
    plain, once = (simulate(job).exposed_s["ep"] for job in jobs)
    assert once < plain


def test_without_expert_parallelism_the_mode_changes_nothing():
    once, plain = (leaf_runs(build(shard_of(dp=4, expert_mode=mode))) for mode in ("deduplicated", "all_to_all"))
    assert once == plain


def test_a_router_in_fp32_casts_its_input_in_both_passes():
    """Megatron-Core's recipes; the gradient is cast back. TorchTitan multiplies in the type of the activations."""
    pieces = {piece.name: piece for piece in transformer.layer(shard_of())}
    router = pieces["router"]
    assert [getattr(work.op, "op", "gemm") for work in router.forward] == ["cast", "gemm"]
    assert [getattr(work.op, "op", "gemm") for work in router.backward] == ["gemm", "cast", "cast", "gemm"]
    assert {work.op.dtype for work in router.forward if isinstance(work.op, Gemm)} == {"fp32"}
    plain = {piece.name: piece for piece in transformer.layer(make_shard(ROUTED, "torchtitan"))}["router"]
    assert [work.op.dtype for work in plain.forward if isinstance(work.op, Gemm)] == ["bf16"]
    assert len(plain.backward) == 2


def test_indices_are_found_in_the_forward_pass_alone():
    pieces = {piece.name: piece for piece in transformer.layer(shard_of())}
    kernels = [[work.op.op for work in way] for way in (pieces["arrange"].forward, pieces["arrange"].backward)]
    assert kernels == [["chunk_map_te", "sort_te"], ["sort_te"]]
    assert not pieces["route"].backward


def test_experts_that_run_by_themselves_take_as_long_as_one_after_the_other():
    """Four experts of 32 rows; a kernel over all groups is another matter."""
    machine, model = hardware.cluster("dgx-h100", 1), profiles.cost_model(hardware.device("h100-sxm"))
    together = Gemm(m=32, n=512, k=512, dtype="bf16", batch=4, grouped=True)
    apart, one = replace(together, streams=True), replace(together, batch=1, grouped=False)
    prices = price([together, apart, one], machine, model)
    assert prices[apart].seconds == pytest.approx(4 * prices[one].seconds)
    assert prices[together].seconds < 0.5 * prices[apart].seconds
    assert {op.streams for op in leaf_runs(build(shard_of())) if isinstance(op, Gemm) and op.grouped} == {True}
    titan = build(make_shard(ROUTED, "torchtitan"))
    assert {op.streams for op in leaf_runs(titan) if isinstance(op, Gemm) and op.grouped} == {False}
