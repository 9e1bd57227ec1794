"""Whole steps: priced by hand, and laws of what makes a step faster."""

from dataclasses import replace
from typing import Any

import pytest

import sim.contention
from calibration.cost.physics import Physics
from hardware import catalog
from hardware.types import Cluster, Device
from sim.catalog import stack
from sim.contention import channels_rate, compute_rate
from sim.job import Job
from sim.step import simulate
from tests.conftest import GPT, LLAMA, SIMPLE, Priced, changed, cluster, make_job
from workloads.errors import WorkloadError
from workloads.graph import blocks, leaf_ops
from workloads.layout import Layout, Training
from workloads.ops import Gemm, Transfer
from workloads.stack import Host

QUIET = Host(launch_s={"eager": 0.0, "compile": 0.0}, message_s={"eager": 0.0, "compile": 0.0})
PLAIN = changed(
    stack("megatron-lm-2022"),
    host={"launch_s": {"eager": 0.0}, "message_s": {"eager": 0.0}, "step_s": 0.0},
    overlap={"tensor": False, "tensor_backward": False, "gradients": "none", "parameters": False, "pipeline": "none"},
)
ONE_MS_A_GEMM = Priced(lambda op: 1e-3 if isinstance(op, Gemm) else 0.0)

JOBS: dict[str, dict[str, Any]] = {
    "one gpu": {},
    "data": {"dp": 16},
    "tensor": {"tp": 4, "dp": 4},
    "pipeline": {"pp": 4, "dp": 4},
    "interleaved": {"pp": 2, "vp": 2, "dp": 2, "zero": 1},
    "context": {"cp": 4, "dp": 2},
    "sharded": {"dp": 16, "zero": 3},
    "all": {"dp": 2, "tp": 2, "pp": 2, "cp": 2, "zero": 1, "sequence_parallel": True},
}
STACKS = ("megatron-core", "torchtitan")
every_job = pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name in STACKS for layout in JOBS.values()], ids=str
)


def quiet_job(name: str, layout: dict[str, Any]) -> Job:
    """With a host that costs nothing, so that nothing hides behind its launches."""
    return make_job(LLAMA, on=replace(stack(name), host=QUIET), **layout)


def step_s(job: Job) -> float:
    return simulate(job, SIMPLE).step_s


def test_one_gpu_worked_by_hand():
    """GEMMs alone cost, 1 ms each: 6 forward and 12 backward a layer, 1 and 2 for the head, 16 micro-batches."""
    result = simulate(make_job(on=PLAIN), ONE_MS_A_GEMM)
    assert result.step_s == pytest.approx(16 * (8 * 18 + 3) * 1e-3)
    assert result.breakdown["forward"] == pytest.approx(16 * (8 * 6 + 1) * 1e-3)


def free_network(gpus: int) -> Cluster:
    """Messages in no time worth mentioning."""
    found = cluster(gpus)
    up = replace(found.scale_up, latency_s=1e-15, pipeline_bytes=1e-9, start_s={"other": 1e-15, "ampere": 1e-15})
    return replace(
        found, scale_up=up, scale_out=replace(up, name="free"), scale_up_bytes_per_s=1e20, scale_out_bytes_per_s=1e20
    )


def test_a_pipeline_worked_by_hand():
    """4 stages of 2 layers, no head counted: (m + p - 1) (f + b) and the head's 3 ms for each of 16 on the last."""
    result = simulate(make_job(on=PLAIN, pp=4, machine=free_network(4)), ONE_MS_A_GEMM)
    stage = 2 * 18e-3
    # The last stage is the slowest, and is busy from the first forward pass that reaches it to its last backward.
    by_hand = 3 * 2 * 6e-3 + 16 * (stage + 3e-3) + 3 * 2 * 12e-3
    assert result.step_s == pytest.approx(by_hand, rel=1e-2)
    assert result.step_s >= by_hand


def test_user_buffers_leave_computation_all_but_their_channels():
    """16 of 108 SMs of an A100; never more than half."""
    jobs = [make_job(on=changed(PLAIN, data={"channels": channels})) for channels in (16, 100)]
    assert [channels_rate(job) for job in jobs] == [1 - 16 / 108, 0.5]


def test_a_collective_costs_the_computation_beside_it_three_fifths_of_its_own_time():
    """Worked by hand: a message of 1 s takes 1 / 0.67 = 1.49 s, in which 1.49 x (1 - 0.591) = 0.61 s are lost."""
    rate = compute_rate(make_job(on=PLAIN))
    assert rate == pytest.approx(0.5913)
    assert (1 - rate) / 0.67 == pytest.approx(0.61)
    assert rate < channels_rate(make_job(on=PLAIN))


def test_every_op_has_one_price_and_every_block_one_time():
    result = simulate(make_job(LLAMA, "megatron-core", tp=2, pp=2, dp=2), SIMPLE)
    assert set(result.prices) == set(leaf_ops(result.program))
    assert set(result.times) == {id(block) for block in blocks(result.program)}


