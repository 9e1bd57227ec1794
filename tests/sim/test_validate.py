"""Validation: every row is compared or says why not; figures worked by hand."""

import csv
from pathlib import Path
from typing import Any

import pytest

from hardware.descriptor import DescriptorError
from sim.error_figures import summary
from sim.rows import job_of
from sim.step import simulate
from sim.validate import GIB, compare, measured_s, read_rows, validate_table
from tests.sim.test_rows import ROW


def table(path: Path, *rows: dict[str, str], columns: tuple[str, ...] = ()) -> Path:
    names = columns or tuple(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(**cells: str) -> dict[str, str]:
    return ROW | {"step_time_s": "0.5"} | cells


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.csv"


def test_a_row_is_held_against_its_measurement(path):
    step_s = simulate(job_of(ROW)).step_s
    found = validate_table(table(path, row(step_time_s=str(step_s / 1.25)))).rows[0]
    assert found["predicted_s"] == step_s
    assert found["error"] == pytest.approx(0.25)
    assert found["skipped"] is None


def test_rows_that_describe_one_job_are_simulated_once_and_keep_their_places(path, monkeypatch):
    jobs = []
    monkeypatch.setattr("sim.validate.simulate", lambda job, _: jobs.append(job) or simulate(job))
    first = row(id="first", model="tiny", notes="")
    between = first | {"id": "between", "global_batch": "32"}
    again = first | {"id": "again", "step_time_s": "0.25", "notes": "a day later"}
    found = validate_table(table(path, first, between, again)).rows
    assert len(jobs) == 2
    assert [one["id"] for one in found] == ["first", "between", "again"]
    assert found[0]["predicted_s"] == found[2]["predicted_s"] != found[1]["predicted_s"]
    assert 1 + found[2]["error"] == pytest.approx(2 * (1 + found[0]["error"]))


def test_rows_of_different_releases_are_different_jobs(path):
    dated = {"device": "h100-sxm", "stack": "nemo", "precision": "bf16"}
    early, late = (row(id=name, cite=f"results/{name}", **dated) for name in ("ngc24.04", "ngc24.09"))
    alone = [validate_table(table(path, each)).rows[0]["predicted_s"] for each in (early, late)]
    together = [one["predicted_s"] for one in validate_table(table(path, early, late)).rows]
    assert together == alone
    assert alone[0] != alone[1]


def test_an_error_names_its_own_row_where_the_model_has_no_name(path):
    wrong = row(tp="16", pp="1")  # more than it has heads
    found = validate_table(table(path, wrong | {"id": "first"}, wrong | {"id": "second"})).rows
    assert [one["id"] in str(one["skipped"]) for one in found] == [True, True]


def test_throughput_stands_for_a_step_time():
    """16 sequences of 128 tokens on 16 GPUs at 64 tokens/s each: 2 s."""
    assert measured_s(ROW | {"step_time_s": "", "tokens_per_s_per_gpu": "64"}) == 2.0


def test_a_step_time_goes_before_a_throughput():
    assert measured_s(ROW | {"step_time_s": "3", "tokens_per_s_per_gpu": "64"}) == 3.0


def test_a_row_without_a_measurement_is_predicted_all_the_same(path):
    found = validate_table(table(path, row(step_time_s=""))).rows[0]
    assert found["measured_s"] is None
    assert found["error"] is None
    assert isinstance(found["predicted_s"], float)


def test_the_interval_says_whether_the_measurement_is_inside():
    inside = compare(row(step_time_s=str(simulate(job_of(ROW)).step_s)))
    outside = compare(row(step_time_s="1000"))
    assert (inside["inside"], outside["inside"]) == (True, False)
    assert inside["predicted_low_s"] < inside["predicted_s"] < inside["predicted_high_s"]


def test_no_row_is_dropped_in_silence(path):
    """Seven rows in, seven out, in order, each with a prediction or a reason."""
    rows = [
        row(id="good"),
        row(id="family", family="cnn"),
        row(id="stack", stack="megatron-lm-1999"),
        row(id="device", device="h900"),
        row(id="number", layers="many"),
        row(id="degree", tp="3", gpus="6"),
        row(id="open", missing_inputs="vocab"),
    ]
    found = validate_table(table(path, *rows)).rows
    assert [one["id"] for one in found] == [one["id"] for one in rows]
    assert [one["id"] for one in found if one["skipped"] is None] == ["good"]
    assert all((one["predicted_s"] is None) == (one["skipped"] is not None) for one in found)
    assert all(one["skipped"] for one in found[1:])


def test_what_was_assumed_is_said():
    found = compare(row(recompute="", zero="", missing_inputs="recompute;zero_stage_or_fsdp"))
    assert found["assumed"] == ["zero = 0", "recompute = none"]
    assert compare(row())["assumed"] == []


def test_skipped_rows_are_counted(path):
    found = validate_table(table(path, row(), row(family="cnn"), row(family="cnn"))).summary
    assert [(one["n"], one["skipped"]) for one in found] == [(1, 2), (1, 2), (1, 2)]


def test_a_table_of_skipped_rows_has_no_errors(path):
    found = validate_table(table(path, row(family="cnn"))).summary
    assert all(one["mean_abs_error"] is None for one in found)


def test_a_data_type_that_the_device_has_not_is_a_reason():
    assert "fp8" in str(compare(row(precision="fp8", stack="megatron-core"))["skipped"])


def test_an_inconsistent_layout_is_a_reason():
    assert "global_batch" in str(compare(row(global_batch="5"))["skipped"])


@pytest.mark.parametrize(
    "cells",
    [
        {"step_time_s": "fast"},
        {"step_time_s": "0"},
        {"step_time_s": "-1"},
        {"step_time_s": "nan"},
        {"step_time_s": "inf"},
        {"step_time_s": "", "tokens_per_s_per_gpu": "many"},
        {"step_time_s": "", "tokens_per_s_per_gpu": "0"},
        {"memory_gb": "lots"},
        {"memory_gb": "0"},
        {"memory_gb": "nan"},
    ],
    ids=str,
)
def test_a_measurement_that_cannot_be_is_said(path, cells):
    """As a reason in the row, or as a fault of the table that names the column."""
    key = next(name for name, value in cells.items() if value)
    try:
        found = validate_table(table(path, row(**cells)))
    except DescriptorError as error:
        assert key in str(error)
    else:
        assert key in str(found.rows[0]["skipped"])


@pytest.mark.parametrize(
    "cells",
    [{"heads": "0"}, {"gpus_per_node": "0"}, {"tp": "0"}, {"execution": "turbo"}],
    ids=str,
)
def test_one_impossible_row_does_not_stop_the_others(path, cells):
    found = validate_table(table(path, row(**cells), row())).rows
    assert found[0]["skipped"]
    assert found[1]["skipped"] is None


def test_memory_is_compared_where_the_table_has_it():
    memory = simulate(job_of(ROW)).memory
    found = compare(row(memory_gb=str(memory.allocated / GIB / 0.8)))
    assert found["measured_memory_bytes"] == pytest.approx(memory.allocated / 0.8)
    assert found["predicted_memory_bytes"] == memory.allocated
    assert found["memory_error"] == pytest.approx(-0.2)
    assert "memory_error" not in compare(row())


@pytest.mark.parametrize(("outcome", "ran"), [("ok", True), ("OOM Error", False)])
def test_whether_a_run_fitted_is_compared_where_the_table_has_it(outcome, ran):
    found = compare(row(outcome=outcome))
    assert (found["ran"], found["fits"]) == (ran, True)
    assert "fits" not in compare(row())


def test_a_run_that_did_not_fit_is_foreseen():
    found = compare(row(outcome="OOM Error", layers="96", hidden="12288", ffn="49152", heads="96", seq_len="2048"))
    assert (found["ran"], found["fits"]) == (False, False)


def record(source: str, error: float | None, **more: Any) -> dict[str, object]:
    return {"source": source, "error": error, "skipped": None if error is not None else "why"} | more


FIGURES = summary(
    [
        record("b", 0.04, inside=True, memory_error=0.1),
        record("b", -0.08, inside=True, memory_error=-0.3),
        record("b", 0.30, inside=False, ran=True, fits=True),
        record("b", None),
        record("a", -0.15, inside=False, ran=False, fits=True),
    ]
)


def test_figures_come_by_source_then_of_all():
    assert [one["source"] for one in FIGURES] == ["a", "b", "all rows", "each source with equal weight"]


def test_figures_of_one_source_worked_by_hand():
    """Errors 4, -8 and 30 %: median 8, mean 14, bias 26 / 3; one within 5, two within 10 and 20."""
    found = FIGURES[1]
    assert (found["n"], found["skipped"]) == (3, 1)
    assert found["median_abs_error"] == pytest.approx(0.08)
    assert found["mean_abs_error"] == pytest.approx(0.14)
    assert found["bias"] == pytest.approx(0.26 / 3)
    within = (found["within_5"], found["within_10"], found["within_20"])
    assert within == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert found["inside_interval"] == pytest.approx(2 / 3)
    assert (found["memory_n"], found["fits_n"], found["fits_right"]) == (2, 1, 1.0)
    assert found["memory_mean_abs_error"] == pytest.approx(0.2)


def test_figures_of_all_rows_worked_by_hand():
    found = FIGURES[2]
    assert (found["n"], found["skipped"]) == (4, 1)
    assert found["mean_abs_error"] == pytest.approx((0.04 + 0.08 + 0.30 + 0.15) / 4)
    assert found["median_abs_error"] == pytest.approx((0.08 + 0.15) / 2)
    assert (found["fits_n"], found["fits_right"]) == (2, 0.5)


def test_equal_weight_is_the_mean_over_sources():
    found = FIGURES[3]
    assert found["mean_abs_error"] == pytest.approx((0.15 + 0.14) / 2)
    assert found["within_20"] == pytest.approx((1 + 2 / 3) / 2)
    assert (found["n"], found["skipped"]) == (4, 1)
    assert found["memory_mean_abs_error"] == pytest.approx(0.2)  # only one source has any


def test_a_source_without_errors_weighs_nothing():
    found = summary([record("a", 0.1), record("b", None)])[-1]
    assert found["mean_abs_error"] == pytest.approx(0.1)


def test_an_error_at_a_limit_is_within_it():
    assert summary([record("a", 0.05), record("a", -0.10)])[0]["within_10"] == 1.0


def test_missing_columns_are_named_at_once(path):
    columns = tuple(name for name in ROW if name not in ("vocab", "zero"))
    with pytest.raises(DescriptorError, match=r"runs\.csv: columns are missing: vocab, zero"):
        validate_table(table(path, row(), columns=columns))


def test_an_empty_file_is_no_table(path):
    path.write_text("")
    with pytest.raises(DescriptorError, match="columns are missing"):
        validate_table(path)


def test_a_table_without_rows_is_said(path):
    with pytest.raises(DescriptorError, match="has no rows"):
        validate_table(table(path, columns=tuple(ROW)))


def test_a_file_that_is_not_there_is_said(path):
    with pytest.raises(DescriptorError, match="cannot be read"):
        validate_table(path)


def test_a_file_that_is_not_utf_8_is_said(path):
    path.write_bytes("id,source\nä,ö\n".encode("utf-16"))
    with pytest.raises(DescriptorError, match="cannot be read"):
        validate_table(path)


def test_a_byte_order_mark_does_no_harm(path):
    """As spreadsheets write it."""
    table(path, row())
    path.write_text(path.read_text("utf-8"), "utf-8-sig")
    assert validate_table(path).rows[0]["skipped"] is None


def test_further_columns_and_cells_do_no_harm(path):
    table(path, row() | {"notes": "by hand, 'quoted'"})
    with path.open("a", encoding="utf-8") as file:
        file.write(",".join(row().values()) + ",note,more,cells\n")
    assert len(read_rows(path)) == 2


def test_a_whole_number_may_have_a_decimal_point(path):
    """As pandas writes one in a column with blanks."""
    table(path, row(kv_heads="8.0", tp="2.0", zero="0.0", step_time_s="0.50", model="GPT 1.5"))
    (found,) = read_rows(path)
    assert (found["kv_heads"], found["tp"], found["zero"], found["step_time_s"]) == ("8", "2", "0", "0.50")
    assert found["model"] == "GPT 1.5"


def test_a_short_row_has_blanks(path):
    table(path, row())
    with path.open("a", encoding="utf-8") as file:
        file.write("short,source\n")
    found = validate_table(path).rows
    assert (found[1]["id"], bool(found[1]["skipped"])) == ("short", True)


def test_the_same_table_gives_the_same_figures(path):
    table(path, row(), row(family="llama"), row(family="cnn"))
    assert validate_table(path) == validate_table(path)
