"""Sweeps of layouts: which rows are one, Kendall's tau and the regret worked by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.sweeps import FEWEST, chosen, kendall_tau, regret, summary, sweeps
from tests.sim.test_rows import ROW

LAYOUTS = ({"tp": "1"}, {"tp": "2"}, {"pp": "4"}, {"micro_batch": "1"})
TIMES = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=8)


def found(*runs: tuple[dict[str, str], float, float | None]) -> list[dict[str, object]]:
    """Sweeps among runs: cells, predicted and measured seconds."""
    rows = [ROW | {"id": str(place)} | cells for place, (cells, _, _) in enumerate(runs)]
    records = [
        {
            "id": row["id"],
            "source": row["source"],
            "predicted_s": predicted,
            "measured_s": measured,
            "error": predicted / measured - 1.0 if measured else None,
        }
        for row, (_, predicted, measured) in zip(rows, runs, strict=True)
    ]
    return sweeps(rows, records)


def four(predicted: str = "1234", measured: str = "1234", **cells: str):
    times = zip(LAYOUTS, predicted, measured, strict=True)
    return [(layout | cells, float(ours), float(theirs)) for layout, ours, theirs in times]


def test_tau_worked_by_hand():
    """Of six pairs, (2, 3) is in the wrong order: (5 - 1) / 6."""
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)


def test_the_same_order_is_one_and_the_reverse_minus_one():
    assert kendall_tau([1, 2, 3], [10, 20, 40]) == 1.0
    assert kendall_tau([3, 2, 1], [10, 20, 40]) == -1.0


def test_tau_with_ties_worked_by_hand():
    """Predictions 1 1 2, measured 1 2 3: two pairs in order, one of the three tied in ours: 2 / sqrt(2 x 3)."""
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))


def test_who_tells_nothing_apart_ranks_nothing():
    assert kendall_tau([5, 5, 5], [1, 2, 3]) == 0.0


def test_without_an_order_there_is_no_tau():
    assert kendall_tau([1, 2, 3], [7, 7, 7]) is None
    assert kendall_tau([1], [1]) is None


@given(TIMES)
def test_tau_is_bounded_and_changes_sign_with_the_order(pairs):
    ours, theirs = [one for one, _ in pairs], [two for _, two in pairs]
    tau = kendall_tau(ours, theirs)
    if tau is not None:
        assert -1.0 - 1e-12 <= tau <= 1.0 + 1e-12
        assert kendall_tau([-one for one in ours], theirs) == pytest.approx(-tau)


def test_regret_worked_by_hand():
    """We take the second, which took 12 s; the third took 10: 20 % more."""
    assert regret([5, 3, 4], [15, 12, 10]) == pytest.approx(0.2)


def test_the_slowest_of_the_layouts_that_we_cannot_tell_apart_counts():
    assert chosen([3, 3, 4], [10, 11, 9]) == 1
    assert regret([3, 3, 4], [10, 11, 10]) == pytest.approx(0.1)


@given(TIMES)
def test_regret_is_never_below_zero_and_zero_of_a_perfect_model(pairs):
    ours, theirs = [one for one, _ in pairs], [two for _, two in pairs]
    assert regret(ours, theirs) >= 0.0
    assert regret(theirs, theirs) == 0.0


def test_four_layouts_are_a_sweep_and_three_are_not():
    assert FEWEST == 4
    (sweep,) = found(*four(measured="2134"))
    assert (sweep["layouts"], sweep["ids"]) == (4, ["0", "1", "2", "3"])
    assert sweep["tau"] == pytest.approx(4 / 6)
    assert sweep["regret"] == 1.0
    assert (sweep["chosen_id"], sweep["best_id"]) == ("0", "1")
    assert found(*four()[:3]) == []
    assert found(four()[0]) == []


def test_rows_that_differ_in_more_than_their_layout_are_no_sweep():
    for cells in ({"gpus": "32"}, {"global_batch": "32"}, {"device": "h100-sxm"}, {"layers": "8"}, {"source": "other"}):
        runs = four()
        layout, ours, theirs = runs[3]
        assert found(*runs[:3], (layout | cells, ours, theirs)) == []


def test_a_row_that_was_skipped_is_not_of_the_sweep():
    layout, ours, _ = four()[3]
    assert found(*four()[:3], (layout, ours, None)) == []


def test_a_layout_measured_twice_is_one_layout_with_their_median():
    """Four runs, three layouts; with a fourth, the first counts as 2 s."""
    again = (LAYOUTS[0], 1.0, 3.0)
    assert found(*four()[:3], again) == []
    (sweep,) = found(*four(), again)
    assert sweep["layouts"] == 4
    assert sweep["chosen_s"] == 2.0


def test_a_blank_degree_is_one():
    assert found(*four()[:3], (LAYOUTS[0] | {"vp": "1"}, 1.0, 1.0)) == []


def test_ranks_that_share_a_sequence_in_another_way_are_another_layout():
    assert found(*four()[:3], (LAYOUTS[0] | {"context_mode": "ring"}, 1.0, 1.0)) == []
    assert found(*four()[:3], (LAYOUTS[0] | {"context_mode": "all_to_all"}, 1.0, 1.0)) != []


def test_a_summary_weights_tau_by_layouts():
    """(4 x 1 + 8 x 0.5) / 12; regrets 0 and 10 %."""
    each = [
        {"source": "a", "layouts": 4, "tau": 1.0, "regret": 0.0},
        {"source": "a", "layouts": 8, "tau": 0.5, "regret": 0.1},
    ]
    (one,) = summary(each)
    assert one["tau"] == pytest.approx(8 / 12)
    assert (one["sweeps"], one["layouts"], one["best_found"]) == (2, 12, 0.5)
    assert (one["median_regret"], one["worst_regret"]) == pytest.approx((0.05, 0.1))
    assert [two["source"] for two in summary([*each, each[0] | {"source": "b"}])] == ["a", "b", "all sweeps"]


def test_a_sweep_without_an_order_counts_for_its_regret_only():
    (one,) = summary([{"source": "a", "layouts": 4, "tau": None, "regret": 0.0}])
    assert (one["tau"], one["worst_regret"]) == (None, 0.0)


def test_no_sweeps_have_no_summary():
    assert summary([]) == []