def test_too_many_gpus_are_refused():
    with pytest.raises(WorkloadError, match="needs 16 GPUs, dgx-a100-80g x 1 has 8"):
        simulate(make_job(dp=16, machine=cluster(8)), SIMPLE)


def test_an_inconsistent_job_is_refused():
    with pytest.raises(WorkloadError, match="heads = 8 is not divisible"):
        simulate(make_job(tp=3), SIMPLE)


def test_each_execution_has_its_own_kernels():
    eager, compiled = (
        simulate(replace(make_job(LLAMA, "torchtitan"), execution=name), SIMPLE) for name in ("eager", "compile")
    )
    assert compiled.step_s < eager.step_s


def test_attention_may_be_chosen():
    flash, unfused = (
        {type(op).__name__ for op in simulate(replace(make_job(), attention=name), SIMPLE).prices}
        for name in ("flash", "unfused")
    )
    assert "Attention" in flash
    assert "Attention" not in unfused


@every_job
def test_more_bandwidth_is_never_slower(name, layout):
    job = quiet_job(name, layout)
    fast = replace(
        job.cluster,
        scale_up_bytes_per_s=2 * job.cluster.scale_up_bytes_per_s,
        scale_out_bytes_per_s=2 * job.cluster.scale_out_bytes_per_s,
    )
    assert step_s(replace(job, cluster=fast)) <= step_s(job) * (1 + 1e-12)


@every_job
def test_lower_latency_is_never_slower(name, layout):
    job = quiet_job(name, layout)
    up, out = job.cluster.scale_up, job.cluster.scale_out
    fast = replace(
        job.cluster,
        scale_up=replace(up, latency_s=up.latency_s / 2),
        scale_out=replace(out, latency_s=out.latency_s / 2),
    )
    assert step_s(replace(job, cluster=fast)) <= step_s(job) * (1 + 1e-12)


@every_job
def test_faster_kernels_are_never_slower(name, layout):
    job = quiet_job(name, layout)
    faster = Priced(lambda op: SIMPLE.seconds(op) / 2)
    assert simulate(job, faster).step_s <= step_s(job) * (1 + 1e-12)


@every_job
def test_a_faster_host_is_never_slower(name, layout):
    job = make_job(LLAMA, name, **layout)
    assert step_s(replace(job, stack=replace(job.stack, host=QUIET))) <= step_s(job) * (1 + 1e-12)


@every_job
@pytest.mark.parametrize(
    "rates", [{"tensor_flops_per_s": 2.0}, {"vector_flops_per_s": 2.0}, {"memory_bytes_per_s": 2.0}], ids=str
)
def test_a_faster_device_is_never_slower(name, layout, rates):
    """By data sheets: a profile corrects the device that was measured, at no other rates.

    At its power limit a GPU that computes faster rests less, so that its messages may be slower by some tenths of a
    per cent.
    """
    job = quiet_job(name, layout)
    for device, more in ((cool(job.cluster.device), 1e-9), (job.cluster.device, 0.01)):
        given, faster = (on(job, made) for made in (device, quicker(device, rates)))
        assert simulate(faster, Physics()).step_s <= simulate(given, Physics()).step_s * (1 + more)


def cool(device: Device) -> Device:
    """One that never gets to its power limit."""
    return replace(device, power_limit_w=100 * device.power_limit_w)


def on(job: Job, device: Device) -> Job:
    """The same on other GPUs."""
    return replace(job, cluster=replace(job.cluster, device=device))


def quicker(device: Device, rates: dict[str, float]) -> Device:
    """Twice as fast at one thing."""
    if "memory_bytes_per_s" in rates:
        return replace(device, memory_bytes_per_s=2 * device.memory_bytes_per_s)
    key = next(iter(rates))
    return replace(device, **{key: {dtype: 2 * rate for dtype, rate in getattr(device, key).items()}})


@pytest.mark.parametrize("layout", [{}, {"dp": 2}, {"tp": 2}, {"pp": 2}], ids=str)
def test_more_micro_batches_take_longer_but_no_more_than_their_share(layout):
    """The end of a step and the bubble are shared."""
    eight, sixteen = (
        step_s(make_job(LLAMA, on=PLAIN, training={"global_batch": batch}, **layout)) for batch in (8, 16)
    )
    assert eight < sixteen <= 2 * eight


@pytest.mark.parametrize("layout", [{"dp": 2}, {"dp": 4}, {"dp": 8}], ids=str)
def test_replicas_beat_neither_an_equal_share_nor_lose_against_one(layout):
    """With the batch fixed and long steps: n replicas take between 1 / n and all of the time of one."""
    long = Priced(lambda op: 100 * SIMPLE.seconds(op))
    one, many = (simulate(make_job(LLAMA, on=PLAIN, **degrees), long) for degrees in ({}, layout))
    micro = one.step_s - one.breakdown["optimizer"]
    assert micro / layout["dp"] <= many.step_s <= one.step_s


