"""The fit: the same bytes twice, folds by shape, nothing of scikit-learn when predicting."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.cost.learned import Learned
from calibration.fit import fingerprint, fit, fit_relatives, samples
from calibration.profile import FOLDER, load, save
from calibration.table import Measurement
from hardware import catalog
from hardware.types import Device
from tests.calibration.test_learned import DEVICE, QUICK, STACK, gemm_rows
from workloads.ops import Gemm


@pytest.fixture(scope="module")
def device() -> Device:
    return catalog.device(DEVICE)


def mixed_rows(device: Device) -> list[Measurement]:
    random = np.random.default_rng(5)
    common = {"dtype": "bf16", "device": DEVICE, "stack": STACK}
    attention = [
        Measurement(
            op="attention", batch=1, seq_q=int(seq), seq_kv=int(seq), heads=8, kv_heads=8, head_dim=128, kernel=kernel,
            direction="fwd", causal=True, time_s=float(seq) ** 2 * 1e-12 + 1e-5, **common,
        )
        for seq in np.exp2(random.uniform(9, 14, 20))
        for kernel in ("flash2", "cudnn")
    ]  # fmt: skip
    pointwise = [
        Measurement(op="gelu", rows=int(rows), cols=4096, time_s=float(rows) * 4e-9 + 5e-6, **common)
        for rows in np.exp2(random.uniform(4, 15, 20))
    ]
    return [*gemm_rows(device, 60, seed=3), *attention, *pointwise]


def test_a_fit_gives_the_same_bytes_twice(device: Device, tmp_path: Path) -> None:
    rows = mixed_rows(device)
    paths = tmp_path / "first.npz", tmp_path / "second.npz"
    for path in paths:
        save(fit(rows, device, grids=QUICK), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_every_family_with_enough_rows_is_fitted(device: Device) -> None:
    heard: list[str] = []
    profile = fit(mixed_rows(device), device, heard.append, QUICK)
    assert heard == list(profile.families) == ["gemm", "attention", "pointwise"]
    assert profile.families["attention"].groups == ("cudnn/fwd", "flash2/fwd")
    assert profile.stack == STACK


def test_too_few_rows_are_said(device: Device) -> None:
    with pytest.raises(ValueError, match=r"h200-sxm: fewer than 12 burst rows"):
        fit(gemm_rows(device, 5, seed=0), device)


def test_repeated_shapes_are_one_sample_with_their_median(device: Device) -> None:
    row = gemm_rows(device, 1, seed=0)[0]
    found = samples([replace(row, time_s=second) for second in (1.0, 2.0, 9.0)], [device])
    assert [sample.seconds for sample in found] == [2.0]


def test_only_priced_burst_rows_of_the_device_count(device: Device) -> None:
    row = gemm_rows(device, 1, seed=0)[0]
    left_out = [
        replace(row, mode="sustained"),
        replace(row, device="h100-sxm"),
        replace(row, time_s=None, notes="out of memory"),
        replace(row, dtype="nvfp4"),
        replace(row, op="host"),
    ]
    assert [sample.op for sample in samples([row, *left_out], [device])] == [
        Gemm(m=row.m or 0, n=row.n or 0, k=row.k or 0, dtype="bf16")
    ]


def test_long_runs_say_how_much_of_the_slowdown_is_real(device: Device) -> None:
    """Measured: half of physics' slowdown, in logarithms."""
    profile = fit(rows := gemm_rows(device, 120, seed=3), device, grids=QUICK)
    large = [row for row in rows if min(row.m or 0, row.n or 0, row.k or 0) > 1024]
    ops = [sample.op for sample in samples(large, [device])]
    burst_s, slow_s = (Learned(profile=profile, sustained=each).price(ops, device).seconds for each in (False, True))
    seconds = np.sqrt(burst_s * slow_s).tolist()
    long_runs = [replace(row, mode="sustained", time_s=time_s) for row, time_s in zip(large, seconds, strict=True)]
    again = fit([*rows, *long_runs], device, grids=QUICK)
    assert 0.45 < again.families["gemm"].load[0] < 0.75
    assert profile.families["gemm"].load[0] == 1


def test_relatives_are_fitted_together(device: Device) -> None:
    relative = catalog.device("h100-sxm")
    rows = gemm_rows(device, 60, seed=3)
    profile = fit_relatives(
        [*rows, *(replace(row, device="h100-sxm") for row in rows)], [device, relative], grids=QUICK
    )
    assert profile.devices == (DEVICE, "h100-sxm")


def test_predicting_does_not_import_the_regressor() -> None:
    code = "import sys, calibration.cost.learned, calibration.profile; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*/profile.npz")), ids=lambda path: str(path.parent.name))
def test_a_profile_that_ships_was_fitted_on_this_physics(path: Path) -> None:
    """If this fails, physics or its data changed: fit the profile again from the measurements beside it."""
    profile = load(path)
    fitted_on = profile.provenance["base_sha256"]
    assert {name: fingerprint(catalog.device(name)) for name in profile.devices} == fitted_on
