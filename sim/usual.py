"""What is usual where a source leaves it open: release, chunks, recomputation, graphs, exchanges.

Nothing here knows what was measured (docs/tasks/validate.md, what is assumed).
"""

from dataclasses import replace
from datetime import date, timedelta
from math import ceil

from hardware.types import Cluster, Device
from sim.cells import SkippedRowError
from sim.job import Job
from sim.memory import peak_memory
from sim.step import simulate
from workloads.errors import WorkloadError
from workloads.layout import missing_module
from workloads.stack import Stack

# How long a device has been sold when a run on it is published, in the middle (docs/tasks/validate.md, what is assumed)
PUBLISHED_AFTER = timedelta(days=548)
OFFLOAD = "offload:N"  # of what a stack tries


def release(stack: Stack, device: Device, ran: date | None = None) -> str:
    """Name of the stack that a run of a software was on: the release of its day, or of the usual day for its device."""
    day = ran or (device.sold_from and device.sold_from + PUBLISHED_AFTER)
    past = [(until, name) for name, until in stack.earlier.items() if day and day < until]
    return min(past)[1] if past else stack.name


def as_tuned(job: Job, *, fixed_shapes: bool = False) -> Job:
    """With what is usual in tuned recipes of its stack: graphs, and what is run again.

    Experts of `fixed_shapes` have as many rows each, whatever the router says, and are captured everywhere. Raises
    SkippedRowError where nothing fits.
    """
    recipes = job.stack.recipes
    captured = recipes.graphs == "all" or fixed_shapes or _is_rack(job.cluster)
    graph = "graph" if captured and "graph" in job.stack.host.launch_s else ""
    return _least_that_fits(replace(job, execution=job.execution or graph))


def _least_that_fits(job: Job) -> Job:
    """With the first recomputation that fits, of those that the stack tries; raises SkippedRowError if none does."""
    for recompute in job.stack.recipes.recompute:
        tried = _least_offloaded(job) if recompute == OFFLOAD else _recomputed(job, recompute)
        if tried is not None and not missing_module(tried.model, tried.training) and _fits(tried):
            return tried
    raise SkippedRowError(
        "the source does not give recompute, and not even with all of it does the job fit into memory"
    )


def _least_offloaded(job: Job) -> Job | None:
    """With as few layers offloaded as fit; None where none may be, or running all layers again is as fast."""
    tried = (_recomputed(job, f"offload:{layers}") for layers in range(1, job.model.layers))
    found = next(filter(_fits, tried), None) if job.can_offload else None
    again = _recomputed(job, "full")
    slower = found and _fits(again) and simulate(again).step_s <= simulate(found).step_s
    return None if slower else found


def _recomputed(job: Job, recompute: str) -> Job:
    return replace(job, training=replace(job.training, recompute=recompute))


def _fits(job: Job) -> bool:
    return peak_memory(job.shard(), job.cluster.device.memory_bytes).fits


def interleaved(job: Job, *, named: bool) -> Job:
    """In chunks of one layer, where that goes: as a source says that `named` interleaving, or as tuned recipes have it.

    Recipes of the stack do where all weights are trained. Raises SkippedRowError where what a source says does not go.
    """
    usual = job.stack.recipes.interleaves and job.training.task != "lora"
    if job.layout.pp == 1 or not (named or usual):
        return job
    found = replace(job, layout=replace(job.layout, vp=ceil(job.model.layers / job.layout.pp)))
    try:
        found.shard()
    except WorkloadError as error:
        if named:
            raise SkippedRowError(f"the source does not give vp, and in chunks of one layer: {error}") from error
        return job
    return found


def deduplicates(job: Job, ran: date | None = None) -> bool:
    """Whether a row is sent once to a rank, however many of its experts that has.

    Experts that are spread over nodes and come in groups, so that few nodes have those of a token: such a router is
    made for it (DeepSeek-AI, arXiv:2412.19437, 2.1.2). Within a rack, as recipes of the day have it.
    """
    since, spread = job.stack.recipes.deduplicated_from, job.layout.ep * job.layout.expert_tp
    if spread > job.cluster.domain_gpus:
        return job.model.expert_groups > 1
    return job.layout.ep > 1 and _is_rack(job.cluster) and bool(since and ran and ran >= since)


def _is_rack(cluster: Cluster) -> bool:
    """Whether NVLink joins more than a node."""
    return cluster.domain_gpus > cluster.gpus_per_node
