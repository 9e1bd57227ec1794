"""Peak memory of a GPU, by what holds it, for the stage that needs most.

Weights, gradients and optimizer states follow from the precision, the stack's storage and ZeRO; activations
from what the pieces of a layer keep, times the micro-batches that the schedule has under way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workloads.layout import micro_batches
from workloads.ops import DTYPE_BYTES
from workloads.parameters import Parameters, summed
from workloads.schedules import Slot, paired, schedule
from workloads.shard import Shard
from workloads.stage import (
    Blocks,
    Chunk,
    chunk_kept_bytes,
    chunk_parameters,
    chunk_put_off_bytes,
    end_parameters,
    kinds,
    layer_kept_bytes,
    layer_parameters,
    matrices_of,
    stage_chunks,
)

Parts = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of one GPU at its peak.

    Args:
        lost: taken by the training program's allocator and not in use at the peak.
        reserved: what the driver and libraries take beside it.
    """

    stage: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    temporaries: float
    communication: float
    lost: float
    reserved: float
    capacity: float

    @property
    def allocated(self) -> float:
        """In use by the training program at the peak."""
        states = self.weights + self.gradients + self.optimizer
        return states + self.activations + self.temporaries + self.communication

    @property
    def held(self) -> float:
        """Taken by the program's allocator from the device, in use or not."""
        return self.allocated + self.lost

    @property
    def fits(self) -> bool:
        """Whether all of it is less than the device has."""
        return self.held + self.reserved <= self.capacity


def peak_memory(shard: Shard, capacity: float) -> Memory:
    """Of the worst stage, on devices with `capacity` bytes."""
    blocks = Blocks(shard=shard)
    stages = [_stage_memory(blocks, stage, capacity) for stage in range(shard.layout.pp)]
    return max(stages, key=lambda memory: (memory.allocated, -memory.stage))


def _stage_memory(blocks: Blocks, stage: int, capacity: float) -> Memory:
    shard = blocks.shard
    storage, chunks = shard.stack.storage, stage_chunks(shard, stage)
    moments = _pass(blocks, chunks), _update(blocks, chunks)
    peak = max(moments, key=lambda parts: sum(parts.values()))
    allocated, held = sum(peak.values()), _pools(shard, *moments)
    lost = held * (1 + storage.fragmentation.get(shard.execution, 0.0)) - allocated
    return Memory(stage=stage, lost=lost, reserved=storage.reserved_bytes, capacity=capacity, **peak)


def _pass(blocks: Blocks, chunks: tuple[Chunk, ...]) -> Parts:
    """Where most activations are kept: between a forward and a backward pass.

    Gradients that are made anew in each step are not there yet in its first backward pass; those that ZeRO 3 reduces
    once a step add up whole.
    """
    shard = blocks.shard
    parameters = summed(chunk_parameters(shard, chunk) for chunk in chunks)
    states = _state_bytes(shard, chunks, parameters)
    if shard.gathers_once:
        states["gradients"] = parameters.total * DTYPE_BYTES[shard.reduced_dtype]
    elif not shard.stack.storage.gradients_kept and micro_batches(shard.layout, shard.training) == 1:
        states["gradients"] = 0.0
    return {
        **states,
        "activations": _activation_bytes(blocks, chunks),
        "temporaries": _temporary_bytes(blocks, chunks),
        "communication": _gathered_bytes(shard, chunks) + _bucket_bytes(shard, parameters),
    }


def _update(blocks: Blocks, chunks: tuple[Chunk, ...]) -> Parts:
    """At the end of the last backward pass, with all gradients and the last of them under way."""
    shard = blocks.shard
    parameters = summed(chunk_parameters(shard, chunk) for chunk in chunks)
    moving = _reduced_bytes(shard, chunks) + _bucket_bytes(shard, parameters)
    return {**_state_bytes(shard, chunks, parameters), "activations": 0.0, "temporaries": 0.0, "communication": moving}


