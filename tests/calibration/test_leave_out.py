"""Devices priced from measurements of others."""

from dataclasses import replace

import pytest

from calibration.leave_out import leave_out_lines
from calibration.table import Measurement
from hardware import catalog
from tests.calibration.test_learned import DEVICE, QUICK, gemm_rows

RELATIVE = "h100-sxm"
DEVICES = {name: catalog.device(name) for name in (DEVICE, RELATIVE)}


def both() -> list[Measurement]:
    """Each 30 % slower than its physics where n is small, 10 % faster elsewhere."""
    relative = [replace(row, device=RELATIVE) for row in gemm_rows(DEVICES[RELATIVE], 300, seed=4)]
    return [*gemm_rows(DEVICES[DEVICE], 300, seed=3), *relative]


def test_what_one_device_taught_holds_on_its_relative() -> None:
    heard: list[str] = []
    lines = leave_out_lines(both(), DEVICES, heard.append, QUICK)
    assert heard == [line["device"] for line in lines] == [DEVICE, RELATIVE]
    assert all((line["family"], line["group"], line["n"]) == ("gemm", "bf16", 300) for line in lines)
    assert all(line["mean"] < 0.6 * line["physics_mean"] for line in lines)


def test_nothing_of_the_device_left_out_is_used() -> None:
    """Its rows a hundred times slower: the prices of it stay as they were."""
    spoilt = [replace(row, time_s=100 * (row.time_s or 0)) if row.device == DEVICE else row for row in both()]
    line = leave_out_lines(spoilt, DEVICES, grids=QUICK)[0]
    assert line["device"] == DEVICE
    assert line["bias"] == pytest.approx(-0.99, abs=0.005)


def test_one_device_is_not_enough() -> None:
    with pytest.raises(ValueError, match="at least two devices are needed"):
        leave_out_lines(gemm_rows(DEVICES[DEVICE], 20, seed=3), {DEVICE: DEVICES[DEVICE]})
