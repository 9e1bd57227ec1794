"""The job file: TOML tables -> a Job, with every fault of the file at once.

First the form (types, unknown and missing keys) and every name; when these are right, what spans several
tables: degrees, batch and GPUs. Paths in a job file start at its folder.
"""

import copy
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from calibration.cost.rates import peak_flops_per_s
from hardware.descriptor import DescriptorError, parse, read_toml
from hardware.types import Cluster
from sim import catalog
from sim.job import Job
from sim.jobtables import LayoutTable, Tables
from workloads import chunks
from workloads.errors import WorkloadError, unknown
from workloads.layout import (
    CONTEXT_MODES,
    EXPERT_MODES,
    GRADIENTS,
    OPTIMIZERS,
    TASKS,
    UNSET,
    Layout,
    Training,
    check,
    chunk_layers,
    micro_batches,
    recompute_fault,
)
from workloads.model import Model
from workloads.precision import PRECISIONS
from workloads.schedules import named
from workloads.stack import Stack

Document = Mapping[str, Any]

# What the model and these alone can contradict.
BATCH = ("seq_len", "global_batch", "micro_batch")
DEGREES = ("tp", "pp", "vp", "cp", "ep")
# Stands in for replicas that are not known: it contradicts nothing.
ONE_REPLICA = {"dp": 1, "ep": 1, "etp": 0}

# Passes of a micro-batch through a chunk that one simulation plays; more would take minutes and gigabytes.
MOST_PASSES = 500_000


class Parts(NamedTuple):
    """A job file whose form and names are right; whether the parts go together is not known yet."""

    tables: Tables
    model: Model
    cluster: Cluster
    stack: Stack


def read_job(path: Path, settings: Iterable[str] = ()) -> Job:
    """The job of a file, with `table.key=value` settings on top.

    Raises:
        DescriptorError: the file cannot be read, or a key, type or name is wrong.
        WorkloadError: the parts do not go together.
    """
    document = overridden(read_document(path), settings, str(path))
    return job(parts(document, str(path), path.parent), str(path))


def read_document(path: Path) -> Document:
    """The tables of a TOML file; raises DescriptorError."""
    document = read_toml(path)
    if not document:
        tables = ", ".join(f"[{name}]" for name in Tables.__slots__)
        raise DescriptorError(path, [f"is empty; should have the tables {tables}"])
    return document


def overridden(document: Document, settings: Iterable[str], where: str) -> Document:
    """`document` with settings such as `layout.tp=4` put into it; raises DescriptorError."""
    changed, faults = copy.deepcopy(dict(document)), list[str]()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not _put(changed, key.strip(), _value(text.strip())):
            faults.append(f"--set {setting}: should be table.key=value, as in layout.tp=4")
    if faults:
        raise DescriptorError(where, faults)
    return changed


def with_values(document: Document, values: Mapping[str, Any]) -> Document:
    """`document` with other values at keys such as `layout.tp`."""
    changed = copy.deepcopy(dict(document))
    for key, value in values.items():
        assert _put(changed, key, value), f"no table for {key}"
    return changed


def parts(document: Document, where: str, base: Path) -> Parts:
    """Check form and names; raises DescriptorError with every fault."""
    faults = list[str]()
    tables = _parsed(document, where, faults)
    faults += _word_faults(document)
    found = _looked_up(document, base, faults)
    if isinstance(stack := found.get("stack"), Stack):
        faults += _execution_faults(document, stack)
    if faults or tables is None:
        raise DescriptorError(where, [*faults, *_degree_faults(tables, found.get("model"))])
    return Parts(tables, **found)


def job(given: Parts, where: str) -> Job:
    """The job; raises WorkloadError with every inconsistency of its parts."""
    tables = given.tables
    training = Training(**asdict(tables.training))
    layout, faults = _layout(tables.layout, given)
    try:
        check(given.model, layout, training)
    except WorkloadError as error:
        faults += error.faults
    faults += _device_faults(given)
    if not faults:
        faults += _length_faults(layout, training)
    if faults:
        raise WorkloadError(where, faults)
    made = Job(
        model=given.model,
        cluster=given.cluster,
        training=training,
        layout=layout,
        stack=given.stack,
        execution=tables.stack.execution,
        attention=tables.stack.attention,
        host_pace=tables.stack.host_pace,
    )
    try:
        made.shard()
    except WorkloadError as error:
        raise WorkloadError(where, error.faults) from None
    return made


def resolved(job: Job) -> dict[str, Any]:
    """A job as the tables of a job file, with everything filled in that the file left open."""
    cluster, shard = job.cluster, job.shard()
    etp = job.layout.expert_tp if job.model.experts else 0
    split = chunks.spelt(chunk_layers(job.trained, job.layout))
    return {
        "model": {"name": job.model.name, "parameters": job.model.parameters},
        "cluster": {
            "name": cluster.name,
            "device": cluster.device.name,
            "nodes": cluster.nodes,
            "gpus_per_node": cluster.gpus_per_node,
            "gpus": job.gpus,
        },
        "training": asdict(job.training)
        | {"micro_batches": micro_batches(job.layout, job.training), "mtp_layers": job.trained.mtp_layers},
        "layout": asdict(job.layout) | {"schedule": job.layout.schedule_name, "etp": etp, "chunk_layers": split},
        "stack": {
            "name": job.stack.name,
            "execution": shard.execution,
            "attention": shard.attention,
            "host_pace": job.pace,
        },
    }


def _put(document: dict[str, Any], key: str, value: object) -> bool:
    """Set `table.key`; False where that is no path to a value."""
    table, dot, name = key.partition(".")
    if not dot or not table or not name or "." in name:
        return False
    inner = document.setdefault(table, {})
    if not isinstance(inner, dict):
        return False
    inner[name] = value
    return True


