"""Adding up the gradients of micro-batches, where the GEMMs that make them do not add to a buffer themselves."""

from typing import NamedTuple

from workloads.graph import Block
from workloads.parameters import Parameters
from workloads.pieces import kernel_work
from workloads.shard import Shard


class Accumulation(NamedTuple):
    """What adds the gradients of a micro-batch to those before: for the first one of a step, and for each further."""

    first: Block | None
    further: Block | None


def accumulation(shard: Shard, parameters: Parameters) -> Accumulation:
    """Nothing where the weight-gradient GEMMs add to the buffer themselves.

    What ZeRO 3 has reduced is added in shards; where it reduces once a step, all of it is, in the type on the wire.
    """
    stack = shard.stack
    if stack.fused_gradient_accumulation or shard.training.task == "lora":
        return Accumulation(None, None)
    adds = stack.optimizer.accumulate
    size = round(shard.held(parameters) if shard.gathers_each_pass else parameters.total)
    if shard.gathers_once and shard.reduced_dtype != shard.precision.activation:
        return Accumulation(_added(shard, ("cast",), size), _added(shard, ("accumulate",), size))
    if shard.keeps_both_gradients:
        further = _added(shard, stack.optimizer.accumulate_wide, size, "fp32")
    else:
        further = _added(shard, adds, size, "fp32" if shard.autocast or shard.gathers_each_pass else "")
    return Accumulation(further if stack.accumulates_first else None, further)


def table_accumulation(shard: Shard, table: Parameters) -> Accumulation:
    """Of an embedding table whose layers' GEMMs add up themselves: a dense gradient, zeroed for each micro-batch."""
    if not shard.stack.fused_gradient_accumulation or shard.training.task == "lora":
        return accumulation(shard, table)
    adds = shard.stack.optimizer.accumulate
    each = _added(shard, ("zero", *adds) if adds else (), round(table.total))
    return Accumulation(each, each)


def _added(shard: Shard, kernels: tuple[str, ...], size: int, dtype: str = "") -> Block | None:
    work = kernel_work(shard, kernels, 1, size, "fwd", dtype)
    return Block(name="accumulate", phase="backward", pieces=(work,)) if work else None
