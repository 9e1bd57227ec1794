"""Offloading: what the first layers keep for their backward pass waits in the memory of the host.

As Transformer Engine schedules it (transformer_engine/pytorch/cpu_offload.py, default scheduling): of L layers the
first n are offloaded, and no more than L - n layers have what they keep on the device at a time. So the forward pass
of a layer waits until the layer L - n before it has been copied out, and the backward pass fetches a layer as soon as
it is done with the one L - n behind it. All copies of a rank go over one stream.
"""

from collections.abc import Sequence

from workloads.graph import Message
from workloads.ops import HostCopy
from workloads.schedules import Slot
from workloads.weave import Weave

STREAM = "offload"
DIMENSION = "offload"


def most_resident_bytes(kept: Sequence[float], away: int) -> float:
    """Largest part of what layers keep that is on the device at a time; `away` of them are offloaded."""
    resident = len(kept) - away
    return max(sum(kept[start : start + resident]) for start in range(away + 1))


class Copies:
    """Queues the copies of a model on one stage, beside the passes of its layers.

    Args:
        kept: bytes that each layer keeps of a micro-batch.
        away: how many layers are offloaded, from the first one on.
    """

    def __init__(self, weave: Weave, kept: Sequence[float], away: int) -> None:
        self.weave = weave
        self.away = away
        self.resident = len(kept) - away
        ops = {size: (HostCopy(bytes=size),) for size in kept[:away]}
        out = {size: Message(name="out", ops=op, dimension=DIMENSION) for size, op in ops.items()}
        back = {size: Message(name="back", ops=op, dimension=DIMENSION) for size, op in ops.items()}
        self.out = [out[size] for size in kept[:away]]
        self.back = [back[size] for size in kept[:away]]
        # Micro-batch, layer -> the copy that was queued.
        self.gone: dict[tuple[int, int], tuple[int, ...]] = {}
        self.returned: dict[tuple[int, int], tuple[int, ...]] = {}

    def before(self, slot: Slot, layer: int) -> tuple[int, ...]:
        """Copies that the pass of a layer waits for; backward, the next one is queued."""
        if slot.direction == "F":
            return self.gone.pop((slot.micro_batch, layer - self.resident), ())
        self._fetch(slot, layer - self.resident + 1)
        return self.returned.pop((slot.micro_batch, layer), ())

    def behind(self, slot: Slot, layer: int, done: tuple[int, ...]) -> None:
        """Queue what follows from the pass of a layer."""
        if slot.direction == "F" and layer < self.away:
            self.gone[slot.micro_batch, layer] = self._queue(self.out[layer], done, slot)

    def _fetch(self, slot: Slot, layer: int) -> None:
        """As soon as the device has computed what is queued."""
        if 0 <= layer < self.away:
            self.returned[slot.micro_batch, layer] = self._queue(self.back[layer], self.weave.tail(0), slot)

    def _queue(self, message: Message, after: tuple[int, ...], slot: Slot) -> tuple[int, ...]:
        return self.weave.add(message, 0, after, STREAM, slot.micro_batch)
