"""How a step is split over GPUs, and what one step trains on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from workloads import chunks
from workloads.errors import WorkloadError, unknown
from workloads.model import Model
from workloads.precision import PRECISIONS
from workloads.routes import Route
from workloads.schedules import named, schedule, schedules

ContextMode = Literal["ring", "all_gather", "all_to_all"]
ExpertMode = Literal["all_to_all", "deduplicated"]
CONTEXT_MODES: tuple[ContextMode, ...] = get_args(ContextMode)
EXPERT_MODES: tuple[ExpertMode, ...] = get_args(ExpertMode)
RECOMPUTE = (
    "none",
    "selective",
    "selective:M+M",
    "selective-op",
    "selective-op-alternate",
    "full",
    "full:N",
    "offload:N",
)
# Of `selective:M+M`, as Megatron-Core names them.
MODULES = ("core_attn", "layernorm", "mla_up_proj", "mlp", "moe", "moe_act", "shared_experts")
OPTIMIZERS = ("adam", "adamw", "sgd")
TASKS = ("pretrain", "lora", "layers")
GRADIENTS = ("auto", "fp32", "compute")
UNSET = ("auto", "none")  # a schedule left to the layout; `none` is what tables say without pipeline stages


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Degrees of parallelism. Global ranks count tp first, then cp, dp and pp last, as Megatron-LM does.

    Args:
        vp: model chunks for each pipeline stage (interleaved schedule).
        context_mode: the other ranks' keys and values one after the other or at once, or all tokens for some heads.
        etp: ranks that split each expert; 0: one, so that experts are whole, or tp where ep = 1.
        expert_mode: how rows get to the ranks of their experts: one for each expert, or each once to a node and a rank.
        expert_overlap: the exchanges of a pass run beside the computation of one in the other direction.
        zero: 0 plain data parallel, 1 optimizer states sharded, 2 gradients too, 3 parameters too (FSDP).
        zero_group: ranks over which ZeRO shards, 0 for all data-parallel ranks; the groups replicate.
        schedule: a file of workloads/schedules or what papers call it; "auto" is 1F1B, interleaved for vp > 1.
        chunk_layers: layers of each chunk in model order, as in "5 6x14 5"; where they go around the stages, chunk c of
            stage s is number c * pp + s. Blank: evenly, and where that does not go with the embedding and the head as a
            layer each.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    vp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 0
    zero: int = 0
    zero_group: int = 0
    sequence_parallel: bool = False
    context_mode: ContextMode = "ring"
    expert_mode: ExpertMode = "all_to_all"
    expert_overlap: bool = False
    schedule: str = "auto"
    chunk_layers: str = ""

    @property
    def chunks(self) -> int:
        """Parts into which the model is cut."""
        return self.pp * self.vp

    @property
    def gpus(self) -> int:
        """Devices that one step uses."""
        return self.dp * self.tp * self.pp * self.cp

    @property
    def schedule_name(self) -> str:
        """With `auto` resolved."""
        if self.schedule not in UNSET:
            return self.schedule
        return "interleaved" if self.vp > 1 else "one_f_one_b"

    @property
    def routes(self) -> tuple[Route, ...]:
        """That micro-batches take through the stages, through a copy of the model each."""
        return schedule(self.schedule_name).routes(self.pp, self.vp)

    @property
    def data_ranks(self) -> int:
        """Ranks that hold the same weights: data and context parallel together, and both copies of DualPipe."""
        return self.dp * self.cp * len(self.routes)

    @property
    def shards(self) -> int:
        """Ranks over which ZeRO shards what it shards."""
        if self.zero == 0:
            return 1
        return min(self.zero_group, self.data_ranks) if self.zero_group else self.data_ranks

    @property
    def expert_tp(self) -> int:
        """Ranks that split each expert.

        Experts are spread over all ranks of a stage, those of tensor parallelism among them, and stay whole unless
        `etp` splits them (parallel folding, arXiv:2504.14960). Without expert parallelism tensor parallelism does.
        """
        return self.etp or (self.tp if self.ep == 1 else 1)

    @property
    def expert_data_ranks(self) -> int:
        """Ranks that hold the same part of an expert."""
        return self.data_ranks * self.tp // (self.ep * self.expert_tp)

    @property
    def expert_shards(self) -> int:
        """Ranks over which ZeRO shards experts."""
        return max(self.shards * self.tp // (self.ep * self.expert_tp), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What one step trains on. `global_batch` and `micro_batch` count sequences of `seq_len` tokens.

    Args:
        gradients: type in which they are kept and reduced, "auto": as the stack does; "compute": that of activations.
        mtp_layers: layers that predict further tokens; None: those of the model, where the stack trains them.
        task: "pretrain", "lora" (adapters only), or "layers": the passes through the layers and nothing else.
    """

    seq_len: int
    global_batch: int
    micro_batch: int = 1
    precision: str = "bf16"
    recompute: str = "none"
    optimizer: str = "adamw"
    gradients: str = "auto"
    task: str = "pretrain"
    mtp_layers: int | None = None

    @property
    def tokens(self) -> int:
        """Of a step, over all GPUs."""
        return self.global_batch * self.seq_len

    @property
    def layers_alone(self) -> bool:
        """Whether the ends, the sum over replicas and the update are left out, as where layers are timed."""
        return self.task == "layers"

    @property
    def recompute_mode(self) -> str:
        """none, selective, selective-op, selective-op-alternate, full or offload."""
        return self.recompute.partition(":")[0]

    @property
    def offloaded_layers(self) -> int:
        """How many layers keep what they keep in the memory of the host, from the first one on."""
        mode, _, count = self.recompute.partition(":")
        return int(count) if mode == "offload" else 0

    @property
    def recompute_modules(self) -> tuple[str, ...]:
        """What selective recomputation runs again; the core of attention unless said."""
        mode, _, names = self.recompute.partition(":")
        return tuple((names or "core_attn").split("+")) if mode == "selective" else ()


