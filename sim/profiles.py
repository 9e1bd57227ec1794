"""Which cost model prices a job: the profile of its device where there is one, physics otherwise."""

from pathlib import Path

from calibration import profile as profiles
from calibration.cost.model import CostModel
from calibration.cost.physics import Physics
from hardware.types import Device


def cost_model(
    device: Device, *, profile: Path | None = None, physics: bool = False, sustained: bool = False
) -> CostModel:
    """Prices in bursts, or with `sustained` in long runs of one kernel. Raises ProfileError."""
    found = None if physics else profiles.load(profile) if profile else profiles.profile_for(device.name)
    if found is None:
        return Physics(sustained=sustained)
    from calibration.cost.learned import Learned  # noqa: PLC0415 - a device without a profile must not pay for it

    return Learned(profile=found, sustained=sustained)