def _pools(shard: Shard, passing: Parts, update: Parts) -> float:
    """What the allocator takes. It keeps a pool for each stream: what one of them freed is of no use to the others."""
    if not shard.stack.storage.gradient_pool or shard.layout.shards == 1:
        return max(sum(passing.values()), sum(update.values()))
    others = sum(passing.values()) - (0.0 if shard.gathers_once else passing["gradients"])
    return others + update["gradients"] + update["communication"]


def _state_bytes(shard: Shard, chunks: tuple[Chunk, ...], parameters: Parameters) -> Parts:
    """Weights, gradients and optimizer states of one rank."""
    precision, storage, layout = shard.precision, shard.stack.storage, shard.layout
    width = 4.0 if storage.weight == "fp32" and not precision.pure else DTYPE_BYTES[precision.weight]
    held = shard.held(parameters)
    weights = width * (held if layout.zero == 3 else parameters.total)
    if shard.training.task == "lora":
        frozen = weights * (1 - _narrow_share(shard, chunks, parameters) * (1 - DTYPE_BYTES[precision.gemm] / width))
        return {"weights": frozen, "gradients": 0.0, "optimizer": 0.0}
    both = shard.keeps_both_gradients
    gradient = DTYPE_BYTES[shard.gradient_dtype] + (DTYPE_BYTES[precision.activation] if both else 0.0)
    split = layout.zero == 3 or (layout.zero == 2 and storage.sharded_gradient_buffer)
    whole = 2.0 if storage.remainders and precision.weight == "bf16" else 4.0
    master = whole if precision.master and storage.weight == "compute" else 0.0
    copy = 4.0 if storage.fp32_gradient_copy and precision.master and not both else 0.0
    moments = {"sgd": 1}.get(shard.training.optimizer, 2) * DTYPE_BYTES[precision.moments]
    return {
        "weights": weights,
        "gradients": gradient * (held if split else parameters.total),
        "optimizer": held * (master + copy + moments),
    }


def _narrow_share(shard: Shard, chunks: tuple[Chunk, ...], parameters: Parameters) -> float:
    """Share of frozen weights kept in the type of their GEMMs alone, if the stack keeps narrow copies at all."""
    if not shard.precision.quantised or shard.kernels.quantise_weights:
        return 0.0
    return sum(matrices_of(shard, chunk) for chunk in chunks) / parameters.total


def _activation_bytes(blocks: Blocks, chunks: tuple[Chunk, ...]) -> float:
    """What the micro-batches under way keep, at the worst moment of the schedule."""
    shard = blocks.shard
    layout, count = shard.layout, micro_batches(shard.layout, shard.training)
    kept = [chunk_kept_bytes(blocks, chunk) for chunk in chunks]
    plan = schedule(layout.schedule_name)
    put_off = [chunk_put_off_bytes(blocks, chunk) for chunk in chunks] if plan.SPLITS else []
    order = plan.order(chunks[0].stage, layout.pp, layout.vp, count)
    return most_kept(paired(order) if layout.expert_overlap else order, kept, put_off)


def most_kept(order: Iterable[Slot], kept: Sequence[float], put_off: Sequence[float] = ()) -> float:
    """Largest sum of `kept[chunk]` over passes that have gone forward and not yet back, and of `put_off` in between.

    What a backward pass lets go of is still there in the forward pass beside it.
    """
    now = most = going = 0.0
    for slot in order:
        if slot.direction == "F":
            now += kept[slot.chunk]
            most = max(most, now)
            now, going = now - going, 0.0
        elif slot.beside:
            going = kept[slot.chunk]
        elif slot.direction == "I":
            now += put_off[slot.chunk] - kept[slot.chunk]
            most = max(most, now)
        else:
            now -= put_off[slot.chunk] if slot.direction == "W" else kept[slot.chunk]
    return most


