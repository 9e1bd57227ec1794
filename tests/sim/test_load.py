"""The clock of a step: worked by hand, and what many GPUs that wait for each other make of it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.cost import power
from calibration.cost.physics import Physics
from calibration.table import read_table
from hardware import catalog
from sim.catalog import model
from sim.jobfile import read_job
from sim.load import slowed
from sim.price import Price
from sim.step import simulate
from tests.conftest import cluster, make_job
from workloads.build import build
from workloads.errors import WorkloadError
from workloads.graph import leaf_ops
from workloads.ops import Collective, Gemm

H200 = catalog.device("h200-sxm")
BETWEEN = Path(__file__).parents[2] / "calibration/profiles/h200-sxm/torch-2.11-cu130/between.csv"
EXAMPLE = Path(__file__).parents[2] / "examples" / "llama-3.1-8b-fsdp.toml"
LONG = {"seq_len": 2048, "micro_batch": 8, "global_batch": 64, "precision": "bf16"}
HOT, COOL = np.array(1.44), np.array(0.5)


def test_the_slowest_of_eight_worked_by_hand():
    """The largest of 8 standard normal numbers is 1.43 in the mean (Blom: the quantile of 7.625 / 8.25)."""
    slower = float(power.clock(HOT, H200, 8) / power.clock(HOT, H200))
    assert slower == pytest.approx(1 - 0.013 * 1.434, abs=1e-4)


def test_the_slowest_of_more_is_slower():
    clocks = [float(power.clock(HOT, H200, gpus)) for gpus in (1, 2, 8, 64, 1024)]
    assert clocks == sorted(clocks, reverse=True)
    assert len(set(clocks)) == 5
    assert clocks[-1] > 0.95 * clocks[0]


def test_nobody_is_slow_below_the_power_limit():
    assert float(power.clock(COOL, H200, 1024)) == 1.0


def test_replicas_slow_each_other_down():
    """The same work for each of 8 times as many GPUs at their power limit."""
    settings = [(f"cluster.nodes={nodes}", f"training.global_batch={16 * nodes}") for nodes in (1, 8)]
    one, eight = (simulate(read_job(EXAMPLE, each)).load.clock for each in settings)
    assert eight < one < 1.0


def test_messages_among_kernels_lose_a_share_of_what_gemms_lose_by_hand():
    """At 0.8 of the clock a GEMM that hangs on it takes 1.25 times as long, a message 1 + 0.57 * 0.25."""
    job = make_job(tp=2, dp=2)
    program = build(job.shard())
    prices = {op: Price(seconds=1.0, spread=0.1) for op in leaf_ops(program)}
    at = slowed(prices, program, job.cluster, 0.8)
    collectives = {op: at[op].seconds for op in prices if isinstance(op, Collective)}
    among = {op: seconds for op, seconds in collectives.items() if op.ranks == 2 and op.stride == 1}
    assert list(among.values()) == pytest.approx([1.1425] * len(among))
    assert among
    gradients = set(collectives) - set(among)  # summed when the kernels have ended, with this stack
    assert gradients
    assert {collectives[op] for op in gradients} == {1.0}
    assert {paid.spread for paid in at.values()} == {0.1}


def test_messages_over_the_network_keep_their_time():
    job = make_job(tp=4, machine=replace(make_job().cluster, nodes=4, gpus_per_node=1, domain_gpus=1))
    program = build(job.shard())
    prices = {op: Price(seconds=1.0, spread=0.0) for op in leaf_ops(program)}
    at = slowed(prices, program, job.cluster, 0.8)
    assert {at[op].seconds for op in prices if isinstance(op, Collective)} == {1.0}


def test_the_share_of_the_clock_is_the_slope_of_what_was_measured():
    gemms, messages = np.array([lost(row.notes or "", row.time_s or 0.0) for row in read_table(BETWEEN)]).T
    assert len(gemms) == 68
    assert catalog.fabric("nvlink-switch").clock_share == pytest.approx(gemms @ messages / (gemms @ gemms), abs=0.005)


def lost(notes: str, message_s: float) -> tuple[float, float]:
    """How much longer than alone a GEMM and a message took, by the notes of the family `between`."""
    found = re.fullmatch(r"alone: gemm (\S+) s, \w+ (\S+) s; gemm between (\S+) s; waited \S+ s", notes)
    assert found
    gemm_s, alone_s, between_s = map(float, found.groups())
    return between_s / gemm_s - 1.0, message_s / alone_s - 1.0


def test_gemms_of_an_earlier_library_are_slower_and_draw_less():
    """cuBLAS 12.1 on an H200: 1.10 times as long in bursts and 1.05 times under load, where 13.0 loses more clock."""
    job = make_job(model("llama-2-7b"), "llm-foundry", machine=catalog.cluster("hgx-h200", 1), training=LONG, dp=8)
    today, then = (replace(job, stack=replace(job.stack, library=release)) for release in ("", "cublas-12.1"))
    gemm = Gemm(m=16384, n=8192, k=8192, dtype="bf16", out_dtype="bf16")
    burst = [float(Physics().price([gemm], job.machine.device).seconds[0]) for job in (today, then)]
    assert burst[1] / burst[0] == pytest.approx(1.1, abs=0.02)
    steps = [simulate(job, Physics()) for job in (today, then)]
    assert steps[0].load.clock < steps[1].load.clock < 1.0
    assert steps[1].step_s / steps[0].step_s == pytest.approx(1.05, abs=0.02)
    assert replace(then, cluster=cluster(8)).machine == cluster(8)  # of an A100, where nothing is known of it


def test_a_library_that_is_not_told_apart_is_refused():
    job = make_job(model("llama-2-7b"), "llm-foundry", machine=catalog.cluster("hgx-h200", 1), training=LONG, dp=8)
    with pytest.raises(WorkloadError, match=r"no library of hopper 'cublas-9'.* known: cublas-11.11, cublas-12.1"):
        replace(job, stack=replace(job.stack, library="cublas-9")).shard()
