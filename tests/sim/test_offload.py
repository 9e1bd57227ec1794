"""Steps that offload activations: how long copies take, what of them is exposed, and who cannot."""

from dataclasses import replace
from typing import Any

import pytest

from hardware import catalog as hardware
from sim.catalog import stack
from sim.host_link import PCIE_DATA_SHARE, copy_prices, host_bytes_per_s
from sim.job import Job
from sim.memory import peak_memory
from sim.report.hints import hints
from sim.result import Result
from sim.step import simulate
from tests.conftest import LLAMA, SIMPLE, changed, make_job
from workloads.errors import WorkloadError
from workloads.ops import HostCopy
from workloads.stage import Blocks, layer_kept_bytes

# No launches: kernels alone decide, and passes cut into layers are as long as whole ones.
CORE = changed(stack("megatron-core"), host={"launch_s": {"eager": 0.0}, "message_s": {"eager": 0.0}})
LAYER_BYTES = layer_kept_bytes(Blocks(shard=make_job(LLAMA, on=CORE).shard()), recomputed=False)
LAYOUTS: list[dict[str, Any]] = [{}, {"dp": 2, "zero": 3}, {"tp": 2, "sequence_parallel": True}]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def job(recompute: str, host_bytes_per_s: float | None = None, **layout: Any) -> Job:
    found = make_job(LLAMA, on=CORE, training={"recompute": recompute}, **layout)
    device = replace(found.cluster.device, host_bytes_per_s=host_bytes_per_s)
    return replace(found, cluster=replace(found.cluster, device=device))


def result(recompute: str, host_bytes_per_s: float | None = None, **layout: Any) -> Result:
    return simulate(job(recompute, host_bytes_per_s, **layout), SIMPLE)


def test_a_copy_over_pcie_goes_at_the_rate_of_the_link_less_the_headers():
    """Gen 5 x16: 63 GB/s, packets of 256 bytes with 24 around them: 57.6 GB/s; 1 GB in 17.4 ms."""
    device = hardware.device("h100-sxm")
    assert host_bytes_per_s(device) == pytest.approx(57.6e9)
    assert copy_prices([HostCopy(bytes=1e9)], device).seconds[0] == pytest.approx(0.01736, rel=1e-3)
    assert pytest.approx(0.914, abs=1e-3) == PCIE_DATA_SHARE


@pytest.mark.parametrize("name", ["gb200", "gb300"])
def test_two_gpus_share_the_link_to_a_grace(name):
    """900 GB/s, both directions: 450 GB/s each, for two GPUs."""
    assert host_bytes_per_s(hardware.device(name)) == 900e9 / 2 / 2


@pytest.mark.parametrize("name", hardware.devices())
def test_no_host_link_is_faster_than_the_memory_of_the_device(name):
    device = hardware.device(name)
    assert 1e10 < host_bytes_per_s(device) < device.memory_bytes_per_s


@every_layout
@pytest.mark.parametrize("away", [1, 4, 7])
def test_over_an_endless_link_the_step_is_as_long_as_without(layout, away):
    offloaded, kept = result(f"offload:{away}", 1e30, **layout), result("none", **layout)
    assert offloaded.step_s == pytest.approx(kept.step_s, rel=1e-6)
    assert "exposed offload" not in offloaded.breakdown


@every_layout
@pytest.mark.parametrize("rate", [1e8, 1e9, 1e10, 1e11])
def test_the_parts_add_up_whatever_the_link(layout, rate):
    found = result("offload:5", rate, **layout)
    assert sum(found.breakdown.values()) == pytest.approx(found.step_s, rel=1e-9)


@every_layout
def test_a_slower_link_exposes_more(layout):
    exposed = [result("offload:5", rate, **layout).exposed_s.get("offload", 0.0) for rate in (1e30, 1e10, 1e9, 1e8)]
    assert exposed == sorted(exposed)
    assert exposed[0] == 0.0 < exposed[-1]


def test_over_a_slow_link_the_copies_are_the_step():
    """Worked by hand: copies of 1 s, 3 of 8 layers, 16 micro-batches.

    Forward, layers 5, 6 and 7 wait for one copy each, which microseconds of computation do not hide;
    backward, layers 2, 1 and 0 do. So 6 s a micro-batch are exposed.
    """
    found = result("offload:3", LAYER_BYTES)
    assert 0.0 < found.step_s - 16 * 6.0 < result("none").step_s
    assert found.breakdown["exposed offload"] == pytest.approx(96.0, rel=1e-3)


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_more_offloaded_layers_never_need_more_memory(zero):
    jobs = [job("none", dp=2, zero=zero), *(job(f"offload:{away}", dp=2, zero=zero) for away in range(1, 8))]
    peaks = [peak_memory(each.shard(), 1e12).allocated for each in jobs]
    assert peaks == sorted(peaks, reverse=True)


def test_offloading_spares_the_device_what_the_layers_keep():
    none, some = (peak_memory(job(words).shard(), 1e12) for words in ("none", "offload:5"))
    assert none.activations - some.activations == pytest.approx(5 * LAYER_BYTES)
    assert none.temporaries == some.temporaries


def test_nothing_is_run_again():
    assert "recompute" not in result("offload:5").breakdown


def test_what_the_stack_does_not_do_is_refused():
    with pytest.raises(WorkloadError, match="'offload:2': torchtitan does not offload layers"):
        make_job(LLAMA, "torchtitan", training={"recompute": "offload:2"}).shard()


def test_a_device_without_a_known_link_is_refused():
    found = job("offload:2")
    device = replace(found.cluster.device, links={"nvlink-switch": 300e9})
    with pytest.raises(WorkloadError, match="no link of a100-sxm-80g to its host is known"):
        replace(found, cluster=replace(found.cluster, device=device)).shard()


def test_the_report_says_what_to_do_about_copies_that_nothing_hides():
    assert any("fewer offloaded layers (now 7)" in hint for hint in hints(result("offload:7", 1e8)))


def test_a_job_that_does_not_fit_may_offload():
    large = make_job(LLAMA, on=CORE, training={"micro_batch": 16, "seq_len": 65536 * 32})
    small = replace(large.cluster.device, memory_bytes=1e9)
    found = simulate(replace(large, cluster=replace(large.cluster, device=small)), SIMPLE)
    assert "offload:N" in hints(found)[0]
