"""What a training stack does with a model: kernels, data types, overlap, buckets, host cost.

A stack is a TOML file in `stacks/`. Every entry is a fact about the software, true for all that runs on it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from workloads.layout import ExpertMode

EXECUTIONS = ("eager", "compile", "graph")
STRICT: Mapping[str, object] = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Which kernels of `pointwise.toml` do each job, in order of launch."""

    __pydantic_config__: ClassVar = STRICT

    layer_norm: tuple[str, ...]
    rms_norm: tuple[str, ...]
    gelu: tuple[str, ...]
    gated: tuple[str, ...]
    residual: tuple[str, ...]
    residual_with_dropout: tuple[str, ...]
    softmax: tuple[str, ...]
    rope: tuple[str, ...]
    embedding: tuple[str, ...]
    loss: tuple[str, ...]
    softmax_fallback: tuple[str, ...] = ()  # in its place where the fused kernel does not take the number of heads
    rope_normalised: tuple[str, ...] = ()  # in its place where queries and keys are normalised before (Qwen3)
    rope_scaled: tuple[str, ...] = ()  # in its place where it also scales queries and keys (YaRN)
    # Of latent attention, in its place: over the rotated columns of queries, and over keys and values, taken apart
    latent_queries: tuple[str, ...] = ()
    latent_keys: tuple[str, ...] = ()
    gated_routed: tuple[str, ...] = ()  # in its place, of experts; none: as `gated`
    sinks: tuple[str, ...] = ()  # backward, beside fused attention: over its output, for the gradients of sinks
    clamp: tuple[str, ...] = ()  # in front of a gated activation that is clamped, where it is no part of that kernel
    loss_split: tuple[str, ...] = ()  # over logits split by tensor parallelism, where that takes other kernels
    cast: tuple[str, ...] = ("cast",)  # of an input under torch.autocast, where no other kernel does it on the way
    context: tuple[str, ...] = ()  # behind attention, over its output: from heads first to tokens first
    split: tuple[str, ...] = ()  # backward, over the gradients of query, key and value: into one tensor
    metrics: tuple[str, ...] = ()  # over the logits of every micro-batch, without a backward pass
    relu: tuple[str, ...] = ("relu",)
    squared_relu: tuple[str, ...] = ("squared_relu",)
    quantise: tuple[str, ...] = ("quantize_fp8",)
    quantise_split: tuple[str, ...] = ("quantize_fp8",)  # in its place, of what sequence parallelism gathers behind it
    quantise_normed: tuple[str, ...] | None = None  # in the place of these two, of what a norm writes
    quantise_normed_split: tuple[str, ...] | None = None
    quantise_blocks: tuple[str, ...] = ("quantize_blocks_both",)  # likewise with a scale for each block of elements
    transpose_narrow: tuple[str, ...] = ()  # of 8-bit inputs that were gathered
    quantise_rows: tuple[str, ...] = ("quantize_fp8_rows",)  # with a scale for each row
    quantise_columns: tuple[str, ...] = ("quantize_fp8_columns",)  # likewise along the other dimension, transposed
    merge: tuple[str, ...] = ("add",)  # of a block of ring attention into what is there; fused at best
    exchanged: tuple[str, ...] = ("copy",)  # before and behind the all-to-alls of context parallelism
    gathered: tuple[str, ...] = ()  # behind an all-gather and before a reduce-scatter of tensor parallelism
    route: tuple[str, ...] = ("softmax",)  # over the router's scores, in fp32
    permute: tuple[str, ...] = ("gather_rows",)  # tokens, once for each of their experts, in the order of ranks
    arrange: tuple[str, ...] = ("gather_rows",)  # what has arrived, in the order of the experts of a rank
    up_bias: tuple[str, ...] = ("bias_add",)  # of the first product of experts; none where part of it
    down_bias: tuple[str, ...] = ("bias_add",)  # likewise of the last one
    restore: tuple[str, ...] = ("gather_rows",)  # back
    unsort: tuple[str, ...] = ()  # rows in the order of their tokens again, where `combine` does not do it on the way
    combine: tuple[str, ...] = ("combine_rows",)  # the rows of a token, weighted and summed up
    gathered_logits: tuple[str, ...] = ()  # behind the all-gather of logits: rank after rank, to whole rows
    quantise_weights: tuple[str, ...] = ()  # in each pass, where the narrow copies are not kept

    def activation(self, name: str) -> tuple[str, ...]:
        """Of an MLP that is not gated."""
        return {"relu": self.relu, "squared_relu": self.squared_relu}.get(name, self.gelu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """Kernels over all parameters of a rank at the end of a step."""

    __pydantic_config__: ClassVar = STRICT

    norm: tuple[str, ...]
    clip: tuple[str, ...]
    update: tuple[str, ...]
    mixed: tuple[str, ...] = ()  # further kernels where master weights are kept
    accumulate: tuple[str, ...] = ()  # for each micro-batch, where weight-gradient GEMMs do not add up themselves
    accumulate_wide: tuple[str, ...] = ()  # the same, of 16-bit gradients that are kept beside an fp32 buffer
    # Parameters are updated before the norm of all gradients is known; an update that was wrong is taken back
    validates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What a parameter occupies beside its 16-bit copy."""

    __pydantic_config__: ClassVar = STRICT

    gradient: Literal["fp32", "compute"]  # the buffer in which gradients add up
    reduce: Literal["fp32", "compute"]  # the data type on the wire
    narrow_gradients: bool = False  # with GEMMs of 8 and 4 bits both are `compute`, whatever is said
    wide_for: tuple[Literal["fp16", "bf16"], ...] = ()  # precisions with which both are `fp32`, whatever is said
    weight: Literal["fp32", "compute"] = "compute"  # fp32: no 16-bit copy is kept, it is cast for each use
    fp32_gradient_copy: bool = False  # the optimizer holds a further fp32 gradient
    remainders: bool = False  # of bf16 weights, the optimizer holds the 16 bits that fp32 master weights have beyond
    sharded_gradient_buffer: bool = True  # from ZeRO-2 on, whether the gradients live in shards all the time
    gradients_kept: bool = True  # all the time; otherwise from the first backward pass of a step to the update
    frees_logits: bool = False  # before the backward pass of the loss
    outputs_kept: bool = False  # pipeline stages keep what they have sent on, the last one its logits
    gradient_pool: bool = False  # sharded gradients are allocated on the stream that reduces them (FSDP2)
    reserved_bytes: Annotated[float, Ge(0)] = 1.5e9  # context, communicators, libraries
    # Share of its memory that the allocator loses, by execution
    fragmentation: Mapping[str, Annotated[float, Ge(0)]] = field(
        default_factory=lambda: dict.fromkeys(EXECUTIONS, 0.03)
    )
    reports: Literal["allocated", "held"] = "allocated"  # what its log calls memory: in use, or taken by the allocator


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """What runs beside computation."""

    __pydantic_config__: ClassVar = STRICT

    tensor: bool = False  # all-gather and reduce-scatter in chunks beside their GEMM
    tensor_not_for: tuple[str, ...] = ()  # precisions whose GEMMs are not taken apart for that
    tensor_backward: bool = False  # communication of the data gradient beside the weight gradient
    # The reduction of gradients, beside the backward pass: always, or where one of these parallelisms is not used
    gradients: Literal["none", "backward", "without-pipeline", "without-tensor"] = "none"
    parameters: bool = False  # ZeRO all-gathers of parameters beside the next forward pass
    # Messages between stages: in between the sender's computation or that of both ends, beside it, or beside it once
    # both ends have come to them
    pipeline: Literal["none", "blocking", "beside", "rendezvous"] = "none"

    def in_chunks(self, precision: str) -> bool:
        """Whether messages of tensor parallelism run in chunks beside GEMMs of a precision."""
        return self.tensor and precision not in self.tensor_not_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Data-parallel communication."""

    __pydantic_config__: ClassVar = STRICT

    bucket_bytes: Annotated[float, Gt(0)] = 100e6
    channels: Annotated[int, Gt(0)] = 24  # SMs that a collective holds while it runs
    zero_gradients: Literal["all_reduce", "reduce_scatter"] = "reduce_scatter"  # for ZeRO 1 and 2
    buckets_kept: bool = False  # all of them stay allocated beside the gradients (DDP)
    copies: bool = False  # gathered parameters are copied into place, gradients into the bucket (FSDP2)
    gathers_narrow: bool = False  # ZeRO casts fp8 weights that have one scale before it gathers them
    kept_in_pipeline: bool = False  # between stages, ZeRO 3 gathers parameters once and reduces gradients once a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the CPU costs: launches of kernels and work once a step."""

    __pydantic_config__: ClassVar = STRICT

    launch_s: Mapping[str, float]  # by execution: to get one kernel of a block launched, with all calls around it
    backward: Annotated[float, Gt(0)] = 1.0  # what that comes to in the backward pass, relative to the forward one
    # Likewise for a collective or message inside a block
    message_s: Mapping[str, Annotated[float, Ge(0)]] = field(default_factory=lambda: dict.fromkeys(EXECUTIONS, 2e-5))
    # By kind of recomputation, eager: further, of each kernel that is run again, in both passes together
    again_s: Mapping[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    # For each rank of a tensor-parallel message in chunks (user buffers), which C++ sends; 0: as any other message
    chunk_s: Annotated[float, Ge(0)] = 0.0
    unit_s: Annotated[float, Ge(0)] = 0.0  # to gather and reduce the parameters of a unit of layers, in one pass
    # For each GEMM over groups of rows further: routing and dispatch; and for each expert of the rank, hooks of weights
    group_s: Annotated[float, Ge(0)] = 0.0
    expert_s: Annotated[float, Ge(0)] = 0.0
    chain_s: Annotated[float, Ge(0)] = 0.0  # in eager execution, for each further kernel of one that stands for several
    op_s: Annotated[float, Ge(0)] = 0.0  # for each kernel of each expert that nothing but PyTorch launches: biases
    # For each block of keys and values that comes around a ring of context parallelism, in one pass
    ring_s: Annotated[float, Ge(0)] = 0.0
    step_s: Annotated[float, Ge(0)] = 0.0
    # Further, for each tensor of parameters whose optimizer states a rank holds: trainers go through them in Python
    tensor_s: Annotated[float, Ge(0)] = 0.0
    spread: Annotated[float, Ge(0)] = 0.2  # of log(measured / predicted): hosts differ, and their load
    # How far the host keeps its lead over the GPU: within a segment, or through a step that never makes it wait
    ahead: Literal["segment", "step"] = "segment"
    waits_for_stages: bool = False  # not through one with messages between stages that have one chunk of layers each
    reads_counts: bool = False  # the host waits for the numbers of rows that an exchange between experts' ranks has
    reads_lengths: bool = (
        False  # it waits for the longest sequence of a batch, in front of each forward attention kernel
    )
    reads_gates: bool = False  # it waits in front of the forward activation of experts, where that clamps
    read_s: Annotated[float, Ge(0)] = 0.0  # until the next launch, once the host has waited
    between_s: Annotated[float, Ge(0)] = 0.0  # likewise for each message between pipeline stages, with its launch
    loss_s: Annotated[float, Ge(0)] = 0.0  # likewise where it reads the loss of every micro-batch; 0: it does not
    blocking: bool = False  # CUDA_LAUNCH_BLOCKING=1: every launch waits for the kernel
    synchronise_s: Annotated[float, Ge(0)] = 0.0  # gap that a blocking launch leaves
    pace: Annotated[float, Gt(0)] = 1.0  # time that all of this takes, relative to what is given: whose cores they are
    own_pace: Annotated[float, Gt(0)] | None = None  # of jobs that have their nodes to themselves; none: as any other

    def paced(self, pace: float) -> "Host":
        """What all of it costs at a pace."""
        times = [entry.name for entry in fields(self) if entry.name.endswith("_s")]
        costs: dict[str, Any] = {name: _at_pace(getattr(self, name), pace) for name in times}
        return replace(self, **costs, pace=1.0)


def _at_pace(cost: float | Mapping[str, float], factor: float) -> float | dict[str, float]:
    """A cost, or a table of them."""
    return {key: value * factor for key, value in cost.items()} if isinstance(cost, Mapping) else cost * factor


Spread = Literal["node", "rack", "nodes"]  # where the experts of a layer are: in a node, in a rack of more, over those


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRecipe:
    """How recipes exchange rows of experts from a day on; what it does not name is any."""

    __pydantic_config__: ClassVar = STRICT

    since: date
    models: tuple[str, ...] = ()  # of the catalogue
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    spread: Spread | None = None
    mode: ExpertMode | None = None  # None: it does not say
    overlap: bool | None = None  # beside the computation of another pass
    graphs: bool | None = None
    kernels_of: str | None = None  # the stack whose kernels they are

    def applies(self, names: Collection[str], device: str, precision: str, spread: Spread, day: date) -> bool:
        """Whether it is that of a model, under any of its names, on a device on a day."""
        named = not self.models or not set(self.models).isdisjoint(names)
        on_device = not self.devices or device in self.devices
        in_precision = not self.precisions or precision in self.precisions
        return named and on_device and in_precision and self.spread in (None, spread) and day >= self.since


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipes:
    """What is usual on the stack where figures of a tuned recipe are published and the recipe is not."""

    __pydantic_config__: ClassVar = STRICT

    stack: str = ""  # that they run on; none: this one
    # What is run again: tried in this order, the first one that fits. `offload:N` with the smallest N that fits, where
    # that is faster than `full`.
    recompute: tuple[str, ...] = ("none", "selective", "full")
    interleaves: bool = False  # one layer to each chunk of a pipeline
    # Where CUDA graphs are taken, if the stack has them: wherever it runs, or in racks of one NVLink domain
    graphs: Literal["all", "racks"] = "all"
    # How experts exchange rows: of each key the last one that applies and says it
    experts: tuple[ExpertRecipe, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One version of a training software (`stacks/*.toml`)."""

    __pydantic_config__: ClassVar = STRICT

    name: str
    title: str
    source: str
    execution: str  # the usual one
    attention: Literal["flash", "unfused"]
    flash_kernel: str
    kernels: Kernels
    optimizer: Optimizer
    storage: Storage
    overlap: Overlaps
    host: Host
    data: Data = field(default_factory=Data)
    recipes: Recipes = field(default_factory=Recipes)
    compiled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    recomputed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # with full recomputation
    unfused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # with unfused attention
    spread: Annotated[float, Ge(0)] = 0.08  # of log(measured / predicted) for what this description leaves out
    library: str = ""  # of GEMMs, where its release is known and matters: `cublas-12.1`
    keeps_gathered: bool = False  # with sequence parallelism, gathered inputs are kept and not gathered again
    # With sequence parallelism, casts come before all-gathers, but those with a scale for each row
    gathers_narrow_inputs: bool = False
    gathers_routed: bool = False  # with it, inputs of experts are gathered, and every rank routes all of their tokens
    splits_experts: bool = False  # whether etp is tp unless said
    sequence_parallel: bool = False  # whether tp > 1 brings it by default
    zero: Annotated[int, Ge(0)] = 0  # the usual stage, for runs whose source does not give it
    dropout: bool = True  # whether GPT and BERT models are trained with it
    reduces_each: bool = False  # each linear layer sums its data gradient over tp, also where two read the same input
    stops_early: bool = False  # eager, too, what is run again ends where the backward pass needs nothing further
    ends_recomputed: bool = False  # full recomputation runs embedding and head again too
    parallel_loss: bool = True  # the loss works on logits split over tp; otherwise they are gathered first
    fused_projections: bool = True  # one GEMM for query, key and value, one for gate and up
    fused_gate: bool = True  # with fused projections: whether gate and up are one GEMM too
    scatter_gather: bool = False  # messages between stages split over the tensor-parallel ranks
    mtp: bool = False  # layers of a model that predict further tokens are trained with it, in pretraining
    offloads: bool = False  # what layers keep, to the memory of the host (Transformer Engine)
    alternates: bool = False  # recomputation selective by op keeps every other GEMM only
    # Stack of an earlier release -> until when runs were of it
    earlier: Mapping[str, date] = field(default_factory=dict)
    # Whose pipelines are said in brackets behind a schedule (`1F1B (DeepSpeed)`), in lower case -> stack of such runs
    engines: Mapping[str, str] = field(default_factory=dict)
    pads_vocab_to: int = 1
    fused_softmax_heads: Annotated[int, Gt(0)] = 1  # of all sequences together, a multiple of which the kernel takes
    fused_gradient_accumulation: bool = False
    fused_sinks: bool = False  # whether fused attention takes sinks; models that have them run unfused otherwise
    # How the GEMMs of experts run: as one kernel over groups of rows, or each by itself on one of some streams
    grouped_gemms: Literal["kernel", "streams"] = "kernel"
    router_dtype: str = ""  # of the router's GEMMs; none: that of the activations
    quantises_experts: bool = True  # in 8- and 4-bit precisions
    accumulates_first: bool = True  # unfused: the first micro-batch adds to a buffer too

    def kernels_for(self, execution: str, *, recomputed: bool = False, unfused: bool = False) -> Kernels:
        """Those of that execution: a compiler replaces what stands under `compiled`, and so on; the last one counts."""
        replaced = dict(self.compiled) if execution == "compile" else {}
        replaced |= self.unfused if unfused else {}
        replaced |= self.recomputed if recomputed else {}
        return replace(self.kernels, **replaced)
