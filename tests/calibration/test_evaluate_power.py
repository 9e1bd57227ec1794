"""Power and clock of long runs, checked with prices that are known."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from calibration.cost import power
from calibration.cost.physics import Physics
from calibration.evaluate_power import power_points, power_summary
from calibration.table import Measurement
from hardware import catalog

DEVICE = catalog.device("h200-sxm")
LARGE = Measurement(
    op="gemm", dtype="bf16", device=DEVICE.name, m=8192, n=8192, k=8192, mode="sustained", time_s=1.0, power_w=700.0
)
COPY = Measurement(
    op="copy", dtype="bf16", device=DEVICE.name, rows=32768, cols=8192, mode="sustained", time_s=1.0, power_w=595.0
)


@dataclass(frozen=True)
class NoPrice:
    def price(self, _ops: object, _device: object) -> object:
        raise ValueError("no such kernel")


def lines(*rows: Measurement) -> dict[tuple[str, str], dict[str, float]]:
    found = power_summary(power_points(rows, Physics(), DEVICE))
    return {(line["family"], line["group"]): line for line in found}


def test_a_copy_worked_by_hand() -> None:
    """0.35 of the limit for a GPU that waits, 0.5 for its memory: 0.85 x 700 W."""
    assert power_points([COPY], Physics(), DEVICE)[0].predicted_w == pytest.approx(0.85 * 700, rel=0.01)
    assert lines(replace(COPY, power_w=2 * 595.0))["power", "all"]["bias"] == pytest.approx(-0.5, abs=0.01)


def test_a_large_gemm_draws_what_the_limit_is_held_at() -> None:
    assert power_points([LARGE], Physics(), DEVICE)[0].predicted_w == pytest.approx(power.HELD_SHARE * 700)


def test_clocks_are_compared_where_the_tensor_cores_set_them() -> None:
    found = lines(replace(LARGE, sm_clock_hz=1.5e9), replace(COPY, sm_clock_hz=1.98e9))
    assert {group for family, group in found if family == "clock"} == {"all", "gemm", "gemm bf16"}
    assert found["clock", "all"]["n"] == 1
    draw = power.draws([point.op for point in power_points([LARGE], Physics(), DEVICE)], gemm_s(), DEVICE)
    clock_hz = float(power.clock(draw, DEVICE)[0]) * DEVICE.boost_clock_hz
    assert found["clock", "all"]["bias"] == pytest.approx(clock_hz / 1.5e9 - 1)


def gemm_s() -> np.ndarray:
    return Physics().price([power_points([LARGE], Physics(), DEVICE)[0].op], DEVICE).seconds


def test_gemms_are_told_apart_by_type_and_from_others() -> None:
    found = lines(LARGE, replace(LARGE, dtype="fp8"), COPY)
    assert [group for family, group in found if family == "power"] == [
        "all", "gemm", "gemm bf16", "gemm fp8", "others",
    ]  # fmt: skip
    assert [found["power", group]["n"] for group in ("all", "gemm", "others")] == [3, 2, 1]


def test_rows_without_power_of_bursts_or_of_others_do_not_count() -> None:
    left_out = [
        replace(LARGE, power_w=None),
        replace(LARGE, mode="burst"),
        replace(LARGE, device="h100-sxm"),
        replace(LARGE, op="all_reduce", ranks=2, bytes=1e9),
    ]
    assert not power_points(left_out, Physics(), DEVICE)
    assert not power_points([LARGE], NoPrice(), DEVICE)  # type: ignore[arg-type]
    assert power_summary([]) == []


def test_no_board_draws_more_than_its_limit() -> None:
    for name in catalog.devices():
        device = catalog.device(name)
        draws = np.linspace(0.1, 4.0, 50)
        watts = power.watts(draws, device)
        assert (watts <= device.power_limit_w).all()
        assert (np.diff(watts) >= 0).all()