def _temporary_bytes(blocks: Blocks, chunks: tuple[Chunk, ...]) -> float:
    """The larger of a layer's backward pass and the loss."""
    layers = [_layer_bytes(kind, chunk) for chunk in chunks for kind, _ in kinds(blocks, chunk)]
    loss = _loss_bytes(blocks) if any(chunk.last for chunk in chunks) else 0.0
    return max(*layers, loss, 0.0)


def _layer_bytes(blocks: Blocks, chunk: Chunk) -> float:
    """Of a layer's backward pass: gradients on their way through, and what is made again for it."""
    gradients = 2 * max(piece.output_bytes for piece in blocks.layer)
    everything = sum(piece.saved_bytes for piece in blocks.layer)
    return gradients + max(everything - layer_kept_bytes(blocks, recomputed=chunk.recomputed > 0), 0.0)


def _loss_bytes(blocks: Blocks) -> float:
    """Logits and their gradient in 16 bits, and what the losses keep: fp32 ones are among that.

    A layer that predicts a further token has a loss of its own; their backward passes come one after the other. A
    trainer may let go of its logits before the backward pass; a pipeline may hold those that were sent on.
    """
    shard, loss = blocks.shard, blocks.head[-1]
    storage, logits = shard.stack.storage, loss.output_bytes / shard.precision.activation_bytes
    narrow_bytes = logits * min(DTYPE_BYTES["bf16"], shard.precision.activation_bytes)
    freed_bytes = min(logits * DTYPE_BYTES["fp32"], loss.saved_bytes) if storage.frees_logits else 0.0
    sent_bytes = loss.output_bytes if storage.outputs_kept and shard.layout.pp > 1 else 0.0
    kept_bytes = narrow_bytes - freed_bytes + sum(piece.saved_bytes for piece in blocks.head)
    return narrow_bytes + sent_bytes + (1 + shard.model.mtp_layers) * kept_bytes


def _gathered_bytes(shard: Shard, chunks: tuple[Chunk, ...]) -> float:
    """ZeRO 3: the unit at work and the next one, gathered in the type that computes; or all of them, for a step."""
    if shard.gathers_once:
        return summed(chunk_parameters(shard, chunk) for chunk in chunks).total * shard.precision.activation_bytes
    if not shard.gathers_each_pass:
        return 0.0
    layer, largest = _units(shard, chunks)
    return (layer + largest) * shard.precision.activation_bytes


def _reduced_bytes(shard: Shard, chunks: tuple[Chunk, ...]) -> float:
    """ZeRO 3: the gradients of a unit before they are reduced."""
    if not (shard.gathers_each_pass or shard.gathers_once) or shard.training.task == "lora":
        return 0.0
    return _units(shard, chunks)[1] * DTYPE_BYTES[shard.reduced_dtype]


def _units(shard: Shard, chunks: tuple[Chunk, ...]) -> tuple[float, float]:
    """Parameters of a layer, and of the largest unit: a layer, the embedding or the head."""
    found = (kind.shard for chunk in chunks for kind, _ in kinds(Blocks(shard=shard), chunk))
    layer = max((layer_parameters(each).total for each in found), default=0.0)
    ends = (_end_parameters(shard, chunk) for chunk in chunks)
    return layer, max(layer, *ends)


def _end_parameters(shard: Shard, chunk: Chunk) -> float:
    """Of the embedding or the head of a chunk; where it has both, they are two units."""
    both = chunk.first and chunk.last and not shard.model.tied_embeddings
    return end_parameters(shard, chunk) / (2 if both else 1)


def _bucket_bytes(shard: Shard, parameters: Parameters) -> float:
    """A bucket of gradients under way; all of them where buckets stay allocated beside the gradients (DDP)."""
    layout, settings = shard.layout, shard.stack.data
    if layout.zero == 3 or layout.data_ranks == 1 or shard.training.task == "lora":
        return 0.0
    whole = parameters.total * DTYPE_BYTES[shard.reduced_dtype]
    return whole if settings.buckets_kept and layout.zero == 0 else min(settings.bucket_bytes, whole)
