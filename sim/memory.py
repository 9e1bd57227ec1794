"""Peak memory of a GPU, by what holds it, for the stage that needs most.

Weights, gradients and optimizer states follow from the precision, the stack's storage and ZeRO; activations
from what the pieces of a layer keep, times the micro-batches that the schedule has under way.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from workloads.layout import micro_batches
from workloads.ops import DTYPE_BYTES
from workloads.schedules import Slot, schedule
from workloads.shard import Shard
from workloads.stage import (
    Blocks,
    Chunk,
    chunk_kept_bytes,
    chunk_parameters,
    layer_kept_bytes,
    layer_parameters,
    stage_chunks,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of one GPU at its peak. `reserved` is what the driver, libraries and the allocator take."""

    stage: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    temporaries: float
    communication: float
    reserved: float
    capacity: float

    @property
    def allocated(self) -> float:
        """By the training program: what its allocator reports."""
        states = self.weights + self.gradients + self.optimizer
        return states + self.activations + self.temporaries + self.communication

    @property
    def fits(self) -> bool:
        """Whether all of it is less than the device has."""
        return self.allocated + self.reserved <= self.capacity


def peak_memory(shard: Shard, capacity: float) -> Memory:
    """Of the worst stage, on devices with `capacity` bytes."""
    blocks = Blocks(shard=shard)
    stages = [_stage_memory(blocks, stage, capacity) for stage in range(shard.layout.pp)]
    return max(stages, key=lambda memory: (memory.allocated, -memory.stage))


def _stage_memory(blocks: Blocks, stage: int, capacity: float) -> Memory:
    shard = blocks.shard
    chunks = stage_chunks(shard, stage)
    parameters = sum(chunk_parameters(shard, chunk) for chunk in chunks)
    parts = {
        **_state_bytes(shard, parameters),
        "activations": _activation_bytes(blocks, chunks),
        "temporaries": _temporary_bytes(blocks, chunks),
        "communication": _communication_bytes(shard, chunks, parameters),
    }
    storage = shard.stack.storage
    reserved = storage.reserved_bytes + storage.fragmentation * sum(parts.values())
    return Memory(stage=stage, reserved=reserved, capacity=capacity, **parts)


def _state_bytes(shard: Shard, parameters: float) -> dict[str, float]:
    """Weights, gradients and optimizer states of one rank."""
    precision, storage, layout = shard.precision, shard.stack.storage, shard.layout
    width = 4.0 if storage.weight == "fp32" and not precision.pure else DTYPE_BYTES[precision.weight]
    weights = parameters * width / (layout.shards if layout.zero == 3 else 1)
    if shard.training.task == "lora":
        return {"weights": weights, "gradients": 0.0, "optimizer": 0.0}
    gradient = 4.0 if storage.gradient == "fp32" and not precision.pure else DTYPE_BYTES[precision.activation]
    split = layout.zero == 3 or (layout.zero == 2 and storage.sharded_gradient_buffer)
    master = 4.0 if precision.master and storage.weight == "compute" else 0.0
    copy = 4.0 if storage.fp32_gradient_copy and precision.master else 0.0
    moments = {"sgd": 1}.get(shard.training.optimizer, 2) * DTYPE_BYTES[precision.moments]
    return {
        "weights": weights,
        "gradients": parameters * gradient / (layout.shards if split else 1),
        "optimizer": parameters * (master + copy + moments) / layout.shards,
    }


def _activation_bytes(blocks: Blocks, chunks: tuple[Chunk, ...]) -> float:
    """What the micro-batches under way keep, at the worst moment of the schedule."""
    shard = blocks.shard
    layout, count = shard.layout, micro_batches(shard.layout, shard.training)
    kept = [chunk_kept_bytes(blocks, chunk) for chunk in chunks]
    plan = schedule(layout.schedule_name)
    return most_kept(plan.order(chunks[0].stage, layout.pp, layout.vp, count), kept)


def most_kept(order: Iterable[Slot], kept: list[float]) -> float:
    """Largest sum of `kept[chunk]` over passes that have gone forward and not yet back."""
    now = most = 0.0
    for slot in order:
        if slot.direction == "F":
            now += kept[slot.chunk]
            most = max(most, now)
        else:
            now -= kept[slot.chunk]
    return most


def _temporary_bytes(blocks: Blocks, chunks: tuple[Chunk, ...]) -> float:
    """The larger of a layer's backward pass and the loss."""
    layer = blocks.layer
    gradients = 2 * max(piece.output_bytes for piece in layer)
    everything = sum(piece.saved_bytes for piece in layer)
    again = everything - min(layer_kept_bytes(blocks, recomputed=chunk.recomputed > 0) for chunk in chunks)
    loss = _loss_bytes(blocks) if any(chunk.last for chunk in chunks) else 0.0
    return max(gradients + max(again, 0.0), loss)


def _loss_bytes(blocks: Blocks) -> float:
    """Logits, what the loss keeps of them, and their gradient."""
    loss = blocks.head[-1]
    return 2 * loss.output_bytes + sum(piece.saved_bytes for piece in blocks.head)


def _communication_bytes(shard: Shard, chunks: tuple[Chunk, ...], parameters: float) -> float:
    """Two gathered layers and the gradients of one for ZeRO 3; a bucket for the others."""
    layout, storage = shard.layout, shard.stack.storage
    width = DTYPE_BYTES[shard.precision.activation]
    gradient = 4.0 if storage.reduce == "fp32" else width
    if layout.zero == 3 and layout.shards > 1:
        layer = layer_parameters(shard)
        ends = max(chunk_parameters(shard, chunk) - chunk.layers * layer for chunk in chunks)
        return (layer + max(layer, ends)) * width + layer * gradient
    if layout.data_ranks == 1 or shard.training.task == "lora":
        return 0.0
    return min(shard.stack.data.bucket_bytes, parameters * gradient)
