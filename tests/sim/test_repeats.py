"""Runs alike in every column, and the error that no prediction gets below, worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.repeats import lowest_errors, repeats
from tests.sim.test_rows import ROW


def found(*runs: tuple[dict[str, str], float | None]):
    rows = [ROW | cells for cells, _ in runs]
    return repeats(rows, [{"error": 0.0 if measured else None, "measured_s": measured} for _, measured in runs])


def test_two_runs_worked_by_hand():
    """10 and 12 s: whoever says 10 is wrong by 2 of 12 s once; whoever says 12 by 2 of 10."""
    assert lowest_errors([12.0, 10.0]) == pytest.approx([1 / 6, 0.0])


def test_figures_worked_by_hand():
    """Two alike and 20 % apart, one alone: (1/6 + 0 + 0) / 3."""
    (one,) = found(({}, 10.0), ({"id": "again"}, 12.0), ({"tp": "1"}, 5.0))
    assert (one["groups"], one["rows"]) == (1, 2)
    assert (one["median_apart"], one["most_apart"]) == pytest.approx((0.2, 0.2))
    assert one["lowest_mean_abs_error"] == pytest.approx(1 / 18)


def test_runs_that_differ_in_a_column_or_were_skipped_are_not_alike():
    assert found(({}, 10.0), ({"micro_batch": "1"}, 12.0), ({"attention": "flash"}, 12.0), ({}, None)) == []


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6), st.floats(0.1, 10.0))
def test_no_prediction_does_better(measured, predicted):
    assert sum(lowest_errors(measured)) <= sum(abs(predicted / one - 1.0) for one in measured) + 1e-9
