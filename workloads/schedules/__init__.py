"""Pipeline schedules: in which order a stage runs its micro-batches. One file each, found because it is there."""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast

from workloads.errors import WorkloadError, unknown
from workloads.routes import Route

Direction = Literal["F", "B", "I", "W"]


class Slot(NamedTuple):
    """One micro-batch through one model chunk of a stage: forward, backward, or a part of the backward pass.

    Args:
        direction: F, B; or in the place of B first I, for the gradients of inputs, and some time later W, for those of
            weights, which no other stage waits for.
        micro_batch: counted over all routes.
    """

    direction: Direction
    micro_batch: int
    chunk: int
    beside: bool = False  # whether it runs beside a pass in the other direction, see `paired`


class Schedule(Protocol):
    """A schedule module: the order of one stage, and what it demands.

    `WORDS` are what papers call it; `SPLITS` says whether it takes backward passes apart.
    """

    WORDS: tuple[str, ...]
    SPLITS: bool

    def routes(self, stages: int, chunks: int) -> tuple[Route, ...]:
        """Where the parts of the model lie; the routes have equal shares of micro-batches, the first one the first."""
        ...

    def order(self, stage: int, stages: int, chunks: int, micro_batches: int) -> Iterable[Slot]:
        """Every micro-batch once forward and once backward through the chunks of `stage` that are on its route."""
        ...

    def faults(self, stages: int, chunks: int, micro_batches: int) -> list[str]:
        """Why this schedule cannot run so many chunks and micro-batches; empty if it can."""
        ...


def paired(order: Iterable[Slot]) -> Iterator[Slot]:
    """The same passes; a backward pass and the forward pass behind it run beside each other."""
    behind: Slot | None = None
    for slot in order:
        together = behind is not None and (behind.direction, slot.direction) == ("B", "F")
        if behind is not None:
            yield behind._replace(beside=behind.beside or together)
        behind = slot._replace(beside=together)
    if behind is not None:
        yield behind


def schedules() -> tuple[str, ...]:
    """Names of all schedules."""
    found = (path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return tuple(sorted(found))


@cache
def schedule(name: str) -> Schedule:
    """The schedule of that name, or of that word; raises WorkloadError for an unknown one."""
    for file in schedules():
        module = cast(Schedule, importlib.import_module(f"workloads.schedules.{file}"))
        if name in (file, *module.WORDS):
            return module
    raise WorkloadError("layout.schedule", [unknown("schedule", name, schedules())])


@cache
def named() -> Mapping[str, str]:
    """Every name and word of a schedule -> its name."""
    return {each: name for name in schedules() for each in (name, *schedule(name).WORDS)}
