"""Which cost model prices a job: the profile of its device where there is one, physics otherwise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration import profile as profiles
from calibration.cost.model import CostModel
from calibration.cost.physics import Physics
from hardware.types import Device
from workloads.ops import ComputeOp


def cost_model(
    device: Device, *, profile: Path | None = None, physics: bool = False, sustained: bool = False
) -> CostModel:
    """Prices in bursts, or with `sustained` in long runs of one kernel. Raises ProfileError."""
    found = None if physics else profiles.load(profile) if profile else profiles.profile_for(device.name)
    if found is None:
        return Physics(sustained=sustained)
    from calibration.cost.learned import Learned  # noqa: PLC0415 - a device without a profile must not pay for it

    return Learned(profile=found, sustained=sustained)


def measured(model: CostModel, ops: Sequence[ComputeOp], device: Device) -> NDArray[np.bool_]:
    """Which ops are priced from something like them that was measured on the device; none by physics alone."""
    coverage = getattr(model, "coverage", None)
    return np.zeros(len(ops), dtype=np.bool_) if coverage is None else coverage(ops, device)


def origin(model: CostModel) -> str:
    """Where prices come from, in words."""
    profile = getattr(model, "profile", None)
    return "data sheets and physics" if profile is None else f"profile {profile.device}, {profile.stack}"
