"""The curves of collectives as a table to read and arrays of numbers, and back, with everything checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from calibration.cost.learned_arrays import Array, Shapes, check_shapes
from calibration.cost.learned_messages import MessageModel
from calibration.cost.learned_spread import Spread

MESSAGE_SHAPES: Shapes = {
    "curve": (np.int32, ("knots",)),
    "size": (np.float64, ("knots",)),
    "log": (np.float64, ("knots",)),
    "sigma": (np.float64, (2, "bins")),
    "factor": (np.float64, ("groups",)),
}


def message_table(model: MessageModel) -> dict[str, Any]:
    """What a person wants to read: of each kind the sizes that were measured, in octaves, and the errors."""
    sizes = [model.size[model.curve == kind] for kind in range(len(model.kinds))]
    return {
        "fabric": model.fabric,
        "kinds": model.kinds,
        "octaves": {kind: [size.min(), size.max()] for kind, size in zip(model.kinds, sizes, strict=True)},
        "base_sha256": model.base_sha256,
        "report": model.report,
    }


def message_arrays(model: MessageModel) -> dict[str, Array]:
    """All that is left, by name."""
    sigma = np.array([model.spread.size, model.spread.sigma])
    return {"curve": model.curve, "size": model.size, "log": model.log, "sigma": sigma, "factor": model.spread.factor}


def message_model(table: Mapping[str, Any], arrays: Mapping[str, Array]) -> MessageModel:
    """Every shape and index is checked here: each kind has knots, in ascending order."""
    kinds = tuple(map(str, table["kinds"]))
    check_shapes("messages", arrays, MESSAGE_SHAPES, len(kinds), 0)
    curve, size = arrays["curve"], arrays["size"]
    steps = np.diff(curve)
    if set(curve.tolist()) != set(range(len(kinds))) or (steps < 0).any() or (np.diff(size)[steps == 0] <= 0).any():
        raise ValueError("messages: knots that do not ascend, or belong to no kind")
    sizes, sigma = arrays["sigma"]
    return MessageModel(
        fabric=str(table["fabric"]),
        kinds=kinds,
        curve=curve,
        size=size,
        log=arrays["log"],
        spread=Spread(size=sizes, sigma=sigma, factor=arrays["factor"]),
        base_sha256=str(table["base_sha256"]),
        report=dict(table["report"]),
    )
