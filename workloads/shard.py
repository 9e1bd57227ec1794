"""What one rank sees of a model: the shapes of a micro-batch after every split."""

from dataclasses import dataclass, replace

from workloads.layout import Layout, Training
from workloads.model import Kind, Model
from workloads.ops import DTYPE_BYTES, traffic_table
from workloads.parameters import Parameters
from workloads.precision import PRECISIONS, Precision
from workloads.stack import Kernels, Stack

ADAPTED = ("qkv", "proj")  # the layers that adapters are for (LoRA, arXiv:2106.09685, 4.2: those of attention)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One rank's part of a micro-batch. Token counts are those of one micro-batch."""

    model: Model
    layout: Layout
    training: Training
    stack: Stack
    execution: str
    attention: str
    predicts: bool = False  # every layer a further token

    def alike(self, kind: Kind) -> "Shard":
        """The same with every layer of one of the model's kinds."""
        return replace(self, model=self.model.alike(kind), predicts=kind.predicts)

    @property
    def kernels(self) -> Kernels:
        """Of the stack, in this execution and recomputation, with this attention."""
        full, unfused = self.recompute_mode == "full", self.attention == "unfused"
        return self.stack.kernels_for(self.execution, recomputed=full, unfused=unfused)

    @property
    def compiled_kernels(self) -> frozenset[str]:
        """Those that a compiler makes, in this execution."""
        made = self.stack.compiled.values() if self.execution == "compile" else ()
        return frozenset(kernel for kernels in made for kernel in kernels)

    @property
    def precision(self) -> Precision:
        """Data types of the step."""
        return PRECISIONS[self.training.precision]

    @property
    def recompute_mode(self) -> str:
        """none, selective, selective-op, selective-op-alternate, full or offload, as the stack does it."""
        mode = self.training.recompute_mode
        return "selective-op-alternate" if mode == "selective-op" and self.stack.alternates else mode

    @property
    def autocast(self) -> bool:
        """Whether fp32 weights and residuals are cast for each GEMM (torch.autocast).

        ZeRO 3 casts what it gathers, and everything between the GEMMs is of 16 bits then.
        """
        wide = self.stack.storage.weight == "fp32" and self.precision.master is not None
        return wide and self.layout.zero != 3

    @property
    def gathers_once(self) -> bool:
        """Whether ZeRO 3 gathers parameters for all micro-batches of a step, and reduces the sum of their gradients."""
        return self._sharded and self.layout.pp > 1 and self.stack.data.kept_in_pipeline

    @property
    def gathers_each_pass(self) -> bool:
        """Whether ZeRO 3 gathers the parameters of every pass anew."""
        return self._sharded and not self.gathers_once

    @property
    def gathers_narrow(self) -> bool:
        """Whether ZeRO gathers the weights of the layers' GEMMs in the type of the GEMMs."""
        return self.layout.shards > 1 and self.stack.data.gathers_narrow and self._one_scale

    def gathers_narrow_inputs(self, linear: str = "") -> bool:
        """Whether sequence parallelism gathers the input of a linear layer in 8 or 4 bits; unnamed, a gradient."""
        cast = self.precision.quantised and self.precision.scales == "tensor" and not self.adapted(linear)
        return self.layout.sequence_parallel and self.stack.gathers_narrow_inputs and cast

    @property
    def frozen(self) -> bool:
        """Whether the layers' weights have no gradients: adapters alone are trained."""
        return self.training.task == "lora"

    def adapted(self, linear: str) -> bool:
        """Whether an adapter reads the input of a linear layer too, in the type of activations."""
        return self.frozen and linear in ADAPTED

    @property
    def _one_scale(self) -> bool:
        return self.precision.gemm == "fp8" and self.precision.scales == "tensor"

    def held(self, parameters: Parameters) -> float:
        """Of parameters, how many a rank holds of what ZeRO shards."""
        return parameters.dense / self.layout.shards + parameters.experts / self.layout.expert_shards

    @property
    def _sharded(self) -> bool:
        return self.layout.zero == 3 and self.layout.shards > 1

    @property
    def residual_dtype(self) -> str:
        """Of what runs from layer to layer, and of norms."""
        return "fp32" if self.autocast else self.precision.activation

    @property
    def norm_dtype(self) -> str:
        """Of most of what a norm moves: where it casts for the GEMM behind it, little is of the residual's type."""
        return self.residual_dtype if self.kernels.cast else self.precision.activation

    @property
    def reduced_dtype(self) -> str:
        """Of gradients on the wire."""
        return self._gradient_dtype(self.stack.storage.reduce, self.training.gradients)

    @property
    def gradient_dtype(self) -> str:
        """Of the gradients that are kept: autograd keeps those of fp32 weights in fp32, however they were reduced."""
        storage = self.stack.storage
        return self._gradient_dtype(storage.gradient, "auto" if storage.weight == "fp32" else self.training.gradients)

    @property
    def has_wide_gradients(self) -> bool:
        """Whether gradients that are kept would be smaller in the type of activations."""
        weight, activation = self.stack.storage.weight, self.precision.activation
        kept = not self.frozen and weight != "fp32"
        return kept and self.gradient_dtype == "fp32" != activation

    @property
    def keeps_both_gradients(self) -> bool:
        """Whether those of 16 bits are kept until the next backward pass, beside the fp32 buffer that adds them up."""
        return bool(self.stack.optimizer.accumulate_wide) and self.has_wide_gradients

    def _gradient_dtype(self, usual: str, said: str) -> str:
        narrow = self.precision.pure or (self.precision.quantised and self.stack.storage.narrow_gradients)
        wide = self.training.precision in self.stack.storage.wide_for
        chosen = said if said != "auto" else "compute" if narrow else "fp32" if wide else usual
        return "fp32" if chosen == "fp32" else self.precision.activation

    @property
    def weight_gradient_dtype(self) -> str:
        """That the GEMMs of weight gradients write: the buffer's with fused accumulation, which adds to it."""
        fused = self.stack.fused_gradient_accumulation
        return self.gradient_dtype if fused else self.precision.activation

    @property
    def dropout(self) -> bool:
        """Whether residuals go through dropout."""
        return self.stack.dropout and self.model.family != "llama"

    @property
    def sequence(self) -> int:
        """Tokens of a sequence on this rank, context parallelism applied."""
        return self.training.seq_len // self.layout.cp

    @property
    def tokens(self) -> int:
        """Rows of the GEMMs."""
        return self.training.micro_batch * self.sequence

    @property
    def split_tokens(self) -> int:
        """Rows of norms and residuals: sequence parallelism splits them over the tensor-parallel ranks."""
        return self.tokens // self.layout.tp if self.layout.sequence_parallel else self.tokens

    @property
    def window(self) -> int:
        """Keys that a query of the layer sees, where that is fewer than there are; else 0."""
        return self.model.window if self.model.window < self.core_sequence else 0

    @property
    def heads(self) -> int:
        """Query heads on this rank."""
        return self.model.heads // self.layout.tp

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values on this rank; replicated where there are fewer than ranks."""
        return max(self.model.kv_heads // self.layout.tp, 1)

    @property
    def exchanges_heads(self) -> bool:
        """Whether context-parallel ranks have the whole sequence for some of the heads while attention runs."""
        return self.layout.cp > 1 and self.layout.context_mode == "all_to_all"

    @property
    def core_sequence(self) -> int:
        """Tokens of a sequence whose queries are on this rank while attention runs."""
        return self.training.seq_len if self.exchanges_heads else self.sequence

    @property
    def core_heads(self) -> int:
        """Query heads on this rank while attention runs."""
        return self.heads // self.layout.cp if self.exchanges_heads else self.heads

    @property
    def core_kv_heads(self) -> int:
        """Heads of keys and values on this rank while attention runs."""
        return self.kv_heads // self.layout.cp if self.exchanges_heads else self.kv_heads

    @property
    def ffn(self) -> int:
        """Columns of the MLP on this rank."""
        return self.model.ffn // self.layout.tp

    @property
    def experts(self) -> int:
        """Experts on this rank."""
        return self.model.experts // self.layout.ep

    @property
    def routed_tokens(self) -> int:
        """Rows that this rank sends to experts, and that its experts get where they are dealt evenly."""
        return self.split_tokens * self.model.topk

    @property
    def sends_once(self) -> bool:
        """Whether a row goes to other ranks once, however many of its experts they have."""
        return self.layout.ep > 1 and self.layout.expert_mode == "deduplicated"

    @property
    def vocab(self) -> int:
        """Rows of the embedding on this rank, padded as the stack does."""
        multiple = self.stack.pads_vocab_to * self.layout.tp
        return -(-self.model.vocab // multiple) * multiple // self.layout.tp

    def saved_bytes(self, kernels: tuple[str, ...], elements: float, dtype: str = "") -> float:
        """What a chain of kernels over `elements`, of the activations' type or another, keeps for its backward pass."""
        table = traffic_table()
        width = DTYPE_BYTES[dtype or self.precision.activation]
        rows = [table[kernel, "saved"] for kernel in kernels if (kernel, "saved") in table]
        return elements * sum(row.elements * width + row.bytes for row in rows)
