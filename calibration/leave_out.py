"""How well a device is priced from measurements of others: each device of a table in turn, all about it left out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from calibration.cost.learned import Learned
from calibration.cost.model import CostModel
from calibration.cost.physics import Physics
from calibration.evaluate import ALL, evaluate
from calibration.fit import GRIDS, Grids, fit_relatives
from calibration.table import Measurement
from hardware.types import Device

# The first settings of each family: which are best among them is worth less than the choice costs.
QUICK: Grids = {family: grid[:1] for family, grid in GRIDS.items()}

Line = dict[str, Any]
Done = Callable[[str], None]


def leave_out_lines(
    rows: Sequence[Measurement], devices: Mapping[str, Device], done: Done | None = None, grids: Grids = QUICK
) -> list[Line]:
    """Errors on each device of a profile fitted on all the others, and of physics alone: GEMMs by data type.

    Raises ValueError where there are fewer than two devices, or too few rows to fit.
    """
    if len(devices) < 2:
        raise ValueError(f"has rows of {', '.join(devices) or 'no device'}; at least two devices are needed")
    found = list[Line]()
    for name, device in devices.items():
        others = [other for other in devices.values() if other.name != name]
        learned = Learned(profile=fit_relatives(rows, others, grids=grids))
        found += _lines(rows, device, learned)
        if done:
            done(name)
    return found


def _lines(rows: Sequence[Measurement], device: Device, learned: CostModel) -> list[Line]:
    own = [row for row in rows if row.device == device.name]
    after, before = (evaluate(own, model, device).summary() for model in (learned, Physics()))
    pairs = [pair for pair in zip(after, before, strict=True) if (pair[0]["group"] == ALL) != _is_gemm(pair[0])]
    return [{"device": device.name, **line, "physics_mean": alone["mean"]} for line, alone in pairs]


def _is_gemm(line: Line) -> bool:
    """GEMMs are told apart by data type, the other families are one line each."""
    return bool(line["family"] == "gemm")
