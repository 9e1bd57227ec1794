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
from torchtitan.models.deepseek_v3 import (  # type: ignore[import-not-found,unused-ignore]
    DeepSeekV3ModelArgs,
)
from torchtitan.models.deepseek_v3 import (
    get_train_spec as get_train_spec_of_latent,
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
from calibration.steps.config import MODEL, MODEL_LATENT, MODEL_OF_EXPERTS, name_of
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


def flavour_of_latent(shape: Shape) -> Any:
    """Arguments of TorchTitan's DeepSeek-V3, which is V2 as well: the shape has the sizes of its model."""
    model = shape.catalogued
    routed = MoEArgs(
        num_experts=model.experts,
        num_shared_experts=model.shared_ffn // model.ffn,
        top_k=model.topk,
        score_func="softmax",
        route_norm=False,
        score_before_experts=False,
    )
    return DeepSeekV3ModelArgs(
        vocab_size=model.vocab,
        dim=model.hidden,
        inter_dim=model.dense_ffn,
        moe_inter_dim=model.ffn,
        n_layers=model.layers,
        n_dense_layers=model.dense_layers,
        n_heads=model.heads,
        moe_args=routed,
        q_lora_rank=model.q_rank,
        kv_lora_rank=model.kv_rank,
        qk_nope_head_dim=model.head_dim - model.rope_dim,
        qk_rope_head_dim=model.rope_dim,
        v_head_dim=model.value_dim,
    )


def metrics_processor(*arguments: Any, **options: Any) -> MetricsProcessor:
    """TorchTitan's own, with the printer as its logger."""
    processor = build_metrics_processor(*arguments, **options)
    processor.logger = Printer()
    return processor


def register(name: str, spec: Any, flavours: dict[str, Any]) -> None:
    """A model of TorchTitan under a name of ours."""
    register_train_spec(name, replace(spec, model_args=flavours, build_metrics_processor_fn=metrics_processor))


FLAVOURS = {
    MODEL: (get_train_spec, flavour),
    MODEL_OF_EXPERTS: (get_train_spec_of_experts, flavour_of_experts),
    MODEL_LATENT: (get_train_spec_of_latent, flavour_of_latent),
}
for word, (spec_of, made) in FLAVOURS.items():
    register(word, spec_of(), {name: made(shape) for name, shape in chosen().shapes.items() if name_of(shape) == word})
