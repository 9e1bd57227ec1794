"""The check by leaving a source out: what is chosen, and that a source has no say in its own parameters."""

import pytest

from sim.rows import job_of
from sim.step import simulate
from tests.leave_one_out import best_settings, best_spread, errors_of, inside, leave_one_out, step_s
from tests.sim.test_rows import ROW

SLOW, USUAL = (2.0, 1.0), (1.0, 1.0)
ERRORS = {
    "a": {USUAL: [-0.2, -0.4], SLOW: [0.0, 0.1]},
    "b": {USUAL: [-0.1], SLOW: [0.02]},
    "c": {USUAL: [0.05], SLOW: [0.35]},
}


def test_the_best_setting_weighs_sources_alike():
    """Usual: 0.3 + 0.1 + 0.05; slow: 0.05 + 0.02 + 0.35."""
    assert best_settings(ERRORS) == [SLOW]
    assert best_settings({"b": ERRORS["b"], "c": ERRORS["c"]}) == [USUAL]


def test_a_source_has_no_say_in_what_predicts_it():
    found = {one.source: one for one in leave_one_out(ERRORS)}
    assert found["a"].settings == [USUAL]
    assert found["a"].error == pytest.approx((0.3, 0.3))
    assert found["a"].shipped == pytest.approx(0.3)
    assert found["c"].settings == [SLOW]
    assert (found["c"].error, found["c"].shipped) == ((0.35, 0.35), 0.05)


def test_what_the_others_cannot_tell_apart_is_a_range():
    errors = {"a": {USUAL: [0.1], SLOW: [0.1001]}, "b": {USUAL: [0.2], SLOW: [0.6]}}
    found = leave_one_out(errors)[1]
    assert found.settings == [USUAL, SLOW]
    assert found.error == (0.2, 0.6)


def test_shipped_launches_give_the_shipped_prediction():
    assert step_s(ROW, 1.0) == simulate(job_of(ROW)).step_s
    assert step_s(ROW, 0.0) < step_s(ROW, 1.0) < step_s(ROW, 3.0)


def test_the_time_a_step_costs_is_added_to_each_prediction():
    """megatron-lm-2022 has 8 ms: twice that is 8 ms more, 0.8 % of a second."""
    errors = errors_of([ROW], [{"error": 0.0, "measured_s": 1.0}])[ROW["source"]]
    assert errors[2.0 * 1.0, 2.0][0] - errors[2.0, 1.0][0] == pytest.approx(0.008)


def test_the_spread_is_the_smallest_with_nine_of_ten_inside():
    """Prices as sure as can be, gaps of 1.645 x 0.01 to 1.645 x 0.10: nine of ten from 0.09 on."""
    rows = [(1.645 * place / 100 - 1e-9, 0.0) for place in range(1, 11)]
    assert best_spread({"a": rows}) == 0.09
    assert inside(rows, 0.05) == 0.5
