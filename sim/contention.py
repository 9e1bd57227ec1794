"""Communication and computation beside each other: how fast each goes on (docs/models/step.md#contention)."""

from typing import NamedTuple

from sim.job import Job

# Of its speed that a collective keeps beside computation. On two H200s, messages of 0.2 to 3 ms took 1.15 to 1.8 times
# as long beside GEMMs as alone, 1.5 times at the median; GEMMs of 1 to 2 ms, 1.14 to 1.5 times beside messages.
MESSAGE_RATE = 0.67

# Seconds that a second of a collective costs the computation beside it. Training on 4 A100, H100, MI250 and MI210 was
# computing 18.9 % slower beside communication than without, and one after the other took 10.2 % longer than
# overlapped: of 0.31 s of communication for a second of computation, 0.189 s were not hidden (Lee et al.,
# arXiv:2507.03114, abstract).
CONTENTION = 0.61


class Rates(NamedTuple):
    """Of computation beside a message, and of the message, relative to each alone."""

    compute: float
    message: float


def in_blocks(job: Job) -> Rates:
    """Of messages inside a block: tensor and context parallelism.

    PCIe is too slow to miss what computation takes; user buffers move data without the caches of the SMs.
    """
    chunked = job.stack.overlap.in_chunks(job.training.precision)
    compute = channels_rate(job) if chunked else compute_rate(job)
    return Rates(compute=compute, message=1.0 if _slow_links(job) else MESSAGE_RATE)


def compute_rate(job: Job) -> float:
    """Progress of computation beside a collective: they share SMs, caches, memory and power."""
    return channels_rate(job) if _slow_links(job) else 1.0 - CONTENTION * MESSAGE_RATE


def channels_rate(job: Job) -> float:
    """Progress of computation that goes without the SMs of a collective, and misses nothing else."""
    return 1.0 - min(job.stack.data.channels / job.cluster.device.sm_count, 0.5)


def _slow_links(job: Job) -> bool:
    """Whether GPUs of a node meet over a tree of PCIe switches."""
    return job.cluster.scale_up.topology == "tree"