def micro_batches(layout: Layout, training: Training) -> int:
    """Micro-batches that one replica runs in a step."""
    return training.global_batch // (layout.dp * training.micro_batch)


def _recompute_fault(model: Model, layout: Layout, training: Training) -> str | None:
    spelt = recompute_fault(training.recompute)
    return spelt or missing_module(model, training) or offload_fault(model, layout, training)


def recompute_fault(text: str) -> str | None:
    """Why these words do not say what is run again, or None."""
    mode, colon, rest = text.partition(":")
    if colon and mode == "selective":
        wrong = [name for name in rest.split("+") if name not in MODULES]
        return unknown("module", wrong[0], MODULES) if wrong else None
    counted = mode in ("full", "offload") and rest.isdecimal() and int(rest) > 0
    plain = text in RECOMPUTE and not colon
    return None if plain or counted else unknown("recomputation", text, RECOMPUTE)


def missing_module(model: Model, training: Training) -> str | None:
    """That a layer of the model has not what is to be run again, or None."""
    there = {
        "latent attention": (model.kv_rank, ("mla_up_proj",)),
        "experts": (model.experts, ("moe", "moe_act")),
        "shared experts": (model.shared_ffn, ("shared_experts",)),
        "layers without experts": (model.dense_layers or not model.experts, ("mlp",)),
    }
    for what, (some, modules) in there.items():
        for name in training.recompute_modules:
            if name in modules and not some:
                return f"{name} is to be run again, and {model.name} has no {what}"
    return None


def offload_fault(model: Model, layout: Layout, training: Training) -> str | None:
    """Why these layers cannot be offloaded, or None: what Megatron-Core refuses, too (transformer_config.py)."""
    if training.offloaded_layers and layout.pp > 1:
        return f"{training.recompute} needs layout.pp = 1; layers of pipeline stages are not offloaded"
    if training.offloaded_layers >= model.layers:
        return f"{training.recompute}: of the {model.layers} layers of {model.name}, at least the last one stays"
    return None


