"""What is usual where a source leaves it open: release, chunks, recomputation, graphs, exchanges.

Nothing here knows what was measured (docs/tasks/validate.md, what is assumed).
"""

from dataclasses import replace
from datetime import date, timedelta
from math import ceil
from typing import Any

from hardware.types import Cluster, Device
from sim.catalog import stack
from sim.cells import SkippedRowError
from sim.job import Job
from sim.memory import peak_memory
from sim.row_model import names_of
from sim.step import simulate
from workloads.errors import WorkloadError
from workloads.layout import missing_module
from workloads.stack import ExpertRecipe, Spread, Stack

# How long a device has been sold when a run on it is published, in the middle (docs/tasks/validate.md, what is assumed)
PUBLISHED_AFTER = timedelta(days=548)
OFFLOAD = "offload:N"  # of what a stack tries


def release(stack: Stack, device: Device, ran: date | None = None) -> str:
    """Name of the stack that a run of a software was on: the release of its day, or of the usual day for its device."""
    day = ran or (device.sold_from and device.sold_from + PUBLISHED_AFTER)
    past = [(until, name) for name, until in stack.earlier.items() if day and day < until]
    return min(past)[1] if past else stack.name


def as_tuned(job: Job, *, fixed_shapes: bool = False, ran: date | None = None) -> Job:
    """With what is usual in tuned recipes of its stack: graphs, and what is run again.

    Experts of `fixed_shapes` have as many rows each, whatever the router says, and are captured everywhere. Raises
    SkippedRowError where nothing fits.
    """
    usual = job.stack.recipes.graphs == "all" or _is_rack(job.cluster)
    said = _of_recipes(job, ran).graphs
    captured = fixed_shapes or (usual if said is None else said)
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
    found = _laid_out(job, vp=ceil(job.model.layers / job.layout.pp))
    try:
        found.shard()
    except WorkloadError as error:
        if named:
            raise SkippedRowError(f"the source does not give vp, and in chunks of one layer: {error}") from error
        return job
    return found


def exchanged(job: Job, ran: date | None, *, mode: bool, overlap: bool, recipe: bool) -> Job:
    """With experts as recipes of the day have them: the `mode`, and more of a `recipe` that is not given.

    That is the `overlap` of exchanges where the job can, and the kernels of experts.

    Experts that are spread over nodes and come in groups, so that few nodes have those of a token, send each row once
    in any case: such a router is made for it (DeepSeek-AI, arXiv:2412.19437, 2.1.2).
    """
    usual = _of_recipes(job, ran)
    grouped = job.model.expert_groups > 1 and _spread(job) == "nodes"
    if mode:
        job = _laid_out(job, expert_mode="deduplicated" if grouped else usual.mode)
    if recipe and usual.kernels_of:
        other = stack(usual.kernels_of)
        job = replace(job, stack=replace(job.stack, name=other.name, kernels=other.kernels))
    beside = _laid_out(job, expert_overlap=True)
    return beside if recipe and overlap and usual.overlap and _goes(beside) else job


def _of_recipes(job: Job, ran: date | None) -> ExpertRecipe:
    """What the recipes of its stack that apply say of each key, the last one counting; nothing of an unknown day."""
    said: dict[str, Any] = {"mode": "all_to_all", "overlap": False, "graphs": None, "kernels_of": None}
    names, device, precision = names_of(job.model), job.cluster.device.name, job.training.precision
    for recipe in job.stack.recipes.experts if job.layout.ep > 1 else ():
        if ran and recipe.applies(names, device, precision, _spread(job), ran):
            said |= {key: getattr(recipe, key) for key in said if getattr(recipe, key) is not None}
    return ExpertRecipe(since=date.min, **said)


def _spread(job: Job) -> Spread:
    """Where the experts of a layer are."""
    if job.layout.ep * job.layout.expert_tp > job.cluster.domain_gpus:
        return "nodes"
    return "rack" if _is_rack(job.cluster) else "node"


def _laid_out(job: Job, **keys: Any) -> Job:
    return replace(job, layout=replace(job.layout, **keys))


def _goes(job: Job) -> bool:
    try:
        job.shard()
    except WorkloadError:
        return False
    return True


def _is_rack(cluster: Cluster) -> bool:
    """Whether NVLink joins more than a node."""
    return cluster.domain_gpus > cluster.gpus_per_node
