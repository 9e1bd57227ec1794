"""The catalogue as rows: the main figures of every entry."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from rich.table import Table

from hardware import catalog as hardware
from sim import catalog
from sim.report import units
from sim.report.terminal import table

Entry = dict[str, Any]


def entries(kind: str) -> list[Entry]:
    """Every entry of a kind, by name; SI units."""
    return [{"name": name} | DETAILS[kind](name) for name in catalog.NAMES[kind]()]


def listing(kind: str) -> Table:
    """The entries as a table for people."""
    found = [{key: value for key, value in entry.items() if key not in HIDDEN} for entry in entries(kind)]
    rows = [_shown(entry) for entry in found]
    made = table(*rows[0], left=sum(isinstance(value, str) for value in found[0].values()))
    for row in rows:
        made.add_row(*row.values())
    return made


def overview() -> Table:
    """How many there are of each kind, and their names."""
    made = table("kind", "entries", "names")
    made.columns[2].justify = "left"
    made.columns[2].overflow = "fold"
    for kind, names in catalog.NAMES.items():
        made.add_row(kind, str(len(names())), ", ".join(names()))
    return made


def _device(name: str) -> Entry:
    device = hardware.device(name)
    rates = device.tensor_flops_per_s
    return {
        "title": device.title,
        "architecture": device.architecture.name,
        "memory_bytes": device.memory_bytes,
        "memory_bytes_per_s": device.memory_bytes_per_s,
        "flops_per_s_16_bit": rates.get("bf16") or rates.get("fp16") or device.vector_flops_per_s.get("fp16"),
        "flops_per_s_fp8": rates.get("fp8"),
        "power_limit_w": device.power_limit_w,
    }


def _cluster(name: str) -> Entry:
    cluster = hardware.cluster(name)
    return {
        "title": cluster.title,
        "device": cluster.device.name,
        "gpus_per_node": cluster.gpus_per_node,
        "domain_gpus": cluster.domain_gpus,
        "scale_up_bytes_per_s": cluster.scale_up_bytes_per_s,
        "scale_out_bytes_per_s": cluster.scale_out_bytes_per_s,
    }


def _model(name: str) -> Entry:
    model = catalog.model(name)
    sizes = ("parameters", "layers", "hidden", "ffn", "heads", "kv_heads", "vocab")
    return {"family": model.family} | {size: getattr(model, size) for size in sizes}


def _stack(name: str) -> Entry:
    stack = catalog.stack(name)
    executions = ", ".join(stack.host.launch_s)
    return {"title": stack.title, "executions": executions, "attention": stack.attention}


def _schedule(name: str) -> Entry:
    return _documented(f"workloads.schedules.{name}")


def _collective(name: str) -> Entry:
    return _documented(f"sim.collectives.{name}")


def _documented(module: str) -> Entry:
    """The first sentence of a module, without its name."""
    first = (import_module(module).__doc__ or "").strip().partition("\n")[0]
    return {"what": first.partition(": ")[2].rstrip(".") or first}


DETAILS: Mapping[str, Callable[[str], Entry]] = {
    "devices": _device,
    "clusters": _cluster,
    "models": _model,
    "stacks": _stack,
    "schedules": _schedule,
    "collectives": _collective,
}

# Left to the JSON document: a table has room for a hundred characters.
HIDDEN = ("architecture",)

# Key -> column and how its value is shown.
SHOWN: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "memory_bytes": ("memory", units.gib),
    "memory_bytes_per_s": ("TB/s", lambda value: units.digits(value / 1e12)),
    "flops_per_s_16_bit": ("16-bit TFLOP/s", lambda value: units.digits(value / 1e12)),
    "flops_per_s_fp8": ("fp8", lambda value: units.digits(value / 1e12)),
    "power_limit_w": ("W", lambda value: f"{value:.0f}"),
    "gpus_per_node": ("GPUs", str),
    "domain_gpus": ("domain", str),
    "scale_up_bytes_per_s": ("GB/s a GPU", lambda value: units.digits(value / 1e9)),
    "scale_out_bytes_per_s": ("GB/s a node", lambda value: units.digits(value / 1e9)),
    "parameters": ("parameters", units.parameters),
}


def _shown(entry: Entry) -> dict[str, str]:
    cells = {}
    for key, value in entry.items():
        column, show = SHOWN.get(key, (key, str))
        cells[column] = "" if value is None else show(value)
    return cells
