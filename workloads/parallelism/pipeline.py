"""Pipeline parallelism: messages between stages, and the sum of gradients of a shared embedding."""

from dataclasses import replace

from workloads.graph import Message
from workloads.ops import DTYPE_BYTES, Collective, Transfer
from workloads.shard import Shard

STREAM = "pp"
DIMENSION = "pp"
SEND_RECV = "send_recv"  # name of the messages between stages


def stage_stride(shard: Shard) -> int:
    """How far apart neighbouring stages stand in the order of global ranks."""
    return shard.layout.gpus // shard.layout.pp


def activations(shard: Shard, stages: tuple[int, ...]) -> Message:
    """A micro-batch's activations, or their gradients, between two stages: neighbours, or the last one and the first.

    With scatter-gather each tensor-parallel rank sends its part, and the parts are gathered on arrival
    (SC21, section 4.1); with sequence parallelism each rank has only its part.
    """
    layout = shard.layout
    size = shard.split_tokens * shard.model.hidden * shard.precision.activation_bytes
    split = shard.stack.scatter_gather and layout.tp > 1 and not layout.sequence_parallel
    first, last = (stage * stage_stride(shard) for stage in sorted(stages))
    size_sent = size / layout.tp if split else size
    send = Transfer(bytes=size_sent, stride=last - first, source=first, ranks=layout.pp)
    if not split:
        return Message(name=SEND_RECV, ops=(send,), dimension=DIMENSION)
    gather = Collective(op="all_gather", bytes=size, ranks=layout.tp, dtype=shard.precision.activation)
    return Message(name=SEND_RECV, ops=(send, gather), dimension=DIMENSION)


def send_of(message: Message) -> Message:
    """What the sender has of it: parts are gathered on arrival."""
    return replace(message, ops=message.ops[:1])


def embedding_gradients(shard: Shard) -> Message:
    """First and last stage hold the same table: their gradients are summed."""
    size = shard.vocab * shard.model.hidden * DTYPE_BYTES[shard.reduced_dtype]
    stride = stage_stride(shard) * (shard.layout.pp - 1)
    op = Collective(op="all_reduce", bytes=size, ranks=2, stride=stride, dtype=shard.reduced_dtype)
    return Message(name="embedding all_reduce", ops=(op,), dimension=DIMENSION)


def norm_sum(shard: Shard) -> Message:
    """One number over all ranks that hold different parameters: the norm of the gradient."""
    op = Collective(op="all_reduce", bytes=4.0, ranks=shard.layout.gpus, dtype="fp32")
    return Message(name="norm all_reduce", ops=(op,), dimension=DIMENSION if shard.layout.pp > 1 else "dp")
