"""Everything that can be asked for by name: one place to list it and to look it up.

A new device, cluster, model, stack, schedule or collective is one file in its folder, and is here at once.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from hardware import catalog as hardware
from hardware.descriptor import parse, read_like
from hardware.types import Cluster
from sim import collectives
from workloads.catalog import model as catalogued_model
from workloads.catalog import models, read_model
from workloads.errors import WorkloadError, unknown
from workloads.model import Model
from workloads.schedules import schedules
from workloads.stack import Stack

STACKS = Path(__file__).parent.parent / "workloads" / "stacks"
DIRECTORY = Path()
OWN = ("name", "title", "source", "earlier")  # that no stack has from another


def stacks() -> tuple[str, ...]:
    """Names of the known training stacks."""
    return tuple(sorted(path.stem for path in STACKS.glob("*.toml")))


def stack(name: str, base: Path = DIRECTORY) -> Stack:
    """What a training software does: by name, or from a `.toml` file whose path starts at `base`.

    Raises WorkloadError for an unknown name, DescriptorError for a file that is not right.
    """
    if name in stacks():
        return _catalogued_stack(name)
    if name.endswith(".toml"):
        return _read_stack(base / name)
    raise WorkloadError("", [unknown("stack", name, stacks())])


def model(name: str, base: Path = DIRECTORY) -> Model:
    """A model by name, or from a config.json, `.toml` or folder whose path starts at `base`."""
    if name in models():
        return catalogued_model(name)
    if Path(name).suffix.lower() in (".json", ".toml") or "/" in name or (name and (base / name).exists()):
        return read_model(base / name)
    raise WorkloadError("", [unknown("model", name, models())])


def cluster(name: str, nodes: int | None = None, base: Path = DIRECTORY) -> Cluster:
    """A cluster by name, or from a `.toml` file whose path starts at `base`."""
    return hardware.cluster(base / name if name.endswith(".toml") else name, nodes)


# Kind of thing -> the names of all there are.
NAMES: Mapping[str, Callable[[], tuple[str, ...]]] = {
    "devices": hardware.devices,
    "clusters": hardware.clusters,
    "models": models,
    "stacks": stacks,
    "schedules": schedules,
    "collectives": lambda: tuple(sorted(collectives.algorithms())),
}


@cache
def _catalogued_stack(name: str) -> Stack:
    return _read_stack(STACKS / f"{name}.toml")


def _read_stack(path: Path) -> Stack:
    return parse(read_like(path, "stack", STACKS, OWN), Stack, str(path))
