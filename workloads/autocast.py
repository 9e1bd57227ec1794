"""What torch.autocast adds to linear layers whose weights are fp32: 16-bit copies of weights and inputs.

A weight is cast once in a pass, and its copy is kept for the backward pass; an input from an fp32 norm is cast by each
layer that reads it. Their gradients are cast back.
"""

from typing import NamedTuple

from workloads.graph import Work
from workloads.pieces import kernel_work
from workloads.shard import Shard

# The name under which data gradients are known: their communication can run beside the weight gradients.
DATA = "data"


class Copies(NamedTuple):
    """Casts around the GEMMs of linear layers over one input, and what they keep beside it (bytes)."""

    forward: tuple[Work, ...] = ()
    data: tuple[Work, ...] = ()
    weights: tuple[Work, ...] = ()
    bytes: float = 0.0


def autocasts(shard: Shard, inputs: int, outputs: tuple[int, ...], *, behind_norm: bool) -> Copies:
    """Of [tokens, inputs] -> [tokens, each of outputs]; none without autocast."""
    if not shard.autocast:
        return Copies()
    kernels = shard.kernels.cast if behind_norm else ()
    weight_bytes = sum(outputs) * inputs * shard.precision.activation_bytes
    again = (len(outputs) - 1 if kernels else 0) * shard.tokens * inputs * shard.precision.activation_bytes
    back = kernel_work(shard, kernels * len(outputs), shard.tokens, inputs, "bwd")
    return Copies(
        forward=(
            *kernel_work(shard, ("cast",), sum(outputs), inputs, "fwd"),
            *kernel_work(shard, kernels * len(outputs), shard.tokens, inputs, "fwd"),
        ),
        data=tuple(work._replace(name=DATA) for work in back),
        weights=kernel_work(shard, ("cast",), sum(outputs), inputs, "bwd"),
        bytes=weight_bytes + again,
    )
