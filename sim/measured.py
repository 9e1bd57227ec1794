"""The rows of a measurement table with the device that they were measured on."""

from collections.abc import Sequence
from pathlib import Path

from calibration.table import Measurement, read_table
from hardware.catalog import device as device_named
from hardware.descriptor import DescriptorError
from hardware.types import Device


def measured_device(table: Path, name: str) -> tuple[Sequence[Measurement], Device]:
    """The rows of one device, by default of the only one that the table has; raises DescriptorError."""
    rows = read_table(table)
    names = sorted({row.device for row in rows if row.device})
    if not name and len(names) != 1:
        raise DescriptorError(table, [f"has rows of {', '.join(names) or 'no device'}; name one with --device"])
    device = device_named(name or names[0])
    return [row for row in rows if row.device in (None, "", device.name)], device


def measured_devices(table: Path) -> tuple[Sequence[Measurement], dict[str, Device]]:
    """All rows of a table, and all its devices by name; raises DescriptorError."""
    rows = read_table(table)
    return rows, {name: device_named(name) for name in sorted({row.device for row in rows if row.device})}
