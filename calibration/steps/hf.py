"""One rank of Hugging Face Transformers: the step of its Trainer, on random tokens, under DDP where there are replicas.

Model, loss and recomputation are Transformers' own, optimizer and clipping PyTorch's, as `Trainer` calls them.
"""

import sys
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from torch.nn.parallel import DistributedDataParallel  # type: ignore[import-not-found,unused-ignore]
from transformers import (  # type: ignore[import-not-found,unused-ignore]
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen3Config,
)

from calibration.steps import rank
from calibration.steps.case import Case, Shape

BATCHES = 4  # different ones, in turn


def config_of(case: Case, shape: Shape) -> Any:
    """A Llama, or a Qwen3 where the model of the catalogue has normalised queries and keys."""
    normalised = bool(shape.model) and shape.catalogued.qk_norm
    heads = {"head_dim": shape.catalogued.head_dim} if normalised else {}
    return (Qwen3Config if normalised else LlamaConfig)(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        max_position_embeddings=case.seq_len,
        tie_word_embeddings=False,
        use_cache=False,
        **heads,
    )


class Training:
    """A model, its optimizer and its batches."""

    def __init__(self, case: Case, shape: Shape) -> None:
        self.case, self.gpu = case, torch.device("cuda", torch.cuda.current_device())
        with self.gpu:
            kept = torch.float32 if case.dtype == "float32" else torch.bfloat16
            self.bare = AutoModelForCausalLM.from_config(
                config_of(case, shape), attn_implementation="sdpa", dtype=kept
            ).train()
        if case.recompute == "full":
            self.bare.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model = DistributedDataParallel(self.bare) if case.ddp > 1 else self.bare
        self.optimizer = torch.optim.AdamW(self.bare.parameters(), lr=1e-5, fused=True)
        rows = (case.batch, case.seq_len)
        self.batches = cycle([torch.randint(0, shape.vocab, rows, device=self.gpu) for _ in range(BATCHES)])

    def loss(self, tokens: Any) -> Any:
        """Of a micro-batch; fp32 weights are computed with in bf16 (`bf16=True` of its arguments)."""
        casts = self.case.dtype == "float32"
        with torch.autocast("cuda", dtype=torch.bfloat16) if casts else nullcontext():
            return self.model(input_ids=tokens, labels=tokens).loss / self.case.accumulate

    def step(self) -> float:
        """`training_step` of each micro-batch, and the update; the loss of the last one is read."""
        for number in range(1, self.case.accumulate + 1):
            waits = self.case.ddp > 1 and number < self.case.accumulate
            with self.model.no_sync() if waits else nullcontext():
                loss = self.loss(next(self.batches))
                loss.backward()
        torch.nn.utils.clip_grad_norm_(self.bare.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss) * self.case.accumulate


def run(config: Path) -> None:
    """Trains the case of a file, in a process that has the environment of a rank; a line of metrics for each step."""
    case, shape, _ = rank.read(config)
    rank.joined()
    torch.manual_seed(1234)
    rank.trained(config, Training(case, shape).step)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
