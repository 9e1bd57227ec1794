"""Learned prices, on a made-up device whose kernels are known to be physics times a factor of the shape."""

import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.cost.learned import Learned
from calibration.cost.learned_boosting import Settings
from calibration.cost.learned_columns import COLUMN_NAMES
from calibration.cost.learned_domain import Domain
from calibration.cost.learned_spread import NINETY_PERCENT, Spread
from calibration.cost.learned_trees import LEAVES, NODES, Trees
from calibration.cost.physics import Physics
from calibration.fit import _shared, fit
from calibration.profile import HEADER, Profile, ProfileError, load, profile_for, relative_for, save
from calibration.table import Measurement
from hardware import catalog
from hardware.types import Device
from workloads.ops import Attention, ComputeOp, Gemm, Pointwise

DEVICE, STACK = "h200-sxm", "torch-2.11-cu130"
BURST = Physics(sustained=False)
QUICK = dict.fromkeys(COLUMN_NAMES, (Settings(trees=80, rate=0.15, columns=0.3, rows=0.7, least_rows=4),))


@pytest.fixture(scope="module")
def device() -> Device:
    return catalog.device(DEVICE)


def gemm_rows(device: Device, count: int, seed: int, noise: float = 0.02) -> list[Measurement]:
    """Kernels 30 % slower than physics where n is small, 10 % faster elsewhere."""
    random = np.random.default_rng(seed)
    sizes = np.exp2(random.uniform(7, 13, (count, 3))).astype(int) // 8 * 8
    ops = [Gemm(m=int(m), n=int(n), k=int(k), dtype="bf16") for m, n, k in sizes]
    factor = np.where(sizes[:, 1] < 1024, 1.3, 0.9) * np.exp(random.normal(0, noise, count))
    seconds = BURST.price(ops, device).seconds * factor
    return [
        Measurement(op="gemm", dtype="bf16", device=DEVICE, stack=STACK, m=op.m, n=op.n, k=op.k, time_s=time_s)
        for op, time_s in zip(ops, seconds.tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def profile(device: Device) -> Profile:
    return fit(gemm_rows(device, 800, seed=1), device, grids=QUICK)


@pytest.fixture
def archive(profile: Profile, tmp_path: Path) -> Path:
    path = tmp_path / DEVICE / STACK / "profile.npz"
    save(profile, path)
    return path


def gemm(m: int, n: int, k: int, **changes: object) -> Gemm:
    return Gemm(**{"m": m, "n": n, "k": k, "dtype": "bf16", **changes})  # type: ignore[arg-type]


def burst_s(profile: Profile, device: Device, op: ComputeOp) -> float:
    return float(Learned(profile=profile, sustained=False).price([op], device).seconds[0])


def physics_s(device: Device, op: ComputeOp, model: Physics = BURST) -> float:
    return float(model.price([op], device).seconds[0])


def test_a_tree_by_hand() -> None:
    """x0 <= 1: 10; else x1 <= 2: 20; else 30. Leaves from left: bits 1, 2, 4."""
    feature, rules_out = np.zeros((1, NODES), np.uint8), np.zeros((1, NODES), np.uint16)
    threshold, value = np.full((1, NODES), np.inf, np.float32), np.zeros((1, LEAVES))
    feature[0, :2], threshold[0, :2], rules_out[0, :2], value[0, :3] = (0, 1), (1, 2), (0b001, 0b010), (10, 20, 30)
    trees = Trees(start=0.5, feature=feature, threshold=threshold, rules_out=rules_out, value=value)
    columns = np.array([[1, 1, 1.1, 1.1], [0, 9, 2, 2.1]], dtype=np.float32)
    assert trees.predict(columns).tolist() == [10.5, 10.5, 20.5, 30.5]


def test_the_correction_is_learned(profile: Profile, device: Device) -> None:
    for op, factor in ((gemm(3000, 400, 3000), 1.3), (gemm(3000, 3000, 3000), 0.9)):
        assert burst_s(profile, device, op) / physics_s(device, op) == pytest.approx(factor, rel=0.05)


def test_a_bulk_price_is_the_price_of_each(profile: Profile, device: Device) -> None:
    ops: list[ComputeOp] = [
        gemm(3000, 400, 3000),
        Pointwise(op="gelu", rows=4096, cols=4096, dtype="bf16"),
        Attention(batch=1, seq_q=2048, seq_kv=2048, heads=8, kv_heads=8, head_dim=128, dtype="bf16"),
        gemm(512, 4096, 4096),
    ]
    bulk = Learned(profile=profile, sustained=False).price(ops, device).seconds
    assert bulk.tolist() == pytest.approx([burst_s(profile, device, op) for op in ops], rel=1e-12)


@pytest.mark.parametrize(
    "op",
    [
        gemm(1, 1, 1),  # rows of no multiple of 16 bytes
        gemm(1024, 1024, 1024, dtype="tf32", out_dtype="fp32"),
        gemm(1024, 1024, 1024, dtype="fp8"),
        Pointwise(op="gelu", rows=4096, cols=4096, dtype="bf16"),
    ],
)
def test_of_kernels_that_were_not_measured_physics_stands_alone(
    profile: Profile, device: Device, op: ComputeOp
) -> None:
    assert burst_s(profile, device, op) == physics_s(device, op)
    assert not Learned(profile=profile).coverage([op], device)[0]


def test_what_was_measured_in_bf16_holds_in_fp16(profile: Profile, device: Device) -> None:
    """Where fp16 was not: tensor cores multiply both at one rate."""
    bf16 = gemm(3000, 400, 3000)
    fp16 = replace(bf16, dtype="fp16", out_dtype="fp16")
    assert burst_s(profile, device, fp16) == pytest.approx(burst_s(profile, device, bf16), rel=1e-9)
    assert Learned(profile=profile).coverage([fp16], device)[0]


@pytest.mark.parametrize("op", [gemm(8, 8, 8), gemm(2**17, 2**17, 2**17)])
def test_outside_the_measured_sizes_what_all_of_them_share_is_left(
    profile: Profile, device: Device, op: ComputeOp
) -> None:
    level = profile.families["gemm"].level[0]
    assert abs(level) < 0.03  # half of the shapes are 10 % faster, half 30 % slower: not much in common
    assert burst_s(profile, device, op) == pytest.approx(physics_s(device, op) * np.exp(level))
    assert not Learned(profile=profile).coverage([op], device)[0]


def test_a_library_that_is_slower_throughout_is_so_at_other_sizes_too(device: Device) -> None:
    rows = [
        replace(row, time_s=1.5 * (row.time_s or 0)) for row in gemm_rows(device, 100, seed=1) if (row.n or 0) > 1024
    ]
    slower = fit(rows, device, grids=QUICK)
    op = gemm(2**17, 2**17, 2**17)
    assert burst_s(slower, device, op) / physics_s(device, op) == pytest.approx(1.5 * 0.9, rel=0.02)


def test_by_hand_the_level_of_a_group() -> None:
    """Three rows of mean 0.3, variance 0.02 / 3, each with a doubt of 0.3: 0.3^3 / (0.3^2 + 0.02 / 3 + 0.3^2 / 3)."""
    assert _shared(np.array([0.2, 0.3, 0.4])) == pytest.approx(0.027 / (0.09 + 0.02 / 3 + 0.03))


def test_inside_it_an_op_counts_as_covered(profile: Profile, device: Device) -> None:
    ops = [gemm(3000, 400, 3000), gemm(1, 1, 1)]
    assert Learned(profile=profile).coverage(ops, device).tolist() == [True, False]
    assert not Learned(profile=profile).coverage(ops, catalog.device("h100-sxm")).any()


def test_the_correction_fades_without_a_jump(profile: Profile, device: Device) -> None:
    ops = [gemm(round(2 ** (9 + step / 50)), 4096, 4096) for step in range(400)]
    learned = Learned(profile=profile, sustained=False).price(ops, device)
    ratio = np.log(learned.seconds / BURST.price(ops, device).seconds)
    assert np.abs(np.diff(ratio)).max() < 0.03
    assert ratio[-1] == pytest.approx(profile.families["gemm"].level[0])
    assert learned.spread[-1] == device.architecture.gemm_spread


def test_a_long_run_slows_the_burst_as_it_slows_physics(profile: Profile, device: Device) -> None:
    op = gemm(4000, 4000, 4000)
    for words in ({"sustained": True}, {"clock": 0.8}):
        ratio = physics_s(device, op, Physics(**words)) / physics_s(device, op)  # type: ignore[arg-type]
        slow_s = Learned(profile=profile, **words).price([op], device).seconds[0]  # type: ignore[arg-type]
        assert ratio > 1.05
        assert slow_s == pytest.approx(ratio * burst_s(profile, device, op))


def test_outside_the_domain_a_long_run_is_that_of_physics(profile: Profile, device: Device) -> None:
    op = gemm(2**17, 2**17, 2**17)
    sustained_s = Learned(profile=profile, sustained=True).price([op], device).seconds[0]
    level = profile.families["gemm"].level[0]
    assert sustained_s == pytest.approx(physics_s(device, op, Physics(sustained=True)) * np.exp(level))


def test_no_gemm_beats_the_tensor_peak(profile: Profile, device: Device) -> None:
    fast = replace(profile.families["gemm"], limits=np.array([[-3.0, -3.0]]))
    ops = [gemm(4000, 4000, 4000), gemm(300, 300, 300)]
    prices = Learned(profile=replace(profile, families={"gemm": fast}), sustained=False).price(ops, device)
    assert (prices.seconds >= [op.flops / device.tensor_flops_per_s["bf16"] for op in ops]).all()


def test_a_relative_is_no_surer_than_physics(profile: Profile) -> None:
    relative = catalog.device("h100-sxm")
    prices = Learned(profile=profile).price([gemm(3000, 400, 3000)], relative)
    assert prices.spread[0] >= relative.architecture.gemm_spread


def test_the_ninety_percent_interval_holds_ninety_percent(profile: Profile, device: Device) -> None:
    rows = gemm_rows(device, 1000, seed=2)
    ops = [gemm(row.m or 1, row.n or 1, row.k or 1) for row in rows]
    prices = Learned(profile=profile, sustained=False).price(ops, device)
    deviation = np.abs(np.log([row.time_s or 1 for row in rows] / prices.seconds))
    assert 0.85 <= (deviation <= NINETY_PERCENT * prices.spread).mean() <= 0.95


def test_spread_grows_where_residuals_do() -> None:
    random = np.random.default_rng(0)
    size, groups = np.linspace(0, 10, 1000), np.repeat([0, 1], 500)
    spread = Spread.of(random.normal(0, 0.01 * (1 + size)), size, groups, 2)
    assert spread.at(np.array([9.0]), np.array([1])) > 3 * spread.at(np.array([1.0]), np.array([0]))


def test_trust_is_one_at_every_measured_shape() -> None:
    places = np.random.default_rng(0).uniform(0, 10, (500, 4))
    groups = np.arange(500) % 3
    domain = Domain.of(places, groups, 3)
    assert domain.trust(places, groups).min() > 1 - 1e-9
    assert (domain.trust(places + 20, groups) == 0).all()
    assert (domain.trust(places, np.full(500, -1)) == 0).all()


def test_a_profile_survives_the_disk(archive: Path, profile: Profile, device: Device) -> None:
    ops = [gemm(m, n, 1000) for m in (130, 1000, 8000) for n in (130, 1000, 8000)]
    before, after = (Learned(profile=each).price(ops, device) for each in (profile, load(archive)))
    assert before.seconds.tolist() == after.seconds.tolist()
    assert before.spread.tolist() == after.spread.tolist()


def test_the_header_can_be_read_by_eye(archive: Path) -> None:
    with zipfile.ZipFile(archive) as members:
        text = members.read(HEADER).decode()
    assert '"device": "h200-sxm"' in text
    assert "measurements_sha256" in text


def test_loading_takes_milliseconds(archive: Path) -> None:
    started = time.perf_counter()
    load(archive)
    assert time.perf_counter() - started < 0.05


def test_a_profile_is_found_by_device_and_stack(archive: Path, profile: Profile) -> None:
    folder = archive.parents[2]
    save(replace(profile, stack="torch-2.9-cu128"), folder / DEVICE / "torch-2.9-cu128" / "profile.npz")
    newest = profile_for(DEVICE, folder=folder)
    assert newest is not None
    assert newest.stack == STACK
    assert profile_for(DEVICE, "torch-2.9-cu128", folder) is not None
    assert profile_for(DEVICE, "torch-1.0", folder) is None
    assert profile_for("h100-sxm", folder=folder) is None


def test_a_relative_borrows_the_profile_of_its_architecture(archive: Path) -> None:
    folder = archive.parents[2]
    borrowed = relative_for(catalog.device("h100-sxm"), folder)
    assert borrowed is not None
    assert borrowed.device == DEVICE
    assert relative_for(catalog.device("a100-sxm-80g"), folder) is None


def changed(archive: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """The same archive with one member changed."""
    with zipfile.ZipFile(archive) as old:
        members = {each: old.read(each) for each in old.namelist()}
    path = archive.with_name("changed.npz")
    with zipfile.ZipFile(path, "w") as new:
        for each, data in members.items():
            new.writestr(each, change(data) if each == name else data)
    return path


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        (HEADER, lambda data: data[:-9], "no profile"),
        (HEADER, lambda data: data.replace(b'"format": 2', b'"format": 9'), "format 9, not 2"),
        (HEADER, lambda data: data.replace(b"log_m", b"log_q", 1), "other features"),
        (HEADER, lambda data: data.replace(b'"draw": 1.0', b'"draw": 9.0'), "draw 9.0, not a number from 0.5 to 3"),
        (HEADER, lambda data: data.replace(b'"level": [', b'"level": [1, '), r"gemm\.level: should be a number"),
        ("gemm.feature.npy", lambda data: data[:-1] + b"\xff", "feature 255"),
        ("gemm.value.npy", lambda data: data[:-8] + np.array([np.nan]).tobytes(), "no numbers"),
        ("gemm.value.npy", lambda data: data[:-8], "fit it again"),
        ("gemm.curve.npy", lambda data: data.replace(b"<f8", b"|O8"), "fit it again"),
    ],
)
def test_a_broken_profile_is_refused(archive: Path, name: str, change: Callable[[bytes], bytes], fault: str) -> None:
    path = changed(archive, name, change)
    with pytest.raises(ProfileError, match=fault) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.npz"
    path.write_bytes(b"PK but not really")
    with pytest.raises(ProfileError, match="cannot be read as a profile"):
        load(path)
