"""A row of the step-time table -> a job. The columns are those of published runs; blanks mean the usual."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from typing import Any, cast

from hardware import catalog as hardware
from hardware.types import Cluster
from sim.catalog import stack, stacks
from sim.cells import SkippedRowError, positive, whole
from sim.job import Job
from sim.row_model import model_of
from sim.usual import as_tuned, exchanged, interleaved, release
from workloads.chunks import spelt
from workloads.errors import WorkloadError, unknown
from workloads.layout import UNSET, ContextMode, ExpertMode, Layout, Training, chunk_layers
from workloads.schedules import named, schedule, schedules
from workloads.stack import Stack

REQUIRED = (
    "id",
    "source",
    "device",
    "gpus",
    "gpus_per_node",
    "fabric",
    "inter_node_gbit_per_s",
    "stack",
    "family",
    "layers",
    "hidden",
    "ffn",
    "heads",
    "vocab",
    "seq_len",
    "global_batch",
    "micro_batch",
    "precision",
    "tp",
    "pp",
    "zero",
    "recompute",
    "missing_inputs",
)
UNSTATED_STACK = "megatron-lm-2022"
NVL72_GPUS = 72
UNUSED_VOCAB = "1"  # of layers alone
Row = Mapping[str, str]


# Words of sources on overlap, and what they say of a stack's `[overlap]`: first what was on, then what was off.
OVERLAP_WORDS: Mapping[str, Mapping[str, Any]] = {
    r"async tp|tp_comm_overlap=(true|1)": {"tensor": True},
    r"\boverlapped grad(ient)? all-reduce|overlap_grad_reduce=(true|1)": {"gradients": "backward"},
    r"overlap_param_gather=(true|1)": {"parameters": True},
    r"no tp overlap|tp overlap.* disabled|tp_comm_overlap=(false|0)": {"tensor": False},
    r"no dp overlap|dp overlap.* disabled|all-reduce[^;]*not overlapped": {"gradients": "none", "parameters": False},
    r"overlap_grad_reduce=(false|0)": {"gradients": "none"},
    r"overlap_param_gather=(false|0)": {"parameters": False},
    r"no p2p overlap|p2p overlap.* disabled": {"pipeline": "none"},
}
# Words behind the name of a model, as NVIDIA's tables have them: `DeepSeekV3 (w/o MTP)`, `Qwen3_30B_a3B (tokendrop)`
WITH_MTP, WITHOUT_MTP, DROPS_TOKENS = "w/ mtp", "w/o mtp", "tokendrop"
# Year and month in the words of a source, as NVIDIA numbers its containers and frameworks: ngc24.09, 24.07, 26.04.01
RELEASE = re.compile(r"(?<![\d.])(2\d)\.(0[1-9]|1[0-2])(?:\.(0[1-9]|[12]\d))?(?![\d.])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A job, and what its source leaves open as it was filled in: `recompute = none`, `zero = 1`."""

    job: Job
    assumed: tuple[str, ...]


def described(row: Row) -> Described:
    """The job that a row describes; raises SkippedRowError with the reason if it is not one.

    A stack of several releases is that of the day of the run (`date`, or a release that the source names by year and
    month), or of the usual day for its device. Where the source does not say (`missing_inputs`), ZeRO and the chunks of
    a pipeline are the stack's usual ones and recomputation, or offloading in its place, is the least that fits into the
    memory of the device. Nothing is chosen by what was measured.
    """
    try:
        return _described(row)
    except (ValueError, KeyError) as error:
        raise SkippedRowError(str(error)) from error


def job_of(row: Row) -> Job:
    """The job of `described`."""
    return described(row).job


def _described(row: Row) -> Described:
    open_inputs = _open_inputs(row)
    stated = _stated(row, open_inputs)
    job = _with_the_usual(row, stated, open_inputs)
    return Described(job=job, assumed=tuple(_assumed(row, stated, job, open_inputs)))


def _stated(row: Row, open_inputs: frozenset[str]) -> Job:
    """What the row says, and the stack where it says nothing."""
    made = _stack(row, tuned="recompute" in open_inputs)
    if "zero_stage_or_fsdp" in open_inputs:
        row = {**row, "zero": str(made.zero)}
    if _task(row) == "layers":
        row = {**row, "vocab": row["vocab"] or UNUSED_VOCAB}
    return Job(
        model=model_of(row),
        cluster=_cluster(row),
        training=_training(row),
        layout=_layout(row, whole(row, "tp", 1)),
        stack=made,
        execution=row.get("execution") or "",
        attention=row.get("attention") or "",
        host_pace=positive(row, "host_pace") if row.get("host_pace") else None,
    )


