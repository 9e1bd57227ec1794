"""Writes a file as a whole or not at all."""

import os
from pathlib import Path

from hardware.descriptor import DescriptorError


def write_text(path: Path, text: str) -> None:
    """Write beside the file, then put it in its place; raises DescriptorError where that cannot be done."""
    try:
        _write(path.resolve(), text)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DescriptorError(path, [f"cannot be written: {reason}"]) from error


def _write(path: Path, text: str) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe stays what it is
        path.write_text(text, "utf-8", newline="")
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, "utf-8", newline="")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
