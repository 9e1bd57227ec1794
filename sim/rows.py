"""A row of the step-time table -> a job. The columns are those of published runs; blanks mean the usual."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from hardware import catalog as hardware
from hardware.types import Cluster
from sim.catalog import stack, stacks
from sim.job import Job
from workloads.errors import WorkloadError, unknown
from workloads.layout import Layout, Training
from workloads.model import Model, check
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
# A source that leaves these open leaves the step time open; the usual network of a system is close enough.
NEEDED_INPUTS = ("recompute", "zero_stage_or_fsdp", "vocab")
COVERED = ("gpt", "llama", "moe", "bert")
UNSTATED_STACK = "megatron-lm-2022"
NVL72_GPUS = 72
MAY_BE_ZERO = ("zero", "zero_group", "experts", "topk")
Row = Mapping[str, str]


class SkippedRowError(Exception):
    """A row that cannot be simulated; the message says why."""


def job_of(row: Row) -> Job:
    """The job that a row describes; raises SkippedRowError with the reason if it is not one."""
    _refuse(row)
    try:
        tp = _int(row, "tp", 1)
        return Job(
            model=_model(row),
            cluster=_cluster(row),
            training=_training(row),
            layout=_layout(row, tp),
            stack=_stack(row),
            execution=row.get("execution") or "",
            attention=row.get("attention") or "",
        )
    except (ValueError, KeyError) as error:
        raise SkippedRowError(str(error)) from error


def _refuse(row: Row) -> None:
    if row["family"] not in COVERED:
        raise SkippedRowError(f"family {row['family']!r} is not simulated; covered: {', '.join(COVERED)}")
    missing = [name for name in row["missing_inputs"].split(";") if name in NEEDED_INPUTS]
    if missing:
        raise SkippedRowError(f"the source does not give {', '.join(missing)}")
    if row.get("task") == "single layer":
        raise SkippedRowError("a single layer, not a step")
    if row["stack"] and row["stack"] not in stacks():
        raise SkippedRowError(unknown("stack", row["stack"], stacks()))


def _model(row: Row) -> Model:
    llama, bert = row["family"] in ("llama", "moe"), row["family"] == "bert"
    heads, hidden = _int(row, "heads"), _int(row, "hidden")
    model = Model(
        name=row.get("model") or row["id"],
        family="llama" if llama else "bert" if bert else "gpt",
        layers=_int(row, "layers"),
        hidden=hidden,
        ffn=_int(row, "ffn"),
        heads=heads,
        kv_heads=_int(row, "kv_heads", heads),
        head_dim=hidden // heads,
        vocab=_int(row, "vocab"),
        gated=llama,
        norm="rms_norm" if llama else "layer_norm",
        biases="none" if llama else "all",
        tied_embeddings=not llama,
        positions="rope" if llama else "learned",
        max_positions=_int(row, "seq_len"),
        activation="silu" if llama else "gelu",
        qk_norm=row.get("qk_norm") == "yes",
        embedding_norm=bert,
        experts=_int(row, "experts", 0),
        topk=_int(row, "topk", 0),
    )
    if faults := check(model):
        raise WorkloadError(model.name, faults)
    return model


def _training(row: Row) -> Training:
    return Training(
        seq_len=_int(row, "seq_len"),
        global_batch=_int(row, "global_batch"),
        micro_batch=_int(row, "micro_batch"),
        precision=row["precision"],
        recompute=row["recompute"] or "none",
        task="lora" if row["zero"] == "lora" else "pretrain",
    )


def _layout(row: Row, tp: int) -> Layout:
    pp, cp = _int(row, "pp", 1), _int(row, "cp", 1)
    dp, rest = divmod(_int(row, "gpus"), tp * pp * cp)
    if rest:
        raise SkippedRowError(f"{row['gpus']} GPUs are not divisible by tp x pp x cp = {tp * pp * cp}")
    zero = 0 if row["zero"] in ("", "lora") else _int(row, "zero")
    usual = stack(row["stack"]).sequence_parallel if row["stack"] else False
    sequence_parallel = row.get("sequence_parallel") or ("yes" if usual else "no")
    if sequence_parallel not in ("yes", "no"):
        raise SkippedRowError(f"sequence_parallel = {sequence_parallel!r}: yes or no is needed")
    if row.get("dp") and _int(row, "dp") != dp:
        raise SkippedRowError(f"dp = {row['dp']} contradicts gpus / (tp x pp x cp) = {dp}")
    return Layout(
        dp=max(dp, 1),
        tp=tp,
        pp=pp,
        vp=_int(row, "vp", 1),
        cp=cp,
        ep=_int(row, "ep", 1),
        zero=zero,
        zero_group=_int(row, "zero_group", 0) if zero else 0,
        sequence_parallel=sequence_parallel == "yes" and tp > 1,
    )


def _stack(row: Row) -> Stack:
    """The stack of the row, less the overlap that its source says was off."""
    found, words = stack(row["stack"] or UNSTATED_STACK), (row.get("overlap") or "").lower()
    off: dict[str, Any] = {}
    if _is_off("tp", words):
        off |= {"tensor": False}
    if _is_off("dp", words):
        off |= {"gradients": "none", "parameters": False}
    if _is_off("p2p", words):
        off |= {"pipeline": "none"}
    return replace(found, overlap=replace(found.overlap, **off))


def _is_off(what: str, words: str) -> bool:
    """Whether words such as `no DP overlap`, `TP overlap, DP overlap disabled`, `TP_COMM_OVERLAP=False` say so."""
    listed = f"{what} overlap" in words and "disabled" in words
    return listed or re.search(rf"no {what} overlap|{what}_comm_overlap=(false|0)", words) is not None


def _cluster(row: Row) -> Cluster:
    """Full nodes of the device, joined as the row says."""
    gpus, per_node = _int(row, "gpus"), _int(row, "gpus_per_node")
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


def _int(row: Row, key: str, default: int | None = None) -> int:
    """A whole number of at least 1, or the default where the cell is blank."""
    text = row.get(key) or ""
    if not text and default is not None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1 and not (key in MAY_BE_ZERO and text == "0"):
        raise SkippedRowError(f"{key} = {text!r}: a whole number of 1 or more is needed")
    return value


def positive(row: Row, key: str) -> float:
    """A finite number above zero; raises SkippedRowError."""
    try:
        value = float(row.get(key) or "")
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise SkippedRowError(f"{key} = {row.get(key)!r}: a positive number is needed")
    return value