def recomputed_layers(training: Training, layers: int) -> int:
    """How many of a rank's `layers` are recomputed in full."""
    mode, _, count = training.recompute.partition(":")
    if mode != "full":
        return 0
    return min(int(count), layers) if count else layers


def chunk_layers(model: Model, layout: Layout) -> tuple[int, ...]:
    """Layers of each model chunk, in model order."""
    if layout.chunk_layers:
        return chunks.read(layout.chunk_layers)
    return chunks.even(model.layers, layout.chunks, model.mtp_layers)


def check(model: Model, layout: Layout, training: Training) -> None:
    """Raise WorkloadError with every inconsistency of the three."""
    found = [
        *_size_faults(layout, training),
        *_name_faults(model, layout, training),
    ]
    if not found:
        found = [*_degree_faults(model, layout, training), *_batch_faults(layout, training)]
    if found:
        raise WorkloadError("layout", found)


def _size_faults(layout: Layout, training: Training) -> Iterator[str]:
    for key in ("dp", "tp", "pp", "vp", "cp", "ep"):
        if getattr(layout, key) < 1:
            yield f"layout.{key} = {getattr(layout, key)}: a degree is 1 or more"
    for key in ("seq_len", "global_batch", "micro_batch"):
        if getattr(training, key) < 1:
            yield f"training.{key} = {getattr(training, key)}: must be 1 or more"
    if layout.zero not in (0, 1, 2, 3):
        yield f"layout.zero = {layout.zero}: one of 0, 1, 2, 3"
    if layout.zero_group < 0:
        yield f"layout.zero_group = {layout.zero_group}: 0 (all) or the number of ranks to shard over"


def _name_faults(model: Model, layout: Layout, training: Training) -> Iterator[str]:
    if training.precision not in PRECISIONS:
        yield "training.precision: " + unknown("precision", training.precision, tuple(PRECISIONS))
    if fault := _recompute_fault(model, layout, training):
        yield "training.recompute: " + fault
    if training.optimizer not in OPTIMIZERS:
        yield "training.optimizer: " + unknown("optimizer", training.optimizer, OPTIMIZERS)
    if training.gradients not in GRADIENTS:
        yield "training.gradients: " + unknown("type", training.gradients, GRADIENTS)
    if training.task not in TASKS:
        yield "training.task: " + unknown("task", training.task, TASKS)
    if training.mtp_layers and training.task != "pretrain":
        yield f"training.mtp_layers = {training.mtp_layers} is of pretraining, not of task {training.task!r}"
    if layout.schedule not in UNSET and layout.schedule not in named():
        yield "layout.schedule: " + unknown("schedule", layout.schedule, ("auto", *schedules()))
    if layout.context_mode not in CONTEXT_MODES:
        yield "layout.context_mode: " + unknown("mode", layout.context_mode, CONTEXT_MODES)
    if layout.expert_mode not in EXPERT_MODES:
        yield "layout.expert_mode: " + unknown("mode", layout.expert_mode, EXPERT_MODES)


def _degree_faults(model: Model, layout: Layout, training: Training) -> Iterator[str]:
    for what, size in _split_sizes(model).items():
        if size % layout.tp:
            yield f"{model.name}: {what} = {size} is not divisible by layout.tp = {layout.tp}"
    split = chunks.faults(model.layers, layout.chunks, layout.chunk_layers, model.mtp_layers)
    yield from (f"{model.name}: {fault}" for fault in split)
    if training.seq_len % layout.cp:
        yield f"training.seq_len = {training.seq_len} is not divisible by layout.cp = {layout.cp}"
    if layout.cp > 1:
        faults = _heads_faults if layout.context_mode == "all_to_all" else _window_faults
        yield from faults(model, layout)
    if layout.sequence_parallel and training.seq_len // layout.cp % layout.tp:
        yield f"training.seq_len / cp = {training.seq_len // layout.cp} is not divisible by layout.tp = {layout.tp}"
    if layout.sequence_parallel and layout.tp == 1:
        yield "layout.sequence_parallel needs layout.tp of 2 or more"
    yield from _expert_faults(model, layout)
    if layout.zero_group and layout.data_ranks % layout.zero_group:
        yield f"layout.zero_group = {layout.zero_group} does not divide dp x cp = {layout.data_ranks}"


