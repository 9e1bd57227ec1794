"""Memory copies: on the device, and between it and the host in both directions, pinned and pageable."""

from collections.abc import Iterator
from itertools import islice

from calibration.bench._sampling import log_size, points
from calibration.bench._session import Session, measured
from calibration.table import Measurement

NAME = "copies"
WEIGHT = 1.0
RANKS = 1

KERNELS = (
    *("device_to_device", "host_to_device", "device_to_host"),
    *("host_to_device_pageable", "device_to_host_pageable"),
)
SMALLEST, LARGEST = 2**10, 2**29


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """1 KiB to 512 MiB; the kinds take turns."""
    numbered = enumerate(islice(points(seed, 1), count))
    return (_shape(number, point[0]) for number, point in numbered)


def run(shape: Measurement, session: Session) -> Measurement:
    """In a burst; the device's caches are cold, the host's are as they are."""
    torch, size, kind = session.torch, int(shape.bytes or 1), shape.kernel or KERNELS[0]
    pinned = not kind.endswith("pageable")
    near = torch.randint(0, 255, (size,), dtype=torch.uint8, device=session.device)
    if kind == "device_to_device":
        far = torch.empty_like(near)
    else:
        far = torch.ones(size, dtype=torch.uint8, pin_memory=pinned)
    target, source = (near, far) if kind.startswith("host_to") else (far, near)
    return measured(shape, session.burst(lambda: target.copy_(source, non_blocking=pinned), queued=pinned))


def _shape(number: int, share: float) -> Measurement:
    size = float(log_size(share, SMALLEST, LARGEST) // 256 * 256)
    return Measurement(op="memcpy", kernel=KERNELS[number % len(KERNELS)], bytes=size)