def _with_the_usual(row: Row, stated: Job, open_inputs: frozenset[str]) -> Job:
    """With what is usual where the row leaves it open; of a tuned recipe that is not given, the usual of recipes."""
    tuned, ran = "recompute" in open_inputs, _date(row)
    mode, overlap = not row.get("expert_mode"), not row.get("expert_overlap")
    job = exchanged(stated, ran, mode=mode, overlap=overlap, recipe=tuned)
    says_so = _named_schedule(row, job.layout.pp) == "interleaved"
    if not row.get("vp") and (says_so or tuned):
        job = interleaved(job, named=says_so)
    return as_tuned(job, fixed_shapes=DROPS_TOKENS in _model_words(row), ran=ran) if tuned else job


def _assumed(row: Row, stated: Job, job: Job, open_inputs: frozenset[str]) -> Iterator[str]:
    """What was filled in, as `recompute = none`."""
    if "zero_stage_or_fsdp" in open_inputs:
        yield f"zero = {job.layout.zero}"
    if "recompute" in open_inputs:
        yield f"recompute = {job.training.recompute}"
    of_recipe = job.stack.name != _stack(row).name
    if of_recipe or (not _date(row) and job.stack.name != (row["stack"] or job.stack.name)):
        yield f"stack = {job.stack.name}"
    for key in ("expert_mode", "expert_overlap", "vp"):
        if getattr(job.layout, key) != getattr(stated.layout, key):
            yield f"{key} = {getattr(job.layout, key)}"
    if job.trained.mtp_layers and not row.get("mtp_layers") and WITH_MTP not in _model_words(row):
        yield f"mtp_layers = {job.trained.mtp_layers}"
    shares = chunk_layers(job.trained, job.layout)
    if min(shares) < max(shares) and not job.layout.chunk_layers:
        yield f"chunk_layers = {spelt(shares)}"
    if job.execution != stated.execution:
        yield f"execution = {job.execution}"
    if not _is_priced(_optimizer(row)):
        yield "optimizer = adamw"


def _model_words(row: Row) -> str:
    """What stands in brackets behind the name of a model: how it was trained."""
    return _in_brackets(row.get("model") or "")


def _mtp_layers(row: Row) -> int | None:
    """Layers that predict further tokens, where the row says how many or that there are none."""
    if row.get("mtp_layers"):
        return whole(row, "mtp_layers")
    return 0 if WITHOUT_MTP in _model_words(row) else None


def _is_priced(optimizer: str) -> bool:
    return not optimizer or "adam" in optimizer or "sgd" in optimizer


def _open_inputs(row: Row) -> frozenset[str]:
    """What the source leaves open and the step time depends on; the usual network of a system is close enough."""
    named = row["missing_inputs"].split(";")
    if "vocab" in named and _task(row) != "layers":
        raise SkippedRowError("the source does not give vocab")
    cells = {"recompute": row["recompute"], "zero_stage_or_fsdp": row["zero"] or ("lora" if _adapters(row) else "")}
    return frozenset(name for name, cell in cells.items() if name in named and not cell)


def _adapters(row: Row) -> bool:
    """Whether only adapters are trained."""
    return _task(row) == "lora"


def _task(row: Row) -> str:
    """Adapters alone, layers alone (`single layer`), or all of the training, for which tables have many words."""
    word = "lora" if row["zero"] == "lora" else (row.get("task") or "").lower()
    return {"lora": "lora", "layers": "layers", "single layer": "layers"}.get(word, "pretrain")


def _training(row: Row) -> Training:
    return Training(
        seq_len=whole(row, "seq_len"),
        global_batch=whole(row, "global_batch"),
        micro_batch=whole(row, "micro_batch"),
        precision=row["precision"],
        recompute=row["recompute"] or "none",
        optimizer="sgd" if "sgd" in _optimizer(row) else "adamw",
        gradients=row.get("gradients") or "auto",
        task=_task(row),
        mtp_layers=_mtp_layers(row),
    )


def _optimizer(row: Row) -> str:
    return (row.get("optimizer") or "").lower()


def _schedule(row: Row, pp: int) -> str:
    """The one that the source says; 1F1B and interleaving follow from the chunks of a stage (`vp`)."""
    found = _named_schedule(row, pp)
    return "auto" if found in ("", "one_f_one_b", "interleaved") else found


def _named_schedule(row: Row, pp: int) -> str:
    """Name of the schedule that the source says; none where it says none or there are no stages."""
    word = (row.get("schedule") or "").partition("(")[0].strip()
    if word in ("", *UNSET) or pp == 1:
        return ""
    names = {_plain(each): name for each, name in named().items()}
    if _plain(word) not in names:
        raise SkippedRowError(unknown("schedule", word, [schedule(name).WORDS[0] for name in schedules()]))
    return names[_plain(word)]


def _in_brackets(words: str) -> str:
    """Behind a schedule: whose it is."""
    return words.partition("(")[2].partition(")")[0].strip().lower()


def _plain(word: str) -> str:
    """Sources write `interleaved 1F1B`, `Interleaved1F1B` and `interleaved-1F1B`."""
    return re.sub(r"[\s_-]", "", word).lower()


