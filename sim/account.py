"""Where the error of a table of runs comes from: which part of the predicted steps, scaled, would explain it.

A diagnostic for whoever looks for a missing piece of physics. Nothing is fitted from it: no factor found here goes into
a prediction. With e the error of a row and x the share of the measured time that a part is predicted to take, a part
scaled by f changes the error to e + (f - 1) x.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.breakdown import PARTS
from sim.error_figures import Record

FEWEST_ROWS = 4  # of a source; fewer are explained by anything
SHOWN_PARTS = 3  # of a source, best first
MOST = 4.0  # times; what would have to be larger still is not a part priced too low, but one that is missing
# Kernels of the forward and of the backward pass grow together from row to row: least squares cannot tell them apart.
KERNELS = ("forward", "recompute", "backward")
JOINT = {"kernels": KERNELS} | {part: (part,) for part in PARTS if part not in KERNELS}
SINGLE = {part: (part,) for part in PARTS} | {"kernels": KERNELS, "whole step": PARTS}
# Of the joint fit: measured runs repeat within 5 %; a part is taken to be right within half unless the rows say more;
# rows of one source share their faults, so that they count as ten at most.
NOISE = 0.05
TRUST = 0.5
INDEPENDENT = 10
Rows = Sequence[Mapping[str, object]]


def account(rows: Rows, worst: int) -> Record:
    """The `worst` rows with the parts of their predicted step, and for each of their sources what explains it."""
    compared = [row for row in rows if isinstance(row["error"], float)]
    shown = sorted(compared, key=lambda row: -abs(_number(row["error"])))[:worst]
    sources = {str(row["source"]): None for row in shown}
    members = {name: [row for row in compared if row["source"] == name] for name in sources}
    found = {name: of_source(name, members[name]) for name in sources}
    return {"worst": [_row(row, found[str(row["source"])]) for row in shown], "sources": list(found.values())}


def of_source(name: str, rows: Rows) -> Record:
    """What explains the rows of one source: single parts, best first, and all parts at once."""
    errors = np.array([_number(row["error"]) for row in rows])
    found: Record = {"source": name, "n": len(rows), "mean_abs_error": float(np.abs(errors).mean())}
    if len(rows) < FEWEST_ROWS:
        return found | {"single": [], "factors": {}, "mean_abs_error_left": None}
    shares = _present(rows, JOINT)
    matrix = np.column_stack(list(shares.values()))
    factors = joint_factors(errors, matrix)
    return found | {
        "single": _single(errors, _present(rows, SINGLE)),
        "factors": dict(zip(shares, factors.tolist(), strict=True)),
        "mean_abs_error_left": float(np.abs(errors + matrix @ (factors - 1.0)).mean()),
    }


def best_factor(errors: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    """The factor of a part, from 0 to MOST, that leaves the smallest mean absolute error.

    sum |e + (f - 1) x| is smallest where f - 1 is the median of -e / x weighted by x, which no single row can move far.
    """
    used = shares > 0.0
    if not used.any():
        return 1.0
    ratios, weights = -errors[used] / shares[used], shares[used]
    order = np.argsort(ratios, kind="stable")
    place = int(np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2.0))
    return min(max(1.0 + float(ratios[order][place]), 0.0), MOST)


def joint_factors(errors: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """A factor for each part at once, by least squares without negative ones.

    Held to 1 by TRUST, so that parts which the rows cannot tell apart share what is to be explained.

    Args:
        errors: of the rows.
        shares: rows x parts.
    """
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415 - slow to import, and only needed here

    rows, parts = shares.shape
    weight = (min(rows, INDEPENDENT) / rows) ** 0.5 / NOISE
    wanted = shares.sum(axis=1) - errors  # of the measured time, so that nothing is left
    matrix = np.vstack([weight * shares, np.eye(parts) / TRUST])
    target = np.concatenate([weight * wanted, np.ones(parts) / TRUST])
    factors: NDArray[np.float64] = LinearRegression(positive=True, fit_intercept=False).fit(matrix, target).coef_
    return factors


def _single(errors: NDArray[np.float64], shares: Mapping[str, NDArray[np.float64]]) -> list[Record]:
    found: list[Record] = []
    for part, share in shares.items():
        factor = best_factor(errors, share)
        left = float(np.abs(errors + (factor - 1.0) * share).mean())
        found.append({"part": part, "factor": factor, "mean_abs_error_left": left})
    return sorted(found, key=lambda one: _number(one["mean_abs_error_left"]))[:SHOWN_PARTS]


def _row(row: Mapping[str, object], source: Mapping[str, object]) -> Record:
    """A row with its parts as shares of the predicted step, and what the factors of its source make of it."""
    step_s = _number(row["predicted_s"])
    shares = {part: seconds / step_s for part, seconds in _parts(row).items()}
    return {name: row[name] for name in ("id", "source", "measured_s", "predicted_s", "error")} | {
        "parts": shares,
        "explained_by": _explained_by(row, shares, source),
    }


def _explained_by(
    row: Mapping[str, object], shares: Mapping[str, float], source: Mapping[str, object]
) -> Record | None:
    """The part that, with its factor of the joint fit, closes most of the gap, and how much of the gap."""
    factors = source["factors"]
    gap = _number(row["measured_s"]) / _number(row["predicted_s"]) - 1.0
    if not isinstance(factors, dict) or not factors or not gap:
        return None
    closed = {
        name: (factor - 1.0) * sum(shares.get(part, 0.0) for part in JOINT[name]) / gap
        for name, factor in factors.items()
    }
    part = max(closed, key=lambda name: closed[name])
    return {"part": part, "factor": factors[part], "of_gap": float(closed[part])} if closed[part] > 0.0 else None


def _present(rows: Rows, named: Mapping[str, tuple[str, ...]]) -> dict[str, NDArray[np.float64]]:
    """The shares of what any of the rows has."""
    shares = {name: _shares(rows, parts) for name, parts in named.items()}
    return {name: share for name, share in shares.items() if share.any()}


def _shares(rows: Rows, parts: Sequence[str]) -> NDArray[np.float64]:
    """What parts are predicted to take, over the measured time of each row."""
    return np.array([sum(_parts(row).get(part, 0.0) for part in parts) / _number(row["measured_s"]) for row in rows])


def _parts(row: Mapping[str, object]) -> Mapping[str, float]:
    parts = row["parts"]
    assert isinstance(parts, dict)
    return parts


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return value
