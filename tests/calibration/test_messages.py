"""Learned collectives, on a made-up fabric whose measured times are known to be physics times a factor of the size."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.cost.learned_messages import MessageModel
from calibration.cost.learned_spread import NINETY_PERCENT
from calibration.cost.rates import Floats
from calibration.fit import fit
from calibration.fit_messages import FEWEST_SIZES, Domain, fingerprint, fit_messages, measured
from calibration.profile import Profile, ProfileError, load, save
from calibration.readers import Context, read_file
from calibration.table import Measurement
from hardware import catalog
from tests.calibration.test_learned import DEVICE, STACK, changed
from workloads.ops import Collective, CommunicationOp, Transfer

FIXTURES = Path(__file__).parent / "fixtures"
SWITCH_BYTES = 2.0**20


def physics_s(ops: Sequence[CommunicationOp]) -> Floats:
    """5 us and 100 GB/s, whatever the kind."""
    seconds: Floats = 5e-6 + np.array([op.bytes for op in ops], dtype=np.float64) / 100e9
    return seconds


DOMAIN = Domain(fabric="made-up", gpus=8, seconds=physics_s)


def op(size: float, ranks: int = 2) -> Collective:
    return Collective(op="all_reduce", bytes=size, ranks=ranks)


def rows(sizes: Floats, seed: int = 0, noise: float = 0.02, **changes: object) -> list[Measurement]:
    """20 % slower than physics below 1 MiB, 10 % faster above."""
    factor = np.where(sizes < SWITCH_BYTES, 1.2, 0.9) * np.exp(np.random.default_rng(seed).normal(0, noise, len(sizes)))
    seconds = physics_s([op(size) for size in sizes]) * factor
    shape = Measurement(op="all_reduce", dtype="bf16", device=DEVICE, stack=STACK, ranks=2, ranks_per_node=2)
    return [
        replace(shape, bytes=size, time_s=time_s, **changes)  # type: ignore[arg-type]
        for size, time_s in zip(sizes.tolist(), seconds.tolist(), strict=True)
    ]


def drawn(seed: int, count: int = 200) -> Floats:
    found: Floats = np.exp2(np.random.default_rng(seed).uniform(10, 30, count)).round()
    return found


def fitted(found: Sequence[Measurement]) -> MessageModel:
    model = fit_messages(found, DOMAIN)
    assert model is not None
    return model


@pytest.fixture(scope="module")
def model() -> MessageModel:
    return fitted(rows(drawn(1)))


def factors(model: MessageModel, sizes: Sequence[float], ranks: int = 2) -> list[float]:
    found = model.correction([op(size, ranks) for size in sizes])
    return np.exp(found.trust * found.log).tolist()


def test_both_sides_of_a_switch_are_learned(model: MessageModel) -> None:
    sizes = [2.0**12, 2.0**19, 2.0**21, 2.0**29]
    assert factors(model, sizes) == pytest.approx([1.2, 1.2, 0.9, 0.9], rel=0.03)


def test_noise_makes_no_larger_message_cheaper() -> None:
    noisy = fitted(rows(np.exp2(np.arange(10, 30, 0.1)), noise=0.2))
    ops = [op(2.0**octave) for octave in np.arange(10, 30, 0.25)]
    assert (np.diff(np.log(physics_s(ops)) + noisy.correction(ops).log) > -1e-12).all()


def test_a_single_row_far_off_changes_little(model: MessageModel) -> None:
    wrong = replace(rows(np.array([2.0**25]))[0], time_s=1.0)
    spoilt = fitted([*rows(drawn(1)), wrong])
    assert factors(spoilt, [2.0**25]) == pytest.approx(factors(model, [2.0**25]), rel=0.05)


def test_between_numbers_of_ranks_nothing_is_interpolated() -> None:
    eight = rows(drawn(2), ranks=8, ranks_per_node=8)
    both = fitted([*rows(drawn(1)), *eight])
    assert both.kinds == ("all_reduce/2", "all_reduce/8")
    assert both.correction([op(2.0**25, ranks) for ranks in (2, 4, 8, 16)]).trust.tolist() == [1, 0, 1, 0]


def test_a_message_is_no_collective(model: MessageModel) -> None:
    assert model.correction([Transfer(bytes=2.0**25, stride=1)]).trust.tolist() == [0]
    messages = fitted(rows(drawn(1), op="send_recv"))
    assert messages.correction([Transfer(bytes=2.0**25, stride=3), op(2.0**25)]).trust.tolist() == [1, 0]


def test_every_measured_size_is_trusted_and_none_far_from_them(model: MessageModel) -> None:
    assert model.correction([op(size) for size in drawn(1)]).trust.min() == 1
    assert model.correction([op(size) for size in (1.0, 2.0**7, 2.0**33, 2.0**40)]).trust.max() == 0


def test_the_correction_fades_without_a_jump(model: MessageModel) -> None:
    found = model.correction([op(2.0**octave) for octave in np.arange(28, 36, 0.01)])
    assert np.abs(np.diff(found.trust * found.log)).max() < 0.01


def test_a_gap_is_not_bridged() -> None:
    sizes = drawn(1)
    gap = fitted(rows(sizes[(sizes < 2.0**16) | (sizes > 2.0**26)]))
    assert gap.correction([op(size) for size in (2.0**15, 2.0**21, 2.0**27)]).trust.tolist() == [1, 0, 1]


def test_only_bursts_within_one_domain_count() -> None:
    row = rows(np.array([2.0**20]))[0]
    left_out = [
        replace(row, mode="sustained"),
        replace(row, time_s=None, notes="larger than a third of the memory"),
        replace(row, ranks=16, ranks_per_node=8),
        replace(row, ranks=16, ranks_per_node=None),
        replace(row, op="overlap", kernel="all_reduce beside gemm"),
        replace(row, op="gelu", rows=4096, cols=4096, direction="fwd"),
    ]
    kept = [row, replace(row, ranks=8, ranks_per_node=None)]
    assert list(measured([*kept, *left_out], DOMAIN)) == [op(2.0**20), op(2.0**20, 8)]


def test_repeated_sizes_are_one_sample_with_their_median() -> None:
    row = rows(np.array([2.0**20]))[0]
    assert list(measured([replace(row, time_s=second) for second in (1.0, 2.0, 9.0)], DOMAIN).values()) == [2.0]


def test_few_sizes_are_no_curve() -> None:
    assert fit_messages(rows(drawn(1, FEWEST_SIZES - 1)), DOMAIN) is None
    assert fit_messages(rows(drawn(1, FEWEST_SIZES)), DOMAIN) is not None


def test_the_ninety_percent_interval_holds_ninety_percent(model: MessageModel) -> None:
    """Of sizes that the fit has not seen."""
    sizes = drawn(7, 1000)
    found = model.correction([op(size) for size in sizes])
    times = np.array([row.time_s for row in rows(sizes, seed=8)])
    deviation = np.abs(np.log(times / physics_s([op(size) for size in sizes])) - found.log)
    assert 0.85 <= (deviation <= NINETY_PERCENT * found.spread).mean() <= 0.95


def test_other_physics_has_another_fingerprint(model: MessageModel) -> None:
    slower = DOMAIN._replace(seconds=lambda ops: 1.01 * physics_s(ops))
    assert fingerprint(DOMAIN, model.kinds) == model.base_sha256 != fingerprint(slower, model.kinds)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return fit(rows(drawn(1)), catalog.device(DEVICE), domain=DOMAIN)


def test_collectives_alone_are_a_profile(profile: Profile) -> None:
    assert not profile.families
    assert profile.messages is not None
    assert profile.stack == STACK


def test_without_a_domain_there_is_nothing_to_fit() -> None:
    with pytest.raises(ValueError, match="nothing to fit"):
        fit(rows(drawn(1)), catalog.device(DEVICE))


def test_the_curves_survive_the_disk_and_are_the_same_bytes_twice(profile: Profile, tmp_path: Path) -> None:
    paths = tmp_path / "first.npz", tmp_path / "second.npz"
    save(profile, paths[0])
    save(fit(rows(drawn(1)), catalog.device(DEVICE), domain=DOMAIN), paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    before, after = profile.messages, load(paths[0]).messages
    assert before is not None
    assert after is not None
    ops = [op(size) for size in drawn(3)]
    for left, right in zip(before.correction(ops), after.correction(ops), strict=True):
        assert left.tolist() == right.tolist()
    assert (after.fabric, after.kinds, after.report) == (before.fabric, before.kinds, before.report)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("messages.size.npy", lambda data: data[:-8] + np.array([0.0]).tobytes()),
        ("messages.curve.npy", lambda data: data[:-4] + np.array([5], np.int32).tobytes()),
        ("messages.log.npy", lambda data: data[:-8] + np.array([np.inf]).tobytes()),
    ],
)
def test_broken_curves_are_refused(profile: Profile, tmp_path: Path, name: str, broken: object) -> None:
    path = tmp_path / "profile.npz"
    save(profile, path)
    with pytest.raises(ProfileError, match="messages"):
        load(changed(path, name, broken))  # type: ignore[arg-type]


def test_what_nccl_tests_wrote_is_fitted(tmp_path: Path) -> None:
    """A sweep of doublings on four ranks, 30 % slower than physics."""
    head, _, rest = (FIXTURES / "nccl-tests-old-all_gather.log").read_text("utf-8").partition("        1024 ")
    log = tmp_path / "all_gather.log"
    log.write_text(head + "".join(map(nccl_line, range(10, 31))) + rest[rest.index("# Out of bounds") :], "utf-8")
    found = read_file(log, context=Context(device=DEVICE, stack="nccl-2.28")).records
    swept = fitted(found)
    assert swept.kinds == ("all_gather/4",)
    ops = [Collective(op="all_gather", bytes=2.0**octave, ranks=4) for octave in (12, 20.5, 28)]
    assert np.exp(swept.correction(ops).log).tolist() == pytest.approx([1.3] * 3, rel=0.01)
    assert swept.correction(ops).trust.tolist() == [1, 1, 1]


def nccl_line(octave: int) -> str:
    """Of 2**octave bytes, out of place and in place."""
    size = 2.0**octave
    second = 1.3 * float(physics_s([op(size)])[0])
    rate = size / second / 1e9
    figures = f"{second * 1e6:.4f} {rate:.4f} {rate * 0.75:.4f} N/A"
    return f" {size:.0f} {size / 16:.0f} float {figures} {figures}\n"
