"""The trace: valid for Perfetto, complete, and within the rows that it names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim.jobfile import read_job
from sim.report.trace import trace, trace_text
from sim.result import Result
from sim.step import simulate
from tests.conftest import LLAMA, make_job

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NANOSECOND = 1e-3  # in microseconds


@pytest.fixture(scope="module", params=["korthikanti-175b", "llama-3.1-8b-fsdp"])
def result(request: pytest.FixtureRequest) -> Result:
    return simulate(read_job(EXAMPLES / f"{request.param}.toml"))


@pytest.fixture(scope="module")
def events(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = trace(result)["traceEvents"]
    return found


def rows(events: list[dict[str, Any]]) -> dict[tuple[int, int], str]:
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}


def spans(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X"]


def test_every_stage_is_a_process_with_a_name(result: Result, events: list[dict[str, Any]]):
    named = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert named == {stage: f"stage {stage}" for stage in range(result.job.layout.pp)}


def test_every_span_is_on_a_row_with_a_name(events: list[dict[str, Any]]):
    assert {(e["pid"], e["tid"]) for e in spans(events)} == set(rows(events))


def test_every_task_is_there_with_its_time(result: Result, events: list[dict[str, Any]]):
    named = rows(events)
    tasks = [e for e in spans(events) if not named[e["pid"], e["tid"]].startswith("kernels")]
    assert len(tasks) == len(result.program.tasks)
    assert max(e["ts"] + e["dur"] for e in tasks) == pytest.approx(result.timeline.seconds * 1e6)


def test_spans_are_in_order_and_those_of_a_row_do_not_overlap(events: list[dict[str, Any]]):
    starts = [e["ts"] for e in spans(events)]
    assert starts == sorted(starts)
    ends: dict[tuple[int, int], float] = {}
    for event in spans(events):
        row = event["pid"], event["tid"]
        assert event["ts"] >= ends.get(row, 0.0) - NANOSECOND
        assert event["dur"] >= 0.0
        ends[row] = event["ts"] + event["dur"]


def test_kernels_lie_within_a_pass(events: list[dict[str, Any]]):
    named = rows(events)
    passes = [(e["pid"], e["ts"], e["ts"] + e["dur"]) for e in spans(events) if named[e["pid"], e["tid"]] == "compute"]
    kernels = [e for e in spans(events) if named[e["pid"], e["tid"]].startswith("kernels")]
    assert any(e["name"].startswith("gemm tn") for e in kernels)
    for event in kernels:
        start, end = event["ts"] + NANOSECOND, event["ts"] + event["dur"] - NANOSECOND
        assert any(pid == event["pid"] and since <= start and end <= until for pid, since, until in passes)


def test_passes_name_their_micro_batch(result: Result, events: list[dict[str, Any]]):
    last = result.job.training.global_batch // (result.job.layout.dp * result.job.training.micro_batch) - 1
    found = {e["args"]["micro_batch"] for e in spans(events) if "args" in e and e["name"] == "forward"}
    assert found == set(range(last + 1))


def test_the_text_is_json_and_the_same_each_time(result: Result):
    assert trace_text(result) == trace_text(result)
    assert json.loads(trace_text(result))["otherData"]["model"] == result.job.model.name


def test_exchanges_of_experts_have_a_row_and_a_name():
    layout = {"dp": 4, "ep": 4, "expert_mode": "deduplicated"}
    shown = trace(simulate(make_job(replace(LLAMA, ffn=64, experts=8, topk=2), "megatron-core", **layout)))
    assert "kernels, ep" in rows(shown["traceEvents"]).values()
    assert "exchange over 4" in {event["name"] for event in shown["traceEvents"]}
