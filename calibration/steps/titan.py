"""Imported by TorchTitan (`experimental.custom_import`): our shapes as flavours of its Llama 3, and exact figures.

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
from torchtitan.protocols.train_spec import register_train_spec  # type: ignore[import-not-found,unused-ignore]

from calibration.steps.case import Shape, chosen
from calibration.steps.config import MODEL
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


def metrics_processor(*arguments: Any, **options: Any) -> MetricsProcessor:
    """TorchTitan's own, with the printer as its logger."""
    processor = build_metrics_processor(*arguments, **options)
    processor.logger = Printer()
    return processor


register_train_spec(
    MODEL,
    replace(
        get_train_spec(),
        model_args={name: flavour(shape) for name, shape in chosen().shapes.items()},
        build_metrics_processor_fn=metrics_processor,
    ),
)
