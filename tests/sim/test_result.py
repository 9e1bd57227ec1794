"""What a result says: definitions by hand, and laws that tie its figures together."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from sim.result import NINETY_PERCENT, Result
from sim.step import simulate
from tests.conftest import GPT, LLAMA, SIMPLE, Priced, make_job
from workloads.model import step_model_flops
from workloads.ops import Attention, Gemm

LAYOUTS: list[dict[str, Any]] = [
    {},
    {"dp": 4},
    {"tp": 2, "dp": 2},
    {"pp": 4},
    {"pp": 2, "vp": 2},
    {"pp": 2, "schedule": "zero_bubble"},
    {"pp": 2, "vp": 2, "dp": 2, "schedule": "zero_bubble_v"},
    {"pp": 2, "dp": 2, "zero": 1, "schedule": "dualpipe"},
    {"cp": 2, "dp": 2},
    {"dp": 4, "zero": 3},
    {"dp": 2, "tp": 2, "pp": 2, "sequence_parallel": True, "zero": 1},
]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)
STACKS = ("megatron-core", "torchtitan", "nemo")


def result(name: str = "megatron-core", model=LLAMA, **keywords: Any) -> Result:
    return simulate(make_job(model, name, **keywords), SIMPLE)


@every_layout
def test_mfu_is_model_flops_over_what_the_gpus_could_do(layout):
    found = result(**layout)
    gpus = found.job.gpus
    flops = step_model_flops(LLAMA, 64, 16)
    assert found.model_flops == flops
    assert found.mfu == pytest.approx(flops / (found.step_s * gpus * 312e12))  # A100 data sheet, bf16


def test_mfu_takes_the_peak_of_the_gemms():
    """TF32 of an A100: 156 TFLOP/s; plain fp32 has no tensor rate: 19.5 TFLOP/s on the vector units."""
    for precision, peak in (("tf32", 156e12), ("fp32", 19.5e12), ("fp16", 312e12)):
        assert result(training={"precision": precision}).peak_flops_per_s == pytest.approx(peak)


def test_layers_alone_have_no_flops_of_the_head():
    """2 h V for each of 16 x 64 tokens, forward, and twice that backward."""
    whole, alone = (result("megatron-lm-2022", GPT, training={"task": task}) for task in ("pretrain", "layers"))
    assert whole.model_flops - alone.model_flops == pytest.approx(3 * 16 * 64 * 2 * GPT.hidden * GPT.vocab)


@every_layout
@pytest.mark.parametrize("recompute", ["none", "selective", "full", "full:1"])
def test_hfu_is_no_less_than_mfu(layout, recompute):
    found = result("megatron-lm-2022", GPT, training={"recompute": recompute}, **(layout | {"cp": 1}))
    if recompute == "none":
        assert found.hfu == found.mfu
    else:
        assert found.hfu > found.mfu


def test_full_recomputation_adds_a_third_to_hfu():
    """A forward pass to a forward and two backward passes, but for the head: 2 h V of 2 (12 l h^2 + 2 l s h + h V)."""
    found = result("megatron-lm-2022", GPT, training={"recompute": "full"})
    token = GPT.matmul_flops_per_token + GPT.attention_flops_per_token(64, causal=False)
    layers = token - 2 * GPT.hidden * GPT.vocab
    assert found.hfu / found.mfu == pytest.approx(1 + layers / (3 * token))


@every_layout
def test_tokens_per_second_follow_from_the_step(layout):
    found = result(**layout)
    assert found.tokens_per_s == pytest.approx(16 * 64 / found.step_s)
    assert found.tokens_per_s_per_gpu * found.job.gpus == pytest.approx(found.tokens_per_s)


@every_layout
@pytest.mark.parametrize("name", STACKS)
def test_the_interval_contains_the_step(name, layout):
    found = result(name, **layout)
    low, high = found.interval_s
    assert 0 < low < found.step_s < high
    assert low * high == pytest.approx(found.step_s**2)


def test_a_sure_price_has_a_narrow_interval():
    sure, unsure = (simulate(make_job(GPT), Priced(SIMPLE.seconds, spread)).interval_s for spread in (0.01, 0.2))
    assert unsure[0] < sure[0] < sure[1] < unsure[1]


def test_an_interval_worked_by_hand():
    """GEMMs alone, all of the step, 10 % unsure: a factor of exp(1.645 x 0.1)."""
    only_gemms = Priced(lambda op: 1e-3 if isinstance(op, Gemm) else 0.0, 0.1)
    job = make_job(GPT)
    host = replace(job.stack.host, launch_s={"eager": 0.0}, message_s={"eager": 0.0, "compile": 0.0}, step_s=0.0)
    found = simulate(replace(job, stack=replace(job.stack, host=host, spread=0.0)), only_gemms)
    assert found.spread == pytest.approx(0.1)
    assert found.interval_s[1] == pytest.approx(found.step_s * math.exp(NINETY_PERCENT * 0.1))


def test_what_a_stack_leaves_out_makes_a_step_less_sure():
    """Prices without doubt and a stack unsure by 5 %; then both, 3 and 4 % independently: 5 %."""
    job = make_job(GPT)
    host = replace(job.stack.host, launch_s={"eager": 0.0}, message_s={"eager": 0.0, "compile": 0.0}, step_s=0.0)
    for prices, stack_spread in ((0.0, 0.05), (0.03, 0.04)):
        only_gemms = Priced(lambda op: 1e-3 if isinstance(op, Gemm) else 0.0, prices)
        quiet = replace(job, stack=replace(job.stack, host=host, spread=stack_spread))
        assert simulate(quiet, only_gemms).spread == pytest.approx(0.05)


def test_kinds_of_work_are_unsure_independently():
    """GEMMs and attention, half of the time each at 10 %: 0.1 / sqrt 2 in all."""
    job = make_job(LLAMA, "torchtitan")
    host = replace(job.stack.host, launch_s={"eager": 0.0}, message_s={"eager": 0.0, "compile": 0.0}, step_s=0.0)
    quiet = replace(job, stack=replace(job.stack, host=host, spread=0.0))
    kinds: dict[type, float] = {}
    for kind in (Gemm, Attention):
        only = Priced(lambda op, kind=kind: 1e-6 if isinstance(op, kind) else 0.0)  # type: ignore[misc]
        kinds[kind] = simulate(quiet, only).step_s
    gemm, attention = kinds.values()
    both = Priced(lambda op: 1e-6 / {Gemm: gemm, Attention: attention}.get(type(op), math.inf))
    assert simulate(quiet, both).spread == pytest.approx(0.1 / math.sqrt(2))


@every_layout
@pytest.mark.parametrize("name", STACKS)
def test_the_critical_path_is_as_long_as_the_timeline(name, layout):
    found = result(name, **layout)
    assert sum(found.critical_path.values()) == pytest.approx(found.timeline.seconds, rel=1e-9)
    assert all(seconds >= 0 for seconds in found.critical_path.values())


@every_layout
@pytest.mark.parametrize("name", STACKS)
def test_the_critical_path_comes_longest_first(name, layout):
    lengths = list(result(name, **layout).critical_path.values())
    assert lengths == sorted(lengths, reverse=True)


@every_layout
def test_ratios_are_ratios(layout):
    found = result(**layout)
    assert 0 < found.mfu <= 1
    assert 0 <= found.bubble < 1


def test_the_bubble_is_its_share_of_the_step():
    found = result(pp=4)
    assert found.bubble == found.breakdown["bubble"] / found.step_s


def test_exposed_communication_is_that_of_the_breakdown():
    found = result("megatron-lm-2022", dp=2, tp=2, pp=2)
    assert set(found.exposed_s) == {"dp", "tp", "pp"}
    assert found.exposed_s["tp"] == found.breakdown["exposed tp"]


def test_the_host_lengthens_the_step_behind_the_timeline():
    job = make_job(GPT)
    host = replace(job.stack.host, step_s=0.25)
    found = simulate(replace(job, stack=replace(job.stack, host=host)), SIMPLE)
    assert found.step_s == found.timeline.seconds + 0.25


def written(found: Result) -> bytes:
    """All raw figures, to the last bit."""
    document = {
        "start": [value.hex() for value in found.timeline.start_s.tolist()],
        "end": [value.hex() for value in found.timeline.end_s.tolist()],
        "prices": {repr(op): (price.seconds.hex(), price.spread.hex()) for op, price in found.prices.items()},
        "breakdown": {part: seconds.hex() for part, seconds in found.breakdown.items()},
        "path": {name: seconds.hex() for name, seconds in found.critical_path.items()},
        "memory": repr(found.memory),
        "interval": [value.hex() for value in found.interval_s],
    }
    return json.dumps(document).encode()


@every_layout
def test_the_same_job_gives_the_same_bytes(layout):
    first, second = (written(simulate(make_job(LLAMA, "megatron-core", **layout))) for _ in range(2))
    assert first == second


def test_a_step_that_waits_for_its_host_is_as_unsure_as_hosts_differ():
    free = Priced(lambda _: 0.0, 0.0)
    job = make_job(GPT)
    slow = replace(job.stack.host, launch_s={"eager": 1e-3}, step_s=0.0, spread=0.3)
    found = simulate(replace(job, stack=replace(job.stack, host=slow, spread=0.0)), free)
    assert found.spread == pytest.approx(0.3, rel=0.05)  # the optimizer is no block that waits
