"""Which cost model prices a job: the profile of its device where there is one, physics otherwise."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration import profile as profiles
from calibration.cost.model import CostModel
from calibration.cost.physics import Physics
from calibration.profile import Profile, ProfileError
from hardware.types import Device
from workloads.ops import ComputeOp


def cost_model(
    device: Device, *, profile: Path | None = None, physics: bool = False, sustained: bool = False
) -> CostModel:
    """Prices in bursts, or with `sustained` in long runs of one kernel.

    Raises ProfileError for a profile that cannot be read, or is of another device.
    """
    found = None if physics else given_for(profile, [device.name]) if profile else profiles.profile_for(device.name)
    return _learned(found, sustained=sustained) if found else Physics(sustained=sustained)


def given(path: Path) -> Profile:
    """The profile that a person names: its file, or the folder that it lies in. Raises ProfileError."""
    return profiles.load(path / profiles.FILE if path.is_dir() else path)


def given_for(path: Path, devices: Iterable[str]) -> Profile:
    """The profile that a person names for these devices; ProfileError if it is of none of them, and changes nothing."""
    profile, asked = given(path), sorted(set(devices))
    if not set(asked) & set(profile.devices):
        raise ProfileError(path, f"is of {', '.join(profile.devices)}; priced is {', '.join(asked)}")
    return profile


def model_of(profile: Profile | None, device: Device, *, sustained: bool = False) -> CostModel | None:
    """Prices of a profile where it is one of this device; None where the usual prices stand."""
    if profile is None or device.name not in profile.devices:
        return None
    return _learned(profile, sustained=sustained)


def _learned(profile: Profile, *, sustained: bool) -> CostModel:
    from calibration.cost.learned import Learned  # noqa: PLC0415 - a device without a profile must not pay for it

    return Learned(profile=profile, sustained=sustained)


def chosen(path: Path | None, device: Device) -> CostModel | None:
    """Prices of the profile at a path, None without one; ProfileError if it is of another device."""
    return None if path is None else model_of(given_for(path, [device.name]), device)


def measured(model: CostModel, ops: Sequence[ComputeOp], device: Device) -> NDArray[np.bool_]:
    """Which ops are priced from something like them that was measured on the device; none by physics alone."""
    coverage = getattr(model, "coverage", None)
    return np.zeros(len(ops), dtype=np.bool_) if coverage is None else coverage(ops, device)


def origin(model: CostModel) -> str:
    """Where prices come from, in words."""
    profile = getattr(model, "profile", None)
    return "data sheets and physics" if profile is None else f"profile {profile.device}, {profile.stack}"