def _window_faults(model: Model, layout: Layout) -> Iterator[str]:
    if model.window:
        yield (
            f"layout.cp = {layout.cp}: sliding windows ({model.name}) are not covered under context parallelism, "
            'but with layout.context_mode = "all_to_all"'
        )


def _heads_faults(model: Model, layout: Layout) -> Iterator[str]:
    """What keeps context-parallel ranks from sharing out the heads among them; Transformer Engine refuses it, too."""
    if model.kv_rank:
        yield f'layout.context_mode = "all_to_all" is not covered with latent attention ({model.name})'
    for what, heads in {"heads": model.heads, "kv_heads": model.kv_heads}.items():
        held = max(heads // layout.tp, 1)
        if held % layout.cp:
            yield (
                f"{model.name}: {what} / tp = {held} is not divisible by layout.cp = {layout.cp}, "
                'which layout.context_mode = "all_to_all" needs'
            )


def _split_sizes(model: Model) -> dict[str, int]:
    """What tensor parallelism splits of a model; of experts it may split the columns, or leave them whole."""
    mlps = {"shared_ffn": model.shared_ffn, "dense_ffn": model.dense_ffn} if model.experts else {"ffn": model.ffn}
    return {"heads": model.heads, **mlps}


def _expert_faults(model: Model, layout: Layout) -> Iterator[str]:
    if not model.experts:
        if layout.ep > 1:
            yield f"layout.ep = {layout.ep}: {model.name} has no experts"
        if layout.etp:
            yield f"layout.etp = {layout.etp}: {model.name} has no experts"
        if layout.expert_mode != "all_to_all":
            yield f"layout.expert_mode = {layout.expert_mode!r}: {model.name} has no experts"
        if layout.expert_overlap:
            yield f"layout.expert_overlap: {model.name} has no experts"
        return
    if layout.expert_overlap and layout.ep == 1:
        yield "layout.expert_overlap needs layout.ep of 2 or more"
    if layout.expert_overlap and layout.zero == 3:
        yield "layout.expert_overlap is not covered with layout.zero = 3"
    if model.experts % layout.ep:
        yield f"{model.name}: experts = {model.experts} is not divisible by layout.ep = {layout.ep}"
    if layout.etp < 0 or (layout.etp and layout.tp % layout.etp):
        yield f"layout.etp = {layout.etp}: 0 (the usual), or a divisor of tp = {layout.tp}"
        return
    if model.ffn % layout.expert_tp:
        key = "etp" if layout.etp else "tp"
        yield f"{model.name}: ffn = {model.ffn} is not divisible by layout.{key} = {layout.expert_tp}"
    ranks = layout.dp * layout.cp * layout.tp
    if ranks % (layout.ep * layout.expert_tp):
        split = f"layout.ep = {layout.ep}" + (f" times etp = {layout.expert_tp}" if layout.expert_tp > 1 else "")
        yield f"{split} does not divide dp x cp x tp = {ranks}"
    if layout.tp > 1 and not layout.sequence_parallel:
        yield "layout.sequence_parallel is needed for experts under tensor parallelism"


def _batch_faults(layout: Layout, training: Training) -> Iterator[str]:
    share = layout.dp * training.micro_batch
    if training.global_batch % share:
        yield (
            f"training.global_batch = {training.global_batch} is not divisible by "
            f"dp x micro_batch = {layout.dp} x {training.micro_batch}"
        )
        return
    plan = schedule(layout.schedule_name)
    if plan.SPLITS and layout.zero == 3:
        yield f"layout.zero = 3 is not covered with backward passes in two parts ({layout.schedule_name})"
    yield from (f"layout: {fault}" for fault in plan.faults(layout.pp, layout.vp, training.global_batch // share))
