"""Numbers in the cells of a row of runs."""

import math
from collections.abc import Mapping

MAY_BE_ZERO = ("zero", "zero_group", "experts", "topk", "etp", "mtp_layers")


class SkippedRowError(Exception):
    """A row that cannot be simulated; the message says why."""


def whole(row: Mapping[str, str], key: str, default: int | None = None) -> int:
    """A whole number of at least 1, or the default where the cell is blank; raises SkippedRowError."""
    text = row.get(key) or ""
    if not text and default is not None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1 and not (key in MAY_BE_ZERO and text == "0"):
        raise SkippedRowError(f"{key} = {text!r}: a whole number of 1 or more is needed")
    return value


def positive(row: Mapping[str, str], key: str) -> float:
    """A finite number above zero; raises SkippedRowError."""
    try:
        value = float(row.get(key) or "")
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise SkippedRowError(f"{key} = {row.get(key)!r}: a positive number is needed")
    return value
