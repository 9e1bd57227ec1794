"""Several runs of a case become one row."""

from pathlib import Path

import pytest

from calibration.steps.medians import main, medians
from calibration.steps.row import COLUMNS
from calibration.steps.table import read


def run(cite: str, step_s: float, outcome: str = "ok", **more: str) -> dict[str, str]:
    taken = {"step_time_s": str(step_s), "tokens_per_s_per_gpu": str(1.0 / step_s), "notes": "as it was"}
    memory = {"memory_gb": "10.00", "memory_active_gb": "8.00"}
    return dict.fromkeys(COLUMNS, "") | taken | memory | {"cite": cite, "outcome": outcome} | more


def test_the_middle_one_of_three_runs_counts_and_the_notes_say_how_far_apart_they_were():
    (row,) = medians([run("a", 0.25, id="first"), run("a", 1.0), run("a", 0.5)])
    assert (row["id"], row["step_time_s"], row["tokens_per_s_per_gpu"]) == ("first", "0.5", "2.0")
    assert row["notes"] == "median of 3 runs, 0.25 to 1 s"


def test_two_runs_meet_in_the_middle():
    (row,) = medians([run("a", 0.2), run("a", 0.4, memory_gb="12.00")])
    assert (row["step_time_s"], row["memory_gb"]) == ("0.3", "11.00")


def test_a_single_run_stays_as_it_is_and_cases_keep_their_order():
    rows = medians([run("b", 1.0), run("a", 1.0), run("b", 3.0)])
    assert [row["cite"] for row in rows] == ["b", "a"]
    assert rows[1]["notes"] == "as it was"


@pytest.mark.parametrize(("outcomes", "kept"), [(("failed", "ok"), "ok"), (("failed", "failed"), "failed")])
def test_a_failed_run_counts_only_where_none_went_well(outcomes: tuple[str, str], kept: str):
    (row,) = medians([run("a", 1.0, outcome) for outcome in outcomes])
    assert row["outcome"] == kept


def test_the_shipped_steps_are_the_medians_of_the_shipped_runs(tmp_path: Path):
    folder = Path("calibration/profiles/h200-sxm/torch-2.11-cu130")
    main([str(folder / "step_runs.csv"), "--out", str(tmp_path / "step_times.csv")])
    assert read(tmp_path / "step_times.csv") == read(folder / "step_times.csv")
