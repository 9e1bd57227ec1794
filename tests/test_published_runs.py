"""Accuracy as a claim: no source of published runs may get worse, and no run may drop out in silence."""

import json
from dataclasses import replace

import pytest

import sim.contention
import sim.rows
from sim.catalog import stack
from sim.rows import Row, job_of
from sim.step import simulate
from sim.validate import PUBLISHED, Validation, read_rows, validate_table, validated
from tests.guard import TAU_TOLERANCE, TOLERANCE, worsened
from tests.record_published_errors import RECORDED, errors, kept

RECORD = json.loads(RECORDED.read_text("utf-8"))
FSDP = "MosaicML LLM Foundry, scripts/train/benchmarking"
DEEPSPEED = "vTrain (MICRO 2024), multi-node"
BUCKETS = "InternEvo, doc/en/train_performance.md"


@pytest.fixture(scope="module")
def published() -> Validation:
    return validate_table()


def skipped(found: Validation) -> dict[str, str]:
    return {str(row["id"]): str(row["skipped"]) for row in found.rows if row["skipped"]}


def runs_of(*sources: str) -> list[Row]:
    return [row for row in read_rows(PUBLISHED) if row["source"] in sources]


def guarded(*sources: str) -> list[str]:
    """What the guard says of some sources, simulated in this process, so that what a test broke is broken."""
    found = validated(runs_of(*sources))
    now = {name: figures for name, figures in errors(found).items() if name in sources}
    return worsened(now, {name: RECORD[name] for name in sources}, skipped(found))


def test_no_source_gets_worse_and_no_run_drops_out(published: Validation):
    assert worsened(errors(published), RECORD, skipped(published)) == []
    assert len(published.rows) == 403


def test_the_guard_passes_sources_as_they_are():
    assert guarded(FSDP, BUCKETS) == []


def test_messages_that_crawl_are_noticed_in_the_sources_that_overlap_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sim.contention, "MESSAGE_RATE", 0.05)
    found = guarded(FSDP, DEEPSPEED)
    assert len(found) == 1
    assert found[0].startswith(f"{FSDP}: mean error of the step time was {RECORD[FSDP]['mean_abs_error']:.1%}, is ")
    assert "worse by" in found[0]


def test_gradients_that_overlap_where_the_stack_cannot_are_noticed(monkeypatch: pytest.MonkeyPatch):
    def broken(name: str) -> object:
        found = stack(name)
        return replace(found, overlap=replace(found.overlap, gradients="backward"))

    monkeypatch.setattr(sim.rows, "stack", broken)
    found = guarded(DEEPSPEED)
    assert any(sentence.startswith(f"{DEEPSPEED}: mean error of the step time was") for sentence in found)


def test_a_stack_that_is_gone_is_named_with_the_rows_that_drop_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sim.rows, "stacks", lambda: ["megatron-lm-2022"])
    found = guarded(BUCKETS)
    assert found[0].startswith(f"{BUCKETS}: 8 step times were compared, 0 are")
    assert any("dropped out" in sentence and "internevo" in sentence for sentence in found)


def test_a_tenth_of_the_recorded_error_is_allowed_and_no_more():
    then = {"a": {"n": 2, "mean_abs_error": 0.10}}
    assert worsened({"a": {"n": 2, "mean_abs_error": 0.10 * TOLERANCE}}, then, {}) == []
    (sentence,) = worsened({"a": {"n": 2, "mean_abs_error": 0.12}}, then, {})
    assert sentence.startswith("a: mean error of the step time was 10.0%, is 12.0%: worse by 20% of itself")


def test_recording_twice_does_not_let_a_source_get_worse_by_two_tenths():
    then = {"a": {"n": 2.0, "mean_abs_error": 0.10, "layouts": 3.0, "tau": 0.8}, "gone": {"n": 1.0}}
    assert kept({"a": {"n": 2.0, "mean_abs_error": 0.11, "layouts": 3.0, "tau": 0.7}}, then) == {"a": then["a"]}
    better = {"n": 2.0, "mean_abs_error": 0.08, "layouts": 3.0, "tau": 0.9}
    assert kept({"a": better}, then) == {"a": better}


def test_a_figure_of_other_runs_is_recorded_as_it_is():
    then = {"a": {"n": 2.0, "mean_abs_error": 0.10}}
    now = {"a": {"n": 3.0, "mean_abs_error": 0.12}, "new": {"n": 1.0, "mean_abs_error": 0.3}}
    assert kept(now, then) == now


def test_an_order_that_gets_lost_is_noticed_though_errors_stay():
    then = {"a": {"n": 5, "mean_abs_error": 0.1, "layouts": 5, "tau": 0.8}}
    kept = then["a"] | {"tau": 0.8 - TAU_TOLERANCE + 0.01}
    assert worsened({"a": kept}, then, {}) == []
    (sentence,) = worsened({"a": then["a"] | {"tau": 0.6}}, then, {})
    assert sentence.startswith("a: tau of its sweeps was 0.80, is 0.60")


def test_a_source_without_a_record_is_said():
    assert worsened({"new": {"n": 1.0}}, {}, {})[0].startswith("new: not recorded yet")


def test_the_table_and_the_record_have_the_same_sources(published: Validation):
    assert set(errors(published)) == set(RECORD)


def test_the_runs_of_the_papers_with_the_clearest_set_up_are_close(published: Validation):
    found = errors(published)
    assert found["Korthikanti et al. 2022, Table 5"]["mean_abs_error"] < 0.06
    assert found["Narayanan et al. 2021 (SC21), Table 1"]["mean_abs_error"] < 0.08
    assert found["Korthikanti et al. 2022, Figure 1"]["memory_mean_abs_error"] < 0.08


def test_selective_recomputation_buys_time(published: Validation):
    """Full recomputation against selective, in each pair of Korthikanti et al."""
    step_s = {row["id"]: row["predicted_s"] for row in published.rows}
    pairs = [(f"KOR-000{number}", f"KOR-000{number + 1}") for number in (1, 3, 5, 7)]
    assert all(0.7 < step_s[selective] / step_s[full] < 0.8 for full, selective in pairs)


@pytest.mark.parametrize(
    ("name", "forward_s", "backward_s"),
    [
        ("KOR-0010", 7.7e-3, 11.9e-3),
        ("KOR-0011", 7.2e-3, 11.8e-3),
        ("KOR-0012", 7.7e-3, 19.5e-3),
        ("KOR-0013", 7.7e-3, 13.2e-3),
        ("KOR-0014", 7.2e-3, 13.1e-3),
    ],
)
def test_both_passes_of_a_published_layer_take_what_they_took(name: str, forward_s: float, backward_s: float):
    """Korthikanti et al., arXiv:2205.05198, Table 4; what is run again belongs to the backward pass."""
    row = next(row for row in read_rows(PUBLISHED) if row["id"] == name)
    result = simulate(job_of(row))
    forward, backward = (result.timeline.end_s - result.timeline.start_s).tolist()
    assert forward == pytest.approx(forward_s, rel=0.035)
    assert backward == pytest.approx(backward_s, rel=0.035)
