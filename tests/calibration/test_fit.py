"""The fit: the same bytes twice, folds by shape, nothing of scikit-learn when predicting."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.cost.learned import Learned
from calibration.cost.physics import Physics
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


def long_runs(rows: list[Measurement], device: Device, draw: float) -> list[Measurement]:
    """The large ones on a machine whose kernels draw `draw` times what the description says."""
    large = [row for row in rows if min(row.m or 0, row.n or 0, row.k or 0) > 1024]
    ops = [sample.op for sample in samples(large, [device])]
    slow, fast = (Physics(sustained=each, draw=draw).price(ops, device).seconds for each in (True, False))
    times = [(row.time_s or 0.0) * stretch for row, stretch in zip(large, slow / fast, strict=True)]
    return [replace(row, mode="sustained", time_s=float(time_s)) for row, time_s in zip(large, times, strict=True)]


@pytest.mark.parametrize("draw", [0.8, 1.0, 1.6])
def test_long_runs_say_what_the_kernels_of_a_machine_draw(device: Device, draw: float) -> None:
    rows = gemm_rows(device, 300, seed=3)
    profile = fit([*rows, *long_runs(rows, device, draw)], device, grids=QUICK)
    assert profile.draw == pytest.approx(draw, rel=0.05)
    assert profile.families["gemm"].load[0] == pytest.approx(1, abs=0.2)
    assert Learned(profile=profile).draw_on(device) == profile.draw
    assert Learned(profile=profile).draw_on(catalog.device("h100-sxm")) == 1


def test_without_long_runs_a_machine_is_as_described(device: Device) -> None:
    profile = fit(gemm_rows(device, 120, seed=3), device, grids=QUICK)
    assert (profile.draw, profile.families["gemm"].load[0]) == (1, 1)


def test_shapes_that_only_long_runs_measured_are_learned_from_them(device: Device) -> None:
    """Large GEMMs, of n above 1024, are 10 % faster than physics; nothing but long runs shows them."""
    rows = gemm_rows(device, 300, seed=3)
    profile = fit(long_runs(rows, device, 1.0), device, grids=QUICK)
    op = Gemm(m=4096, n=4096, k=4096, dtype="bf16")
    assert Learned(profile=profile).coverage([op], device)[0]
    price_s = {long: Learned(profile=profile, sustained=long).price([op], device).seconds[0] for long in (False, True)}
    physics_s = Physics(sustained=True).price([op], device).seconds[0]
    assert price_s[True] / physics_s == pytest.approx(0.9, rel=0.04)
    assert price_s[False] < price_s[True]


def test_a_loop_of_unknown_clock_teaches_nothing(device: Device) -> None:
    rows = [replace(row, mode="loop") for row in gemm_rows(device, 60, seed=3)]
    with pytest.raises(ValueError, match="nothing to fit"):
        fit(rows, device, grids=QUICK)


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
