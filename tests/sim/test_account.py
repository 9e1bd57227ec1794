"""Where the error comes from: factors of parts, worked by hand and found again in made-up rows."""

import numpy as np
import pytest

from sim.account import FEWEST_ROWS, MOST, account, best_factor, joint_factors, of_source


def row(place: int, parts: dict[str, float], measured_s: float, source: str = "s") -> dict[str, object]:
    predicted_s = sum(parts.values())
    found = {"id": f"R-{place}", "source": source, "parts": parts, "measured_s": measured_s}
    return found | {"predicted_s": predicted_s, "error": predicted_s / measured_s - 1.0}


def rows(factor: float, part: str = "exposed dp", count: int = 12) -> list[dict[str, object]]:
    """Steps in which one part really takes `factor` times as long, and shares differ from row to row."""
    found = []
    for place in range(count):
        parts = {"forward": 1.0, "backward": 2.0, "exposed dp": 0.2 + 0.1 * place, "bubble": 0.1 * (place % 3)}
        found.append(row(place, parts, sum(parts.values()) + (factor - 1.0) * parts[part]))
    return found


def test_a_factor_worked_by_hand():
    """Half of each measured time is the part, and each prediction is a quarter short: 1 + 0.25 / 0.5."""
    assert best_factor(np.array([-0.25, -0.25]), np.array([0.5, 0.5])) == pytest.approx(1.5)


def test_one_wild_row_moves_no_factor():
    """The weighted median of 0.5, 0.5 and 100."""
    assert best_factor(np.array([-0.25, -0.25, -30.0]), np.array([0.5, 0.5, 0.3])) == pytest.approx(1.5)


def test_a_factor_is_bounded_and_a_part_that_nobody_has_stays():
    assert best_factor(np.array([5.0]), np.array([0.5])) == 0.0
    assert best_factor(np.array([-0.9]), np.array([0.001])) == MOST
    assert best_factor(np.array([-0.9]), np.array([0.0])) == 1.0


def test_the_factor_leaves_the_smallest_mean_error():
    errors, shares = np.array([-0.3, 0.1, -0.2, -0.05]), np.array([0.4, 0.2, 0.3, 0.6])
    left = {factor: np.abs(errors + (factor - 1.0) * shares).mean() for factor in np.linspace(0.0, MOST, 401)}
    best = np.abs(errors + (best_factor(errors, shares) - 1.0) * shares).mean()
    assert best <= min(left.values()) + 1e-12


def test_the_part_that_is_wrong_is_found():
    found = of_source("s", rows(2.0))
    assert found["single"][0]["part"] == "exposed dp"
    assert found["single"][0]["factor"] == pytest.approx(2.0)
    assert found["single"][0]["mean_abs_error_left"] == pytest.approx(0.0, abs=1e-12)


def test_all_at_once_blame_the_same_part_most():
    factors = of_source("s", rows(2.0))["factors"]
    assert max(factors, key=lambda part: abs(factors[part] - 1.0)) == "exposed dp"
    assert factors["exposed dp"] == pytest.approx(2.0, abs=0.3)


def test_forward_and_backward_are_one_in_the_joint_fit():
    assert set(of_source("s", rows(2.0))["factors"]) == {"kernels", "exposed dp", "bubble"}


def test_predictions_that_are_right_keep_every_factor():
    factors = of_source("s", rows(1.0))["factors"]
    assert all(factor == pytest.approx(1.0) for factor in factors.values())


def test_joint_factors_are_never_negative():
    assert (joint_factors(np.array([3.0, 4.0, 5.0]), np.array([[1.0, 3.0], [1.0, 4.0], [1.0, 5.0]])) >= 0.0).all()


def test_few_rows_explain_nothing():
    found = of_source("s", rows(2.0, count=FEWEST_ROWS - 1))
    assert (found["single"], found["factors"], found["mean_abs_error_left"]) == ([], {}, None)
    assert of_source("s", rows(2.0, count=FEWEST_ROWS))["single"] != []


def test_the_worst_rows_come_first_with_shares_that_add_up():
    found = account([*rows(2.0), row(99, {"forward": 1.0}, 1.0, "good"), {"error": None, "source": "s"}], 3)
    assert [one["id"] for one in found["worst"]] == ["R-11", "R-10", "R-9"]
    assert [one["source"] for one in found["sources"]] == ["s"]
    assert all(sum(one["parts"].values()) == pytest.approx(1.0) for one in found["worst"])
    by = found["worst"][0]["explained_by"]
    assert by["part"] == "exposed dp"
    assert by["of_gap"] == pytest.approx(1.0, abs=0.3)


def test_a_table_without_errors_has_no_account():
    assert account([{"error": None, "source": "s"}], 5) == {"worst": [], "sources": []}
