"""Accuracy as a claim: the published runs that ship, against limits that a change must not break."""

import pytest

from sim.validate import Validation, validate_table


@pytest.fixture(scope="module")
def published() -> Validation:
    return validate_table()


def figures(published: Validation, source: str):
    (found,) = [row for row in published.summary if str(row["source"]).startswith(source)]
    return found


def test_no_published_run_drops_out(published: Validation):
    assert [row["id"] for row in published.rows if row["skipped"]] == []
    assert len(published.rows) == 27


@pytest.mark.parametrize(("source", "limit"), [("Korthikanti et al. 2022, Table 5", 0.045), ("Narayanan", 0.07)])
def test_step_times_stay_close_to_the_papers(published: Validation, source: str, limit: float):
    assert figures(published, source)["mean_abs_error"] < limit


def test_memory_stays_close_to_the_paper(published: Validation):
    assert figures(published, "Korthikanti et al. 2022, Figure 1")["memory_mean_abs_error"] < 0.045


def test_every_run_lies_in_its_interval(published: Validation):
    assert all(row["inside"] for row in published.rows if "inside" in row)


def test_more_memory_for_less_recomputation_buys_time(published: Validation):
    """Full recomputation against selective, in each pair of the paper."""
    step_s = {row["id"]: row["predicted_s"] for row in published.rows}
    pairs = [(f"KOR-000{number}", f"KOR-000{number + 1}") for number in (1, 3, 5, 7)]
    assert all(0.7 < step_s[selective] / step_s[full] < 0.8 for full, selective in pairs)
