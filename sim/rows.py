"""A row of the step-time table -> a job. The columns are those of published runs; blanks mean the usual."""

import re
from collections.abc import Mapping
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
from sim.usual import interleaved, least_that_fits, limits_nodes, release
from workloads.chunks import spelt
from workloads.errors import WorkloadError, unknown
from workloads.layout import UNSET, ContextMode, ExpertMode, Layout, Training, chunk_layers
from workloads.schedules import schedule, schedules
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
# Year and month in the words of a source, as NVIDIA numbers its containers and frameworks: ngc24.09, 24.07
RELEASE = re.compile(r"(?<![\d.])(2\d)\.(0[1-9]|1[0-2])(?![\d.])")


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
    made = _stack(row)
    if "zero_stage_or_fsdp" in open_inputs:
        row = {**row, "zero": str(made.zero)}
    if _task(row) == "layers":
        row = {**row, "vocab": row["vocab"] or UNUSED_VOCAB}
    job = Job(
        model=model_of(row),
        cluster=_cluster(row),
        training=_training(row),
        layout=_layout(row, whole(row, "tp", 1)),
        stack=made,
        execution=row.get("execution") or _execution(made, open_inputs),
        attention=row.get("attention") or "",
        host_pace=positive(row, "host_pace") if row.get("host_pace") else None,
    )
    if once := not row.get("expert_mode") and limits_nodes(job):
        job = replace(job, layout=replace(job.layout, expert_mode="deduplicated"))
    gradients = job.training.gradients
    named = _named_schedule(row, job.layout.pp) == "interleaved"
    if not row.get("vp") and (named or "recompute" in open_inputs):
        job = interleaved(job, named=named)
    if "recompute" in open_inputs:
        job = least_that_fits(job)
    filled = {"zero_stage_or_fsdp": f"zero = {job.layout.zero}", "recompute": f"recompute = {job.training.recompute}"}
    assumed = [words for name, words in filled.items() if name in open_inputs]
    assumed += [f"stack = {made.name}"] if made.name != (row["stack"] or made.name) and not _date(row) else []
    assumed += [f"gradients = {job.training.gradients}"] if job.training.gradients != gradients else []
    assumed += ["expert_mode = deduplicated"] if once else []
    assumed += [f"vp = {job.layout.vp}"] if job.layout.vp != whole(row, "vp", 1) else []
    assumed += (
        [f"mtp_layers = {job.trained.mtp_layers}"] if job.trained.mtp_layers and not row.get("mtp_layers") else []
    )
    assumed += _uneven(job)
    assumed += [f"execution = {job.execution}"] if job.execution and not row.get("execution") else []
    assumed += [] if _is_priced(_optimizer(row)) else ["optimizer = adamw"]
    return Described(job=job, assumed=tuple(assumed))


def _uneven(job: Job) -> list[str]:
    """How layers are dealt out, where they do not come out even and the source does not say how."""
    shares = chunk_layers(job.trained, job.layout)
    known = job.layout.chunk_layers or min(shares) == max(shares)
    return [] if known else [f"chunk_layers = {spelt(shares)}"]


def _execution(made: Stack, open_inputs: frozenset[str]) -> str:
    """CUDA graphs, where a source gives figures of a tuned recipe and not what is in it; else the usual one."""
    return "graph" if "recompute" in open_inputs and "graph" in made.host.launch_s else ""


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
        mtp_layers=whole(row, "mtp_layers", 0) if row.get("mtp_layers") else None,
    )


def _optimizer(row: Row) -> str:
    return (row.get("optimizer") or "").lower()


def _schedule(row: Row, pp: int) -> str:
    """GPipe where the source says so; 1F1B and interleaving follow from the chunks of a stage (`vp`)."""
    return "gpipe" if _named_schedule(row, pp) == "gpipe" else "auto"


def _named_schedule(row: Row, pp: int) -> str:
    """Name of the schedule that the source says; none where it says none or there are no stages."""
    word = (row.get("schedule") or "").partition("(")[0].strip()
    if word in ("", *UNSET) or pp == 1:
        return ""
    names = {_plain(each): name for name in schedules() for each in (name, schedule(name).WORD)}
    if _plain(word) not in names:
        raise SkippedRowError(unknown("schedule", word, [schedule(name).WORD for name in schedules()]))
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


def _stack(row: Row) -> Stack:
    """The stack of the row, with the overlap that its source says was on, and less what it says was off."""
    if row["stack"] and row["stack"] not in stacks():
        raise SkippedRowError(unknown("stack", row["stack"], stacks()))
    named, words = stack(row["stack"] or UNSTATED_STACK), (row.get("overlap") or "").lower()
    driven = stack(named.engines.get(_in_brackets(row.get("schedule") or ""), named.name))
    found = stack(release(driven, hardware.device(row["device"]), _date(row)))
    said: dict[str, Any] = {}
    for pattern, entries in OVERLAP_WORDS.items():
        said |= entries if re.search(pattern, words) else {}
    return replace(found, overlap=replace(found.overlap, **said))


def _date(row: Row) -> date | None:
    """The day of the run, the first one of its month where only that is given, or its source names a release by it."""
    named = RELEASE.findall(f"{row.get('source') or ''} {row.get('cite') or ''}")
    text = row.get("date") or max((f"20{year}-{month}" for year, month in named), default="")
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
