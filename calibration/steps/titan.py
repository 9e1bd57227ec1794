"""Imported by TorchTitan (`experimental.custom_import`): our shapes as flavours of its models, and exact figures.

TorchTitan's console line rounds and leaves out the memory in use, so every rank also prints the whole record of a
step as one line of JSON after `METRICS`. Model, parallelism and training loop are TorchTitan's own.
"""

import json
from dataclasses import replace
from typing import Any

from torchtitan.components.metrics import (  # type: ignore[import-not-found,unused-ignore]
    MetricsProcessor,
    build_metrics_processor,
)
from torchtitan.models.llama3 import (  # type: ignore[import-not-found,unused-ignore]
    TransformerModelArgs,
    get_train_spec,
)
from torchtitan.models.moe import MoEArgs  # type: ignore[import-not-found,unused-ignore]
from torchtitan.models.qwen3 import (  # type: ignore[import-not-found,unused-ignore]
    Qwen3ModelArgs,
)
from torchtitan.models.qwen3 import (
    get_train_spec as get_train_spec_of_experts,
)
from torchtitan.protocols.train_spec import register_train_spec  # type: ignore[import-not-found,unused-ignore]

from calibration.steps.case import Shape, chosen
from calibration.steps.config import MODEL, MODEL_OF_EXPERTS
from calibration.steps.log import METRICS

ROPE_THETA = 500000


class Printer:
    """Stands in for TorchTitan's TensorBoard logger."""

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """One line for a step."""
        print(METRICS + json.dumps({"step": step} | metrics, default=float), flush=True)  # noqa: T201

    def close(self) -> None:
        """Nothing is held open."""


def flavour(shape: Shape) -> Any:
    """Arguments of TorchTitan's model; it rounds the width of the MLP up to `multiple_of`, so that gives it exactly."""
    return TransformerModelArgs(
        dim=shape.hidden,
        n_layers=shape.layers,
        n_heads=shape.heads,
        n_kv_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        multiple_of=shape.ffn,
        rope_theta=ROPE_THETA,
    )


def flavour_of_experts(shape: Shape) -> Any:
    """Arguments of TorchTitan's Qwen3: all MLPs are routed, no expert is shared, weights of the experts sum to one."""
    routed = MoEArgs(
        num_experts=shape.experts,
        num_shared_experts=0,
        top_k=shape.topk,
        score_func="softmax",
        route_norm=True,
        score_before_experts=False,
    )
    return Qwen3ModelArgs(
        dim=shape.hidden,
        n_layers=shape.layers,
        n_heads=shape.heads,
        n_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        moe_enabled=True,
        moe_inter_dim=shape.ffn,
        moe_args=routed,
    )


def metrics_processor(*arguments: Any, **options: Any) -> MetricsProcessor:
    """TorchTitan's own, with the printer as its logger."""
    processor = build_metrics_processor(*arguments, **options)
    processor.logger = Printer()
    return processor


def register(name: str, spec: Any, flavours: dict[str, Any]) -> None:
    """A model of TorchTitan under a name of ours."""
    register_train_spec(name, replace(spec, model_args=flavours, build_metrics_processor_fn=metrics_processor))


SHAPES = chosen().shapes
register(MODEL, get_train_spec(), {name: flavour(shape) for name, shape in SHAPES.items() if not shape.experts})
register(
    MODEL_OF_EXPERTS,
    get_train_spec_of_experts(),
    {name: flavour_of_experts(shape) for name, shape in SHAPES.items() if shape.experts},
)
