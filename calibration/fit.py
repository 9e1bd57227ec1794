"""Learns the correction over physics from measurements: curves of kernels first, then trees of the shape.

Shapes, never rows, are split into folds, the settings with the least
error on unseen folds are used, and those folds' errors become the spread. Same rows, same profile, to the byte.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from calibration import fit_messages as messages
from calibration.cost.learned import Learned
from calibration.cost.learned_boosting import TREES, Settings
from calibration.cost.learned_columns import COLUMN_NAMES
from calibration.cost.learned_domain import Domain
from calibration.cost.learned_family import FamilyModel
from calibration.cost.learned_features import coordinates, family_of, group_of
from calibration.cost.learned_kriging import Covariance
from calibration.cost.learned_spread import Spread, errors_on
from calibration.cost.learned_training import Sample, Training, by_device, learned, training_rows
from calibration.cost.physics import Physics
from calibration.cost.rates import Floats
from calibration.fit_draw import FEWEST_ROWS, as_bursts, measured_draw, unlike
from calibration.profile import Profile
from calibration.table import Measurement, op_of
from hardware.types import Device
from workloads.ops import DTYPE_BYTES, Attention, ComputeOp, Gemm, Pointwise, traffic_table

LIMIT_MARGIN = 0.05
# Tried in turn for each family. Kernels bound by memory are many, with few rows each: trees did a third worse on them.
Grids = Mapping[str, Sequence[Settings | Covariance]]
GRIDS: Grids = {
    "gemm": TREES,
    "attention": TREES,
    "pointwise": (
        Covariance(shared=0.1, level=0.05, own=0.3, reach=1.0, stretch=2.0, noise=0.005),
        Covariance(shared=0.1, level=0.05, own=0.3, reach=1.3, stretch=1.5, noise=0.003),
    ),
}
BURST, SUSTAINED = "burst", "sustained"
MOST_LOAD = 2.0
LEVELLED = ("gemm", "attention")
LEVEL_DOUBT = 0.3  # standard deviation of a single row around the level of its group
LOAD_RIDGE = 0.2  # of squared log slowdown: about four long runs of large GEMMs

Done = Callable[[str], None]


def fit(
    rows: Sequence[Measurement],
    device: Device,
    done: Done | None = None,
    grids: Grids = GRIDS,
    domain: messages.Domain | None = None,
) -> Profile:
    """The profile of one device from its measurements; `done` hears of each family that is finished.

    `grids` says which settings are tried for each family, `domain` where its collectives ran: without one, they are
    left out.

    Raises ValueError where neither a family nor a collective has enough rows.
    """
    own = [row for row in rows if row.device in (None, "", device.name)]
    found = messages.fit_messages(own, domain) if domain else None
    profile = _profile(rows, [device], done, grids)
    if not profile.families and not found:
        raise _too_few(profile)
    if found and done:
        done("collective")
    return replace(profile, messages=found)


def fit_relatives(
    rows: Sequence[Measurement], devices: Sequence[Device], done: Done | None = None, grids: Grids = GRIDS
) -> Profile:
    """One profile from the measurements of several devices, for others of their kind: of computation alone.

    Raises ValueError where no family has enough rows.
    """
    profile = _profile(rows, devices, done, grids)
    if not profile.families:
        raise _too_few(profile)
    return profile


def _too_few(profile: Profile) -> ValueError:
    names = ", ".join(profile.devices)
    return ValueError(f"{names}: fewer than {FEWEST_ROWS} {BURST} rows, or long runs, of every family; nothing to fit")


def _profile(rows: Sequence[Measurement], devices: Sequence[Device], done: Done | None, grids: Grids) -> Profile:
    bursts, long_runs = samples(rows, devices), samples(rows, devices, SUSTAINED)
    draw, found = 1.0, bursts
    if len(devices) == 1:  # several machines have no one draw
        draw = measured_draw(bursts, long_runs, grids["gemm"][0])
        found = [*bursts, *as_bursts(unlike(long_runs, bursts), draw)]
    families: dict[str, FamilyModel] = {}
    for family in COLUMN_NAMES:
        members = [sample for sample in found if family_of(sample.op) == family]
        if len(members) >= FEWEST_ROWS:
            families[family] = _family(family, members, grids[family])
            if done:
                done(family)
    names = tuple(device.name for device in devices)
    counted = Counter(row.stack for row in rows if row.device in names)
    stacks = sorted(counted)
    profile = Profile(
        device=names[0],
        stack=max(stacks, key=counted.__getitem__, default=""),
        devices=names,
        families=families,
        provenance=_provenance(found, stacks, devices),
        draw=draw,
    )
    return _loaded(profile, long_runs)


def samples(rows: Sequence[Measurement], devices: Sequence[Device], mode: str = BURST) -> list[Sample]:
    """Measurements of ops on these devices in one mode, a median for each different op, in order of the table."""
    known = {device.name: device for device in devices}
    times: dict[tuple[str, ComputeOp], list[float]] = {}
    for row in rows:
        if row.device in known and row.mode == mode and row.time_s:
            op = op_of(row)
            if isinstance(op, Gemm | Attention | Pointwise):
                times.setdefault((row.device, op), []).append(row.time_s)
    found = [Sample(op, known[name], float(np.median(seconds))) for (name, op), seconds in times.items()]
    unpriced = _unpriced(found)
    return [sample for sample in found if _kind(sample) not in unpriced]


def _kind(sample: Sample) -> tuple[str, str, str, str]:
    """Ops that physics prices, or does not, together."""
    return sample.device.name, family_of(sample.op), sample.op.dtype, group_of(sample.op)


def _unpriced(found: Sequence[Sample]) -> set[tuple[str, str, str, str]]:
    """Kinds of which physics does not know the data type or the kernel."""
    examples, unpriced = {_kind(sample): sample for sample in found}, set()
    for kind, sample in examples.items():
        try:
            Physics(sustained=False).price([sample.op], sample.device)
        except ValueError:
            unpriced.add(kind)
    return unpriced


def _family(family: str, members: Sequence[Sample], grid: Sequence[Settings | Covariance]) -> FamilyModel:
    ops = [sample.op for sample in members]
    groups = tuple(sorted({group_of(op) for op in ops}))
    training = training_rows(family, members, groups)
    settings, unseen, curve, shapes = learned(training, len(groups), grid)
    residuals = training.target - unseen
    size = np.log2(training.base_s)
    spread = Spread.of(residuals, size, training.groups, len(groups))
    report = {
        "settings": asdict(settings),
        "unseen": errors_on(residuals, spread.at(size, training.groups), training.groups, groups),
    }
    return FamilyModel(
        family=family,
        features=COLUMN_NAMES[family],
        groups=groups,
        curve=curve,
        limits=_limits(training, len(groups)),
        shapes=shapes,
        domain=Domain.of(coordinates(family, ops), training.groups, len(groups)),
        spread=spread,
        load=np.ones(len(groups)),
        level=_level(family, training, len(groups)),
        report=report,
    )


def _loaded(profile: Profile, found: Sequence[Sample]) -> Profile:
    """With the exponents of the slowdown in long runs: first the family's, then each group's drawn towards it."""
    families = dict(profile.families)
    for family, model in families.items():
        members = [sample for sample in found if family_of(sample.op) == family]
        predicted, measured = _slowdowns(profile, members)
        groups = model.members([sample.op for sample in members])
        common = _exponent(predicted, measured, 1.0)
        load = [
            _exponent(predicted[groups == group], measured[groups == group], common)
            for group in range(len(model.groups))
        ]
        families[family] = replace(model, load=np.array(load))
    return replace(profile, families=families)


def _slowdowns(profile: Profile, found: Sequence[Sample]) -> tuple[Floats, Floats]:
    """log(long run / burst) of each sample: as physics says it, and as measured against the learned burst."""
    slow, burst = (_prices(profile, found, sustained) for sustained in (True, False))
    return np.log(slow / burst), np.log(np.array([sample.seconds for sample in found]) / burst)


def _prices(profile: Profile, found: Sequence[Sample], sustained: bool) -> Floats:
    model, seconds = Learned(profile=profile, sustained=sustained), np.empty(len(found))
    for device, rows in by_device(found):
        seconds[rows] = model.price([found[row].op for row in rows], device).seconds
    return seconds


def _exponent(predicted: Floats, measured: Floats, towards: float) -> float:
    exponent = (float(predicted @ measured) + LOAD_RIDGE * towards) / (float(predicted @ predicted) + LOAD_RIDGE)
    return min(max(exponent, 0.0), MOST_LOAD)


def _level(family: str, training: Training, count: int) -> Floats:
    """Of each group, what all its shapes share: a library or a machine that is slower throughout.

    m times m^2 / (m^2 + s^2), with the mean m of the rows and their variance s^2: where rows of both signs scatter,
    it says nothing. Kernels bound by memory have none: their small sizes are mostly the start of a kernel, which says
    nothing of the large ones (docs/models/learned-prices.md#domain).
    """
    return np.array([_shared(rows) if family in LEVELLED else 0.0 for rows in training.targets(count)])


def _shared(rows: Floats) -> float:
    middle = float(rows.mean())
    doubt = float(np.var(rows)) + LEVEL_DOUBT**2 / len(rows)
    return middle**3 / (middle**2 + doubt)


def _limits(training: Training, count: int) -> Floats:
    return np.array([(rows.min() - LIMIT_MARGIN, rows.max() + LIMIT_MARGIN) for rows in training.targets(count)])


def fingerprint(device: Device) -> str:
    """Of physics on a device: a profile corrects the physics that it was fitted on, and no other."""
    prices = Physics(sustained=False).price(_probes(device), device).seconds
    return hashlib.sha256(" ".join(f"{second:.5g}" for second in prices).encode()).hexdigest()


def _probes(device: Device) -> list[ComputeOp]:
    dtypes = [dtype for dtype in DTYPE_BYTES if dtype in device.tensor_flops_per_s]
    kernels = device.architecture.attention_share if dtypes else ()
    heads: dict[str, Any] = {"heads": 8, "kv_heads": 8, "head_dim": 128, "dtype": next(iter(dtypes), "fp32")}
    kinds: list[Any] = [kind for kind in traffic_table() if kind[1] != "saved"]
    return [
        *(Gemm(m=m, n=1000, k=k, dtype=dtype) for m in (8, 8192) for k in (200, 8192) for dtype in dtypes),
        *(Attention(batch=1, seq_q=4096, seq_kv=4096, kernel=kernel, **heads) for kernel in kernels),
        *(Pointwise(op=op, rows=4096, cols=4096, dtype="fp32", direction=direction) for op, direction in kinds),
    ]


def _provenance(found: Sequence[Sample], stacks: Sequence[str], devices: Sequence[Device]) -> Mapping[str, Any]:
    import sklearn  # noqa: PLC0415  (heavy)

    digest = hashlib.sha256()
    for sample in found:
        digest.update(f"{sample.device.name} {sample.op!r} {sample.seconds:.6e}\n".encode())
    return {
        "shapes": len(found),
        "stacks": list(stacks),
        "architectures": sorted({device.architecture.name for device in devices}),
        "measurements_sha256": digest.hexdigest(),
        "base": "Physics(sustained=False)",
        "base_sha256": {device.name: fingerprint(device) for device in devices},
        "regressor": f"GradientBoostingRegressor of scikit-learn {sklearn.__version__}",
        "numpy": np.__version__,
    }
