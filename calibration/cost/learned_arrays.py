"""A family's model as a table to read and arrays of numbers, and back, with everything checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_columns import COLUMN_NAMES
from calibration.cost.learned_domain import Domain
from calibration.cost.learned_family import FamilyModel
from calibration.cost.learned_features import AXES, CURVE_TERMS
from calibration.cost.learned_kriging import UNITS, Covariance, Kriging
from calibration.cost.learned_spread import Spread
from calibration.cost.learned_trees import LEAVES, NODES, Trees
from calibration.cost.rates import Floats

Array = NDArray[Any]
MOST_LEVEL = 3.0  # of a logarithm: twenty times as slow as physics

# Array -> type and shape; a letter is a count that has to be the same wherever it stands.
Shapes = Mapping[str, tuple[type, tuple[int | str, ...]]]
COMMON: Shapes = {
    "curve": (np.float64, ("groups", CURVE_TERMS)),
    "limits": (np.float64, ("groups", 2)),
    "box": (np.float64, (2, "groups", "axes")),
    "landmarks": (np.float64, ("landmarks", "axes")),
    "sigma": (np.float64, (2, "bins")),
    "factor": (np.float64, ("groups",)),
    "load": (np.float64, ("groups",)),
}
KINDS: Mapping[str, Shapes] = {
    "trees": {
        "feature": (np.uint8, ("trees", NODES)),
        "threshold": (np.float32, ("trees", NODES)),
        "rules_out": (np.uint16, ("trees", NODES)),
        "value": (np.float64, ("trees", LEAVES)),
    },
    "kriging": {
        "places": (np.float64, ("rows", len(UNITS))),
        "groups": (np.int32, ("rows",)),
        "weights": (np.float64, ("rows",)),
    },
}


def table_of(model: FamilyModel) -> dict[str, Any]:
    """What a person wants to read of a model, and its few single numbers."""
    rounded = [model.domain.low.round(3).tolist(), model.domain.high.round(3).tolist()]
    return {
        "features": model.features,
        "groups": model.groups,
        "axes": AXES[model.family],
        "octaves": {group: [low, high] for group, low, high in zip(model.groups, *rounded, strict=True)},
        "radius": model.domain.radius,
        **_kind_of(model.shapes),
        "level": model.level.tolist(),
        "report": model.report,
    }


def arrays_of(model: FamilyModel) -> dict[str, Array]:
    """All that is left, by name."""
    shapes, domain, spread = model.shapes, model.domain, model.spread
    names = KINDS["trees" if isinstance(shapes, Trees) else "kriging"]
    return {
        "curve": model.curve,
        "limits": model.limits,
        **{name: getattr(shapes, name) for name in names},
        "box": np.array([domain.low, domain.high]),
        "landmarks": domain.landmarks,
        "sigma": np.array([spread.size, spread.sigma]),
        "factor": spread.factor,
        "load": model.load,
    }


def model_of(family: str, table: Mapping[str, Any], arrays: Mapping[str, Array]) -> FamilyModel:
    """Every index and shape is checked here, so that a price never meets a broken one."""
    features, groups = tuple(table["features"]), tuple(table["groups"])
    if features != COLUMN_NAMES[family]:
        raise ValueError(f"{family}: other features than those of this version")
    check_shapes(family, arrays, array_shapes(table), len(groups), len(AXES[family]))
    low, high = arrays["box"]
    size, sigma = arrays["sigma"]
    return FamilyModel(
        family=family,
        features=features,
        groups=groups,
        curve=arrays["curve"],
        limits=arrays["limits"],
        shapes=_shapes_of(family, table, arrays),
        domain=Domain(low=low, high=high, landmarks=arrays["landmarks"], radius=float(table["radius"])),
        spread=Spread(size=size, sigma=sigma, factor=arrays["factor"]),
        load=arrays["load"],
        level=_levels(family, table.get("level"), len(groups)),
        report=dict(table["report"]),
    )


def _levels(family: str, numbers: object, groups: int) -> Floats:
    """Of each group; a profile of before levels has none."""
    levels = np.zeros(groups) if numbers is None else np.array(numbers, dtype=np.float64)
    if levels.shape != (groups,) or not (np.abs(levels) <= MOST_LEVEL).all():
        raise ValueError(f"{family}.level: should be a number from -{MOST_LEVEL:g} to {MOST_LEVEL:g} for each group")
    return levels


def array_shapes(table: Mapping[str, Any]) -> Shapes:
    """Of the arrays that belong to a table."""
    return {**COMMON, **KINDS[table["kind"]]}


def _kind_of(shapes: Trees | Kriging) -> dict[str, Any]:
    if isinstance(shapes, Trees):
        return {"kind": "trees", "start": shapes.start}
    return {"kind": "kriging", "covariance": shapes.settings()}


def _shapes_of(family: str, table: Mapping[str, Any], arrays: Mapping[str, Array]) -> Trees | Kriging:
    parts = {name: arrays[name] for name in KINDS[table["kind"]]}
    if table["kind"] == "kriging":
        numbers = {name: float(number) for name, number in table["covariance"].items()}
        return Kriging(covariance=Covariance(**numbers), **parts)
    count = len(COLUMN_NAMES[family])
    if (arrays["feature"] >= count).any():
        raise ValueError(f"{family}: a tree asks for feature {arrays['feature'].max()} of {count}")
    return Trees(start=float(table["start"]), **parts)


def check_shapes(family: str, arrays: Mapping[str, Array], shapes: Shapes, groups: int, axes: int) -> None:
    """Raise ValueError for an array of another type or shape, or with values that are no numbers."""
    sizes: dict[str | int, int] = {"groups": groups, "axes": axes}
    for name, (kind, shape) in shapes.items():
        array = arrays[name]
        fits = array.dtype == kind and array.ndim == len(shape) and array.size > 0
        wanted = [
            sizes.setdefault(size, real) if isinstance(size, str) else size
            for size, real in zip(shape, array.shape, strict=False)
        ]
        if not fits or list(array.shape) != wanted:
            raise ValueError(f"{family}.{name} is {array.dtype} {array.shape}; should be {np.dtype(kind)} {shape}")
        if name != "threshold" and not np.isfinite(array).all():
            raise ValueError(f"{family}.{name} holds values that are no numbers")
