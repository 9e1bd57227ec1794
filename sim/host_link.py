"""Copies between a device and the memory of its host (docs/models/offloading.md)."""

from collections.abc import Sequence

import numpy as np

from calibration.cost.model import Prices
from hardware.types import Device
from workloads.ops import HostCopy

# Of what a PCIe link moves, data: payload / (payload + overhead) with 256 bytes, as hosts usually set it, and 24 of
# framing, header and checksum around them (Intel AN 456, throughput for posted writes; a header for 64-bit addresses).
PCIE_DATA_SHARE = 256 / 280

# Of log(measured / predicted): hosts differ, and so does where their memory lies. An estimate: one host was measured,
# and it was 4 % slower.
SPREAD = 0.15


def host_bytes_per_s(device: Device) -> float:
    """That a copy between the device and its host reaches, in one direction; 0 where no link is known."""
    return device.host_bytes_per_s or device.links.get("pcie", 0.0) * PCIE_DATA_SHARE


def copy_prices(ops: Sequence[HostCopy], device: Device) -> Prices:
    """Of each copy, alone on its link. A layer is megabytes and more, so the start of a copy does not count."""
    size = np.array([op.bytes for op in ops], dtype=np.float64)
    return Prices(size / host_bytes_per_s(device), np.full(len(ops), SPREAD))
