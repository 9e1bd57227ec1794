"""How long a simulation takes, and how it grows. Run by `make bench`; apart from the tests, as timings are noisy.

Goals on two cores: GPT-3 175B on 1,024 GPUs in 0.1 s, the 1T model on 3,072 GPUs (64 stages, 512 micro-batches)
in 1 s, both in process after imports; the whole command for the former in 1 s. Half a second for 16 stages of 8 chunks.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from hardware.catalog import cluster
from sim.catalog import stack
from sim.job import Job
from sim.step import simulate
from workloads.catalog import model
from workloads.layout import Layout, Training

ROOT = Path(__file__).parent.parent


def job(name: str, layout: Layout, global_batch: int) -> Job:
    return Job(
        model=model(name),
        cluster=cluster("dgx-a100-80g", layout.gpus // 8),
        training=Training(seq_len=2048, global_batch=global_batch, precision="fp16", recompute="full"),
        layout=layout,
        stack=stack("megatron-lm-2021"),
    )


def answer(what: Job) -> object:
    """Everything that `steptime run` prints."""
    result = simulate(what)
    return result.step_s, result.mfu, result.breakdown, result.critical_path, result.interval_s, result.memory


def test_gpt_3_175b_on_1024_gpus(benchmark: BenchmarkFixture) -> None:
    benchmark(answer, job("gpt-3-175b", Layout(dp=8, tp=8, pp=16), 1536))


def test_1t_on_3072_gpus(benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(answer, [job("megatron-1t", Layout(dp=6, tp=8, pp=64), 3072)], rounds=5)


def test_interleaved_1t_of_200_000_tasks(benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(answer, [job("megatron-1t", Layout(dp=1, tp=8, pp=16, vp=8), 384)], rounds=5)


@pytest.mark.parametrize("stages", [4, 8, 16, 32])
def test_growth_with_stages(benchmark: BenchmarkFixture, stages: int) -> None:
    benchmark.pedantic(answer, [job("gpt-3-175b", Layout(dp=1, tp=8, pp=stages), 128)], rounds=5)


@pytest.mark.parametrize("micro_batches", [64, 128, 256, 512])
def test_growth_with_micro_batches(benchmark: BenchmarkFixture, micro_batches: int) -> None:
    benchmark.pedantic(answer, [job("gpt-3-175b", Layout(dp=1, tp=8, pp=16), micro_batches)], rounds=5)


def test_whole_command(benchmark: BenchmarkFixture) -> None:
    command = [Path(sys.executable).parent / "steptime", "run", ROOT / "examples" / "gpt-3-175b.toml"]
    benchmark.pedantic(subprocess.run, [command], {"check": True, "capture_output": True}, rounds=5)