@pytest.mark.parametrize(
    "overlap",
    [{"pipeline": "beside"}, {"tensor_backward": True}, {"gradients": "backward"}],
    ids=str,
)
def test_overlap_is_never_slower_where_it_disturbs_nobody(overlap, monkeypatch):
    """With collectives that share nothing with computation, and a free host."""
    monkeypatch.setattr(sim.contention, "CONTENTION", 0.0)
    monkeypatch.setattr(sim.contention, "MESSAGE_RATE", 1.0)
    on = changed(PLAIN, data={"bucket_bytes": 1e12})
    layout: dict[str, Any] = {"tp": 2, "pp": 2, "dp": 2, "sequence_parallel": True}
    beside = changed(on, overlap=overlap)
    assert step_s(make_job(LLAMA, on=beside, **layout)) <= step_s(make_job(LLAMA, on=on, **layout)) * 1.02


@pytest.mark.parametrize("mode", ["selective-op", "full:4", "full"])
def test_recomputation_takes_time(mode):
    none, again = (step_s(make_job(GPT, training={"recompute": recompute})) for recompute in ("none", mode))
    assert again > none


@every_job
def test_layers_alone_are_never_slower_than_the_step_they_are_of(name, layout):
    whole, alone = (step_s(make_job(LLAMA, name, training={"task": task}, **layout)) for task in ("pretrain", "layers"))
    assert 0.0 < alone < whole


def test_one_layer_worked_by_hand():
    """At a millisecond a GEMM: four of linear layers and two of unfused attention, and twice as many backward."""
    one = replace(GPT, layers=1)
    job = make_job(one, on=PLAIN, training={"task": "layers", "global_batch": 1, "micro_batch": 1})
    assert simulate(job, ONE_MS_A_GEMM).step_s == pytest.approx((4 + 2 + 8 + 4) * 1e-3)


def test_no_step_beats_its_own_flops():
    """The roofline of the made-up device: 100 TFLOP/s."""
    job = make_job(LLAMA, on=PLAIN, dp=2)
    result = simulate(job, SIMPLE)
    assert result.step_s >= result.model_flops / (2 * 1e14)


def test_a_message_to_oneself_is_never_sent():
    result = simulate(make_job(LLAMA, on=PLAIN), SIMPLE)
    assert not any(isinstance(op, Transfer) for op in result.prices)
    assert result.exposed_s == {}


def test_the_cost_model_is_asked_once():
    """All ops at once: a model may price them in one vectorised call."""
    calls = []

    class Counting(Priced):
        def price(self, ops, device):
            calls.append(len(ops))
            return super().price(ops, device)

    result = simulate(make_job(LLAMA, "megatron-core", tp=2, pp=2, dp=2), Counting(SIMPLE.seconds))
    assert len(calls) == 1
    assert calls[0] <= len(result.prices)


@pytest.mark.parametrize("name", ["megatron-lm-2022", "torchtitan"])
def test_blocking_launches_take_longer(name):
    on = stack(name)
    blocking = changed(on, host={"blocking": True})
    assert step_s(make_job(LLAMA, on=blocking, dp=2)) >= step_s(make_job(LLAMA, on=replace(on, host=QUIET), dp=2))


@pytest.mark.parametrize("name", catalog.clusters())
def test_a_stack_runs_on_every_machine_that_has_its_data_type(name: str):
    """Also where the vendor has another attention kernel than the stack names, and at a lowered clock."""
    machine = catalog.cluster(name, 1)
    dtype = "bf16" if "bf16" in machine.device.tensor_flops_per_s else "fp16"
    job = Job(
        model=replace(GPT, hidden=4096, heads=32, kv_heads=32, head_dim=128, ffn=16384),
        cluster=machine,
        training=Training(seq_len=2048, global_batch=machine.gpus, precision=dtype),
        layout=Layout(dp=machine.gpus, zero=3 if machine.gpus > 1 else 0),
        stack=stack("torchtitan"),
    )
    result = simulate(job)
    assert 0.0 < result.load.clock <= 1.0
    assert 0.0 < result.power_w <= machine.device.power_limit_w


def test_a_host_that_waits_for_messages_between_stages_launches_late_behind_each():
    """Two stages: the first and the last micro-batch wait for two messages each that nothing hides."""
    waiting = stack("megatron-lm-2022")
    ready = changed(waiting, host={"between_s": 0.0})
    late, early = (simulate(make_job(on=on, pp=2, training={"global_batch": 4}), SIMPLE) for on in (waiting, ready))
    more_s = late.step_s - early.step_s
    assert 2 * waiting.host.between_s <= more_s <= 8 * waiting.host.between_s
