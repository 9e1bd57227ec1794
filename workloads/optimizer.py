"""The end of a step: gradients are summed, their norm taken, and the parameters updated."""

from collections.abc import Sequence

from workloads.graph import Block, Segment, Work
from workloads.ops import DTYPE_BYTES, Pointwise
from workloads.parallelism import data, pipeline
from workloads.parameters import Parameters, summed
from workloads.passes import Passes
from workloads.stage import Blocks, chunk_parameters, matrices_of
from workloads.tensors import chunk_tensors
from workloads.weave import Weave


def finish(weave: Weave, blocks: Blocks, stages: Sequence[Passes]) -> None:
    """Queue everything behind the last backward pass of each stage."""
    synchronised = [_gradients(weave, blocks, passes) for passes in stages]
    _shared_embedding(weave, blocks, synchronised)
    everyone = tuple(task for tasks in synchronised for task in tasks)
    for passes, ready in zip(stages, synchronised, strict=True):
        _update(weave, blocks, passes, ready, everyone)


def trained_parameters(blocks: Blocks, passes: Passes) -> Parameters:
    """Of one rank of the stage, before sharding. Adapters of rank 16 are small enough to count as nothing."""
    if blocks.shard.training.task == "lora":
        return Parameters()
    return summed(chunk_parameters(blocks.shard, chunk) for chunk in passes.chunks)


def _gradients(weave: Weave, blocks: Blocks, passes: Passes) -> tuple[int, ...]:
    """Sum over replicas, unless it ran beside the backward pass."""
    tail = weave.tail(passes.stage)
    parameters = trained_parameters(blocks, passes)
    if passes.reduced or not parameters.total:
        return (*tail, *passes.reduced[-1:])
    message = data.reduce_gradients(blocks.shard, parameters)
    return tail if message is None else weave.add(message, passes.stage, tail, data.STREAM)


def _shared_embedding(weave: Weave, blocks: Blocks, synchronised: list[tuple[int, ...]]) -> None:
    shard = blocks.shard
    on_both = shard.model.tied_embeddings or shard.model.mtp_layers
    routes = shard.layout.routes
    together = {route[0].stage for route in routes} & {route[-1].stage for route in routes}
    if together or not on_both or shard.training.task == "lora":
        return
    message = pipeline.embedding_gradients(shard)
    first, last = routes[0][0].stage, routes[0][-1].stage
    both = (*synchronised[first], *synchronised[last])
    for stage in (first, last):
        synchronised[stage] = weave.add(message, stage, both, pipeline.STREAM)


def _update(weave: Weave, blocks: Blocks, passes: Passes, ready: tuple[int, ...], everyone: tuple[int, ...]) -> None:
    """Norm of all gradients, for which every rank waits for every other in most stacks; update, gathering of shards."""
    stage, layout, optimizer = passes.stage, blocks.shard.layout, blocks.shard.stack.optimizer
    parameters = trained_parameters(blocks, passes)
    # The kernels' bytes are those of fp32 states; pure 16-bit training moves half of them.
    held = blocks.shard.held(parameters) * DTYPE_BYTES[blocks.shard.precision.moments] / DTYPE_BYTES["fp32"]
    if optimizer.norm and held:
        weave.add(_segment("gradient norm", optimizer.norm, held), stage, ready)
        if not optimizer.validates:
            others = (*everyone, *weave.tail(stage))
            ready = weave.add(pipeline.norm_sum(blocks.shard), stage, others, pipeline.STREAM)
    mixed = optimizer.mixed if blocks.shard.precision.master else ()
    if held:
        update = ("sgd",) if blocks.shard.training.optimizer == "sgd" else optimizer.update
        tensors = blocks.shard.held(summed(chunk_tensors(blocks.shard, chunk) for chunk in passes.chunks))
        weave.add(_segment("optimizer", (*optimizer.clip, *update, *mixed), held, tensors), stage, ready)
    matrices = sum(matrices_of(blocks.shard, chunk) for chunk in passes.chunks)
    gather = data.gather_parameters(blocks.shard, parameters, matrices)
    if gather is not None and layout.zero in (1, 2) and not passes.gathers_ahead:
        weave.add(gather, stage, weave.tail(stage), data.STREAM)


def _segment(name: str, kernels: tuple[str, ...], parameters: float, tensors: float = 0.0) -> Segment:
    size = max(round(parameters), 1)
    work = tuple(Work(Pointwise(op=kernel, rows=1, cols=size, dtype="fp32")) for kernel in kernels)
    return Segment(name=name, blocks=((Block(name=name, phase="optimizer", pieces=(work,), tensors=tensors), 1),))
