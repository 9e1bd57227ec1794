"""Errors by device, stack and size of the model."""

import pytest

from sim.error_figures import UNKNOWN_SIZE, UNSTATED, by_device, by_size, by_stack, size_class


def record(error: float | None, parameters: float | None = 1e9, device: str = "a", stack: str = "s"):
    skipped = None if error is not None else "why"
    found = {"id": "x", "source": "s", "device": device, "stack": stack, "parameters": parameters}
    return found | {"error": error, "skipped": skipped}


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (0.1e9, "below 3B"),
        (2.999e9, "below 3B"),
        (3e9, "3B to 15B"),
        (14.9e9, "3B to 15B"),
        (15e9, "15B to 80B"),
        (79.9e9, "15B to 80B"),
        (80e9, "80B and more"),
        (1e12, "80B and more"),
        (None, UNKNOWN_SIZE),
    ],
)
def test_a_limit_belongs_to_the_larger_class(parameters, name):
    assert size_class(parameters) == name


def test_classes_come_by_size_and_each_row_is_in_one():
    rows = [record(0.3, 175e9), record(-0.1, 1e9), record(0.2, 1e9), record(None, None), record(None, 7e9)]
    found = by_size(rows)
    assert [one["size"] for one in found] == ["below 3B", "3B to 15B", "80B and more", UNKNOWN_SIZE]
    assert [(one["n"], one["skipped"]) for one in found] == [(2, 0), (0, 1), (1, 0), (0, 1)]
    assert found[0]["mean_abs_error"] == pytest.approx(0.15)
    assert found[0]["bias"] == pytest.approx(0.05)


def test_devices_come_by_name_with_their_own_figures():
    found = by_device([record(0.04, device="b"), record(0.1, device="a"), record(-0.3, device="a")])
    assert [one["device"] for one in found] == ["a", "b"]
    assert [one["mean_abs_error"] for one in found] == pytest.approx([0.2, 0.04])
    assert [one["within_5"] for one in found] == [0.0, 1.0]


def test_a_stack_that_a_row_leaves_open_is_a_group():
    assert [one["stack"] for one in by_stack([record(0.1, stack=""), record(0.1)])] == [UNSTATED, "s"]