def _layout(row: Row, tp: int) -> Layout:
    pp, cp = whole(row, "pp", 1), whole(row, "cp", 1)
    dp, rest = divmod(whole(row, "gpus"), tp * pp * cp)
    if rest:
        raise SkippedRowError(f"{row['gpus']} GPUs are not divisible by tp x pp x cp = {tp * pp * cp}")
    zero = 0 if row["zero"] in ("", "lora") else whole(row, "zero")
    known = stack(row["stack"]) if row["stack"] else None
    sequence_parallel = _yes(row, "sequence_parallel", usual=known is not None and known.sequence_parallel)
    split = tp if known is not None and known.splits_experts and whole(row, "experts", 0) else 0
    if row.get("dp") and whole(row, "dp") != dp:
        raise SkippedRowError(f"dp = {row['dp']} contradicts gpus / (tp x pp x cp) = {dp}")
    return Layout(
        dp=max(dp, 1),
        tp=tp,
        pp=pp,
        vp=whole(row, "vp", 1),
        cp=cp,
        ep=whole(row, "ep", 1),
        etp=whole(row, "etp", 0) or split,
        context_mode=cast(ContextMode, row.get("context_mode") or "ring"),
        expert_mode=cast(ExpertMode, row.get("expert_mode") or "all_to_all"),
        expert_overlap=_yes(row, "expert_overlap"),
        zero=zero,
        zero_group=whole(row, "zero_group", 0) if zero else 0,
        schedule=_schedule(row, pp),
        chunk_layers=row.get("chunk_layers") or "",
        sequence_parallel=sequence_parallel and tp > 1,
    )


def _yes(row: Row, column: str, *, usual: bool = False) -> bool:
    """Whether a cell says yes; a blank one says what is usual."""
    word = row.get(column) or ("yes" if usual else "no")
    if word not in ("yes", "no"):
        raise SkippedRowError(f"{column} = {word!r}: yes or no is needed")
    return word == "yes"


def _stack(row: Row, *, tuned: bool = False) -> Stack:
    """The stack of the row, with the overlap that its source says was on, and less what it says was off.

    tuned: by a recipe that is not given, which may run on another stack than those that are.
    """
    if row["stack"] and row["stack"] not in stacks():
        raise SkippedRowError(unknown("stack", row["stack"], stacks()))
    named, words = stack(row["stack"] or UNSTATED_STACK), (row.get("overlap") or "").lower()
    driven = stack(named.engines.get(_in_brackets(row.get("schedule") or ""), named.name))
    found = stack(release(driven, hardware.device(row["device"]), _date(row)))
    found = stack(found.recipes.stack) if tuned and found.recipes.stack else found
    said: dict[str, Any] = {}
    for pattern, entries in OVERLAP_WORDS.items():
        said |= entries if re.search(pattern, words) else {}
    return replace(found, overlap=replace(found.overlap, **said))


def named_release(row: Row) -> str:
    """Year and month of the release that the source names, the latest one; blank where it names none.

    A patch of a release is as many days later as its number says, so that what came with it can be told.
    """
    named = RELEASE.findall(f"{row.get('source') or ''} {row.get('cite') or ''}")
    return max(
        (f"20{year}-{month}" + (f"-{int(patch) + 1:02}" if patch else "") for year, month, patch in named), default=""
    )


def _date(row: Row) -> date | None:
    """The day of the run, the first one of its month where only that is given, or its source names a release by it."""
    text = row.get("date") or named_release(row)
    try:
        return date.fromisoformat(f"{text}-01" if len(text) == len("2024-12") else text) if text else None
    except ValueError:
        raise SkippedRowError(f"date = {text!r}: a month as in 2024-12, or a day as in 2024-12-31, is needed") from None


def _cluster(row: Row) -> Cluster:
    """Full nodes of the device, joined as the row says."""
    gpus, per_node = whole(row, "gpus"), whole(row, "gpus_per_node")
    gbit_per_s = positive(row, "inter_node_gbit_per_s")
    return _cluster_of(row["device"], row["fabric"], per_node, -(-gpus // per_node), gbit_per_s)


@cache
def _cluster_of(device: str, fabric: str, per_node: int, nodes: int, gbit_per_s: float) -> Cluster:
    found = hardware.device(device)
    if fabric not in found.links:
        raise WorkloadError(device, [unknown("fabric", fabric, found.links)])
    return Cluster(
        name=f"{device} x {per_node}, {fabric}",
        title="from a table of runs",
        device=found,
        nodes=nodes,
        gpus_per_node=per_node,
        domain_gpus=NVL72_GPUS if fabric == "nvl72" else per_node,
        scale_up=hardware.fabric(fabric),
        scale_up_bytes_per_s=found.links[fabric],
        scale_out=hardware.fabric("infiniband"),
        scale_out_bytes_per_s=gbit_per_s * 1e9 / 8,
        source="table of runs",
    )
