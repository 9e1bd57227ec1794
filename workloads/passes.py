"""A micro-batch through one stage, forward or backward, with the data-parallel messages beside it."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from workloads.graph import Message, Segment
from workloads.layout import micro_batches
from workloads.model import Kind
from workloads.offload import Copies
from workloads.ops import DTYPE_BYTES
from workloads.parallelism import data
from workloads.parallelism.sharded import Copied, into_bucket, with_copies
from workloads.parameters import Parameters
from workloads.schedules import Slot
from workloads.shard import Shard
from workloads.stage import (
    Blocks,
    Chunk,
    among_first,
    chunk_segment,
    end_parameters,
    layer_parameters,
    layers_kept_bytes,
    matrices_of,
    parameters_of,
)
from workloads.weave import Weave


class Passes:
    """Queues the passes of one stage.

    A pass is one task as long as nothing runs beside it; where parameters are gathered, gradients reduced or
    activations offloaded beside it, it is one task for each unit of layers.
    """

    def __init__(self, weave: Weave, blocks: Blocks, chunks: tuple[Chunk, ...]) -> None:
        self.weave = weave
        self.blocks = blocks
        self.chunks = chunks
        self.stage = chunks[0].stage
        self.whole = [_Kinds(blocks, chunk) for chunk in chunks]
        self.each_route = micro_batches(blocks.shard.layout, blocks.shard.training) // len(blocks.shard.layout.routes)
        # Of each chunk, micro-batches whose gradients of weights are to come.
        self.left = [self.each_route] * len(chunks)
        self.reduced: list[int] = []
        self.held: tuple[int, int] | None = None
        # What every pass asks for, worked out once.
        shard = blocks.shard
        self.gathers_each_pass = shard.gathers_each_pass
        self.gathers_once = shard.gathers_once
        self.gathers_ahead = _gathers_ahead(shard)
        self.reduces_last = _reduces_beside(shard)
        self.reduces_each = self.reduces_last and shard.layout.zero == 2
        self.copies = _copies(weave, blocks, chunks)

    @cached_property
    def units(self) -> list[list["_Unit"]]:
        """Of each chunk, where something runs beside a pass."""
        return [_Unit.all_of(self.blocks, chunk) for chunk in self.chunks]

    def run(self, slot: Slot, after: tuple[int, ...]) -> tuple[int, ...]:
        """Queue the pass; returns the tasks that its result waits for."""
        if slot.direction == "F":
            return self._forward(slot, after)
        if slot.direction == "I":
            return self._whole(slot, after)
        done = self._backward(slot, after, last=self.left[slot.chunk] == 1)
        self.left[slot.chunk] -= 1
        return done

    def _forward(self, slot: Slot, after: tuple[int, ...]) -> tuple[int, ...]:
        first = slot.micro_batch % self.each_route == 0
        if self.gathers_each_pass or (self.gathers_once and first):
            return self._sharded(self.units[slot.chunk], slot, after, reduces=False)
        if self.gathers_ahead and first:
            units = self.units[slot.chunk]
            gathered = [self._gather(unit, (), slot) for unit in units]
            for unit, ready in zip(units, gathered, strict=True):
                after = self._compute(unit, slot, (*after, *ready))
            return after
        return self._whole(slot, after)

    def _backward(self, slot: Slot, after: tuple[int, ...], *, last: bool) -> tuple[int, ...]:
        if self.gathers_each_pass:
            return self._sharded(self.units[slot.chunk][::-1], slot, after, reduces=True)
        if self.gathers_once:
            done = self._whole(slot, after)
            if last:
                self._reduce_sums(self.units[slot.chunk][::-1], done, slot)
            return done
        if self.reduces_each or (last and self.reduces_last):
            for unit in reversed(self.units[slot.chunk]):
                after = self._compute(unit, slot, after)
                self._reduce(unit, after, slot)
            return after
        return self._whole(slot, after)

    def _sharded(self, units: list["_Unit"], slot: Slot, after: tuple[int, ...], *, reduces: bool) -> tuple[int, ...]:
        """ZeRO 3: the parameters of the next unit are gathered while one computes.

        A backward pass starts with the unit that the forward pass ended with, which is still there.
        """
        before: tuple[int, ...] = (*after, *self.weave.tail(self.stage))
        first_is_here = reduces and self.held == (slot.micro_batch, slot.chunk)
        ready = () if first_is_here else self._gather(units[0], before, slot)
        done: tuple[int, ...] = after
        for index, unit in enumerate(units):
            following = self._gather(units[index + 1], before, slot) if index + 1 < len(units) else ()
            before = done = self._compute(unit, slot, (*done, *ready))
            if reduces:
                self._reduce(unit, done, slot)
            ready = following
        self.held = None if reduces else (slot.micro_batch, slot.chunk)
        return done

    def _reduce_sums(self, units: list["_Unit"], done: tuple[int, ...], slot: Slot) -> None:
        """Gradients of all micro-batches, unit by unit: one is copied into its bucket when the last one is reduced."""
        for unit in units:
            copied = self.weave.add(unit.bucket, self.stage, (*done, *self.reduced[-1:]))
            self._reduce(unit, copied, slot)

    def _whole(self, slot: Slot, after: tuple[int, ...]) -> tuple[int, ...]:
        if self.copies is not None:
            units = self.units[slot.chunk]
            for unit in units if slot.direction == "F" else reversed(units):
                after = self._compute(unit, slot, after)
            return after
        segment = self.whole[slot.chunk][self._kind(slot)]
        return self.weave.add(segment, self.stage, after, micro_batch=slot.micro_batch)

    def _compute(self, unit: "_Unit", slot: Slot, after: tuple[int, ...]) -> tuple[int, ...]:
        copied = self.copies.before(slot, unit.start) if self.copies is not None else ()
        done = self.weave.add(
            unit.segments[self._kind(slot)], self.stage, (*after, *copied), micro_batch=slot.micro_batch
        )
        if self.copies is not None:
            self.copies.behind(slot, unit.start, done)
        return done

    def _kind(self, slot: Slot) -> str:
        """Of pass: its direction, with a 1 for the first gradients of weights, and a plus sign beside another pass."""
        first = slot.direction in ("B", "W") and self.left[slot.chunk] == self.each_route
        return slot.direction + ("1" if first else "") + ("+" if slot.beside else "")

    def _gather(self, unit: "_Unit", after: tuple[int, ...], slot: Slot) -> tuple[int, ...]:
        if unit.gather is None:
            return ()
        return self.weave.add(unit.gather, self.stage, after, data.STREAM, slot.micro_batch)

    def _reduce(self, unit: "_Unit", after: tuple[int, ...], slot: Slot) -> None:
        if unit.reduce is not None:
            self.reduced.extend(self.weave.add(unit.reduce, self.stage, after, data.STREAM, slot.micro_batch))


def _reduces_beside(shard: Shard) -> bool:
    """Whether gradients are reduced beside the backward pass."""
    layout = shard.layout
    beside = {
        "none": False,
        "backward": True,
        "without-pipeline": layout.pp == 1,
        "without-tensor": layout.tp == 1,
    }[shard.stack.overlap.gradients]
    return layout.data_ranks > 1 and (beside or layout.zero == 3)


def _gathers_ahead(shard: Shard) -> bool:
    """Whether ZeRO 1 and 2 gather parameters, which an update has changed, beside the first forward pass."""
    updated = shard.layout.zero in (1, 2) and shard.layout.shards > 1 and not shard.training.layers_alone
    return updated and shard.stack.overlap.parameters


class _Kinds(dict[str, Segment]):
    """Each kind of pass through a chunk, or through some of its layers with what they copy; made when asked for."""

    def __init__(self, blocks: Blocks, chunk: Chunk, layers: range | None = None, copied: Copied | None = None) -> None:
        super().__init__()
        self.blocks, self.chunk, self.layers, self.copied = blocks, chunk, layers, copied

    def __missing__(self, kind: str) -> Segment:
        """A direction and its marks, as of `Passes`."""
        segment = chunk_segment(self.blocks, self.chunk, kind[0], self.layers, first="1" in kind)
        if kind.endswith("+"):
            segment = self.blocks.exchanging(segment)
        if self.copied is not None:
            segment = with_copies(self.blocks.shard, segment, kind, self.copied)
        self[kind] = segment
        return segment


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """Layers whose parameters and gradients travel together, in one bucket or FSDP unit.

    Args:
        start: number of the first of them in the chunk.
        segments: by kind of pass.
        bucket: the copy of its gradients into what is reduced.
    """

    start: int
    segments: _Kinds
    bucket: Segment
    gather: Message | None
    reduce: Message | None

    @classmethod
    def of(cls, blocks: Blocks, chunk: Chunk, layers: range) -> Self:
        """Some layers of a chunk."""
        shard = blocks.shard
        ends = end_parameters(shard, chunk)
        at_an_end = (chunk.first and layers.start == 0) or (chunk.last and layers.stop == chunk.layers)
        both = chunk.first and chunk.last and chunk.layers > len(layers)
        parameters = parameters_of(shard, chunk, layers)
        parameters += Parameters(dense=ends / (2 if both else 1) if at_an_end else 0.0)
        matrices = matrices_of(shard, chunk, layers)
        gathered = data.gathered_bytes(shard, parameters.total, matrices)
        copied = Copied(gathered / shard.precision.activation_bytes, parameters.total)
        return cls(
            start=layers.start,
            segments=_Kinds(blocks, chunk, layers, copied),
            bucket=into_bucket(shard, parameters.total),
            gather=_beside(data.gather_parameters(shard, parameters, matrices)),
            reduce=_beside(data.reduce_gradients(shard, parameters)),
        )

    @classmethod
    def all_of(cls, blocks: Blocks, chunk: Chunk) -> list[Self]:
        """The units of a chunk: single layers for ZeRO 3 and where layers are offloaded, buckets otherwise."""
        shard = blocks.shard
        size = 1
        if shard.layout.zero != 3 and not shard.training.offloaded_layers:
            width = DTYPE_BYTES[shard.reduced_dtype]
            size = max(1, round(shard.stack.data.bucket_bytes / (layer_parameters(shard).total * width)))
        starts = range(0, max(chunk.layers, 1), size)  # a chunk without layers still has the embedding or the head
        made: dict[tuple[tuple[Kind, ...], bool, bool, int], Self] = {}
        units = []
        for start in starts:
            layers = range(start, min(start + size, chunk.layers))
            again = among_first(layers, chunk.recomputed)
            of = tuple(shard.model.kind(chunk.start + layer) for layer in layers)
            key = (of, start == 0, layers.stop == chunk.layers, again)
            if key not in made:
                made[key] = cls.of(blocks, chunk, layers)
            units.append(replace(made[key], start=start))
        return units


def _copies(weave: Weave, blocks: Blocks, chunks: tuple[Chunk, ...]) -> Copies | None:
    """Of a stage that is the whole model; None where nothing is offloaded."""
    away = blocks.shard.training.offloaded_layers
    return Copies(weave, layers_kept_bytes(blocks, chunks[0]), away) if away else None


def _beside(message: Message | None) -> Message | None:
    """Messages of units run beside the computation of others."""
    return None if message is None else replace(message, beside=True)
