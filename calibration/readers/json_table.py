"""JSON to a table of keys and values, with messages that name the line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibration.readers.record import ReaderError

Pairs = list[tuple[str, Any]]


def json_table(
    path: Path, content: str, why_broken: str, each: Callable[[Pairs], dict[str, Any]] = dict
) -> dict[str, Any]:
    """A document whose top level is a table. Raises ReaderError.

    Args:
        why_broken: what to ask where it is no JSON, e.g. `was it cut off?`.
        each: keys and values of each table -> the table; ValueError where they are none.
    """
    try:
        document = json.loads(content, object_pairs_hook=each)
    except json.JSONDecodeError as error:
        raise ReaderError(path, f"is no valid JSON ({error.msg}): {why_broken}", error.lineno) from None
    except RecursionError:
        raise ReaderError(path, "is nested too deeply") from None
    except ValueError as error:  # of `each`, or a number of thousands of digits
        raise ReaderError(path, str(error)) from None
    if not isinstance(document, dict):
        raise ReaderError(path, "should be a table of keys and values")
    return document
