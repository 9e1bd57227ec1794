"""Small jobs whose every figure can be worked out by hand, and prices set by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from calibration.cost.model import Prices
from hardware import catalog as hardware
from hardware.types import Cluster, Device
from sim.catalog import stack
from sim.job import Job
from workloads.layout import Layout, Training, check
from workloads.model import Model
from workloads.ops import ComputeOp
from workloads.shard import Shard
from workloads.stack import Stack

# Every size is divisible by 8, so that no split pads anything; 512 words are 4 x 128.
GPT = Model(
    name="small-gpt",
    family="gpt",
    layers=8,
    hidden=64,
    ffn=256,
    heads=8,
    kv_heads=8,
    head_dim=8,
    vocab=512,
    gated=False,
    norm="layer_norm",
    biases="all",
    tied_embeddings=True,
    positions="learned",
    max_positions=64,
    activation="gelu",
)
LLAMA = replace(
    GPT,
    name="small-llama",
    family="llama",
    gated=True,
    norm="rms_norm",
    biases="none",
    tied_embeddings=False,
    positions="rope",
    activation="silu",
    kv_heads=4,
)
TRAINING = Training(seq_len=64, global_batch=16, precision="bf16")


class Priced:
    """A cost model with prices set by hand: `seconds(op)` each, all equally uncertain."""

    def __init__(self, seconds: Callable[[ComputeOp], float], spread: float = 0.1) -> None:
        self.seconds = seconds
        self.spread = spread

    def price(self, ops: Sequence[ComputeOp], device: Device) -> Prices:  # noqa: ARG002
        return Prices(np.array([self.seconds(op) for op in ops]), np.full(len(ops), self.spread))


# A made-up device: 3 us a kernel, 100 TFLOP/s and 1 TB/s one after the other.
SIMPLE = Priced(lambda op: 3e-6 + op.flops / 1e14 + op.bytes / 1e12)


def changed(base: Stack, **tables: Any) -> Stack:
    """A stack with some keys of its tables, or some keys of its own, changed."""
    inner = {
        key: replace(getattr(base, key), **value) if isinstance(value, dict) else value for key, value in tables.items()
    }
    return replace(base, **inner)


def cluster(gpus: int = 8, name: str = "dgx-a100-80g") -> Cluster:
    """Just enough nodes for so many GPUs."""
    per_node = hardware.cluster(name, 1).gpus_per_node
    return hardware.cluster(name, max(-(-gpus // per_node), 1))


def make_job(
    model: Model = GPT,
    stack_name: str = "megatron-lm-2022",
    *,
    on: Stack | None = None,
    training: dict[str, Any] | None = None,
    machine: Cluster | None = None,
    **layout: Any,
) -> Job:
    """A small job; keywords are fields of its layout."""
    split = Layout(**layout)
    return Job(
        model=model,
        cluster=machine or cluster(split.gpus),
        training=replace(TRAINING, **(training or {})),
        layout=split,
        stack=on or stack(stack_name),
    )


def make_shard(model: Model = GPT, stack_name: str = "megatron-lm-2022", **keywords: Any) -> Shard:
    """The small job as one rank sees it, on as many GPUs as it asks for."""
    return make_job(model, stack_name, **keywords).shard()


def accepts(model: Model, layout: Layout, training: Training) -> bool:
    """Whether the three go together."""
    try:
        check(model, layout, training)
    except ValueError:
        return False
    return True