def _value(text: str) -> object:
    """As TOML writes values; a bare word is a text."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if len(found) == 1 else text


def _parsed(document: Document, where: str, faults: list[str]) -> Tables | None:
    try:
        return parse(document, Tables, where)
    except DescriptorError as error:
        faults += error.faults
        return None


def _texts(document: Document) -> dict[tuple[str, str], str]:
    """(table, key) -> value, of all values that are texts, whatever else is wrong with the file."""
    return {
        (table, key): value
        for table, values in document.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
        if isinstance(value, str)
    }


def _word_faults(document: Document) -> Iterator[str]:
    """Words that are not among those that their key takes."""
    words = {
        ("training", "precision"): ("precision", tuple(PRECISIONS)),
        ("training", "optimizer"): ("optimizer", OPTIMIZERS),
        ("training", "gradients"): ("type", GRADIENTS),
        ("training", "task"): ("task", TASKS),
        ("layout", "schedule"): ("schedule", (*UNSET, *named())),
        ("layout", "context_mode"): ("mode", CONTEXT_MODES),
        ("layout", "expert_mode"): ("mode", EXPERT_MODES),
        ("stack", "attention"): ("attention", ("flash", "unfused")),
    }
    texts = _texts(document)
    for (table, key), (what, known) in words.items():
        text = texts.get((table, key), known[0])
        if text not in known:
            yield f"{table}.{key}: {unknown(what, text, known)}"
    if fault := recompute_fault(texts.get(("training", "recompute"), "none")):
        yield f"training.recompute: {fault}"


def _looked_up(document: Document, base: Path, faults: list[str]) -> dict[str, Any]:
    """Table -> what its `name` stands for."""
    found = dict[str, Any]()
    look_ups: dict[str, Callable[..., object]] = {
        "model": catalog.model,
        "cluster": catalog.cluster,
        "stack": catalog.stack,
    }
    for (table, key), name in _texts(document).items():
        if key == "name" and table in look_ups:
            try:
                found[table] = look_ups[table](name, base=base)
            except (DescriptorError, WorkloadError) as error:
                origin = getattr(error, "path", "") or getattr(error, "where", "")
                prefix = f"{table}.name: " + (f"{origin}: " if origin else "")
                faults += [prefix + fault for fault in error.faults]
    cluster, nodes = found.get("cluster"), _nodes(document)
    if isinstance(cluster, Cluster) and nodes:
        found["cluster"] = replace(cluster, nodes=nodes)
    return found


def _degree_faults(tables: Tables | None, model: Model | None) -> tuple[str, ...]:
    """Of a file with faulty names: what is wrong with its degrees and batch, whatever the names stand for."""
    if tables is None or model is None:
        return ()
    training = Training(**{key: getattr(tables.training, key) for key in BATCH})
    degrees = {key: getattr(tables.layout, key) for key in DEGREES}
    replicas = {"dp": tables.layout.dp} if tables.layout.dp else ONE_REPLICA
    split = tables.layout.sequence_parallel
    if split is None:  # the stack says, which may not be known: as experts need it
        split = tables.layout.tp > 1 and model.experts > 0
    try:
        check(model, Layout(**{**degrees, **replicas, "sequence_parallel": split}), training)
    except WorkloadError as error:
        return error.faults
    return ()


def _nodes(document: Document) -> int | None:
    table = document.get("cluster")
    nodes = table.get("nodes") if isinstance(table, Mapping) else None
    return nodes if isinstance(nodes, int) and nodes > 0 else None


def _execution_faults(document: Document, stack: Stack) -> list[str]:
    execution = _texts(document).get(("stack", "execution"), "")
    known = tuple(stack.host.launch_s)
    if not execution or execution in known:
        return []
    return [f"stack.execution: {unknown(f'execution of {stack.name}', execution, known)}"]


def _layout(table: LayoutTable, given: Parts) -> tuple[Layout, list[str]]:
    """With what the file leaves open; where dp cannot be found, one replica with all experts stands in for it."""
    values = asdict(table)
    replica = table.tp * table.pp * table.cp
    gpus, where = given.cluster.gpus, f"{given.cluster.name} x {given.cluster.nodes}"
    split = f"tp x pp x cp = {table.tp} x {table.pp} x {table.cp} = {replica}"
    faults = []
    if table.dp is None and gpus % replica:
        faults.append(f"layout: {split} does not divide the {gpus} GPUs of {where}; layout.dp would use fewer")
    elif table.dp is not None and table.dp * replica > gpus:
        faults.append(f"layout: dp = {table.dp} times {split} is {table.dp * replica} GPUs; {where} has {gpus}")
    if table.sequence_parallel is None:
        values["sequence_parallel"] = given.stack.sequence_parallel and table.tp > 1
    if given.stack.splits_experts and given.model.experts and not table.etp:
        values["etp"] = table.tp
    values |= ONE_REPLICA if faults else {"dp": table.dp or gpus // replica}
    return Layout(**values), faults


def _device_faults(given: Parts) -> list[str]:
    """Data types that the device has not."""
    device, precision = given.cluster.device, PRECISIONS[given.tables.training.precision]
    faults = list[str]()
    for dtype in dict.fromkeys((precision.gemm, precision.activation)):
        try:
            peak_flops_per_s(device, dtype)
        except ValueError as error:
            faults.append(f"training.precision = {precision.name!r}: {error}")
    return faults


def _length_faults(layout: Layout, training: Training) -> Iterator[str]:
    passes = micro_batches(layout, training) * layout.chunks
    if passes > MOST_PASSES:
        yield (
            f"training: micro-batches x pp x vp = {passes:,} passes are more than the {MOST_PASSES:,} "
            "that are simulated; a larger micro_batch or a smaller global_batch is right"
        )
