"""The choice among the algorithms of this folder: the fastest that applies, as NCCL's tuner nearly does."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import numpy as np
from numpy.typing import NDArray

import sim.collectives
from hardware.types import Cluster
from sim.collectives import deduplicated, direct
from sim.collectives.phase import Phase, pipeline_s
from sim.collectives.placement import Placement, placement
from workloads.ops import Collective, CommunicationOp, Exchange, Transfer

Algorithm = Callable[[Collective, Placement], tuple[Phase, ...]]

# Standard deviation of log(measured / predicted): see the error table in docs/models/collectives.md.
SPREAD, SMALL_SPREAD, NETWORK_SPREAD = 0.14, 0.20, 0.25
SMALL_BYTES = 1 << 20


@cache
def algorithms() -> Mapping[str, Algorithm]:
    """Name -> `phases` of each module of this folder that has that function."""
    names = sorted(module.name for module in iter_modules(sim.collectives.__path__))
    modules = {name: import_module(f"sim.collectives.{name}") for name in names}
    return {name: module.phases for name, module in modules.items() if hasattr(module, "phases")}


def seconds(ops: Sequence[CommunicationOp], cluster: Cluster) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds of each op on `cluster`, and their spread: standard deviation of log(measured / predicted)."""
    start_s = placement(1, 1, cluster).start_s
    prices = {op: _price(op, fastest(op, cluster), start_s) for op in set(ops)}
    pairs = np.array([prices[op] for op in ops], dtype=np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _price(op: CommunicationOp, phases: Sequence[Phase], start_s: float) -> tuple[float, float]:
    """Seconds of one op and their spread; zero where nothing has to move."""
    return (start_s + pipeline_s(phases), spread(op, phases)) if phases else (0.0, 0.0)


def fastest(op: CommunicationOp, cluster: Cluster) -> tuple[Phase, ...]:
    """Phases of the fastest algorithm; none where nothing has to move."""
    if op.bytes < 0:
        raise ValueError(f"bytes of a message must not be negative, got {op.bytes}")
    if isinstance(op, Transfer):
        return transfer(op, cluster)
    if op.ranks == 1 or op.bytes == 0:
        return ()
    if isinstance(op, Exchange):
        return deduplicated.exchange(op, placement(op.ranks, op.stride, cluster))
    return min(candidates(op, cluster).values(), key=pipeline_s)


def candidates(op: Collective, cluster: Cluster) -> dict[str, tuple[Phase, ...]]:
    """Algorithm -> phases, of those that can do `op`."""
    place = placement(op.ranks, op.stride, cluster)
    found = {name: phases(op, place) for name, phases in algorithms().items()}
    able = {name: phases for name, phases in found.items() if phases}
    if not able:
        raise ValueError(f"no algorithm for collective {op.op!r}; known: {', '.join(algorithms())}")
    return able


def transfer(op: Transfer, cluster: Cluster) -> tuple[Phase, ...]:
    """The message of rank `source` to its partner, inside the domain or over the network."""
    if op.stride == 0 or op.bytes == 0:
        return ()
    same_domain = in_one_domain(op, cluster)
    return (direct.message(op.bytes, placement(2, abs(op.stride), cluster), same_domain=same_domain),)


def in_one_domain(op: CommunicationOp, cluster: Cluster) -> bool:
    """Whether all that take part share one scale-up domain."""
    if isinstance(op, Transfer):
        return op.source // cluster.domain_gpus == (op.source + op.stride) // cluster.domain_gpus
    return placement(op.ranks, op.stride, cluster).domains == 1


def spread(op: CommunicationOp, phases: Sequence[Phase]) -> float:
    """How sure a price is."""
    if any(phase.fabric == "scale_out" for phase in phases):
        return NETWORK_SPREAD
    return SMALL_SPREAD if op.bytes < SMALL_BYTES else SPREAD
