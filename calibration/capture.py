"""`steptime capture`: run the microbenchmarks on the GPU at hand and write the measurement table.

Every family of `calibration/bench/` gets its share of the time, so that any budget is spread over all of them.
A row is on disk as soon as it is measured; the same command goes on where it stopped.
"""

import json
import os
import pkgutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from calibration import bench, environment
from calibration.bench._session import Session, UnsupportedError
from calibration.environment import CaptureError
from calibration.table import Measurement, append, failed, key, read_table, repair
from hardware.descriptor import unknown

HELP: Mapping[str, str] = {
    "out": "The table to write, a CSV file; rows that are in it already are not measured again.",
    "budget": "Seconds to measure for.",
    "seed": "Which shapes are drawn; another seed gives other shapes of the same kinds.",
    "family": "Only this family of microbenchmarks; may be given several times. Default: all that the GPUs can run.",
}
MOST_SHAPES = 1_000_000
# A family that has shown nothing but failures is not worth more of the time.
MOST_FAILURES = 12


class Family(Protocol):
    """A file in `calibration/bench/`.

    NAME is the file's; WEIGHT its share of the time, relative to the others; RANKS the GPUs it needs at least.
    `shapes` is pure and the same for equal seeds, and every beginning of it covers the space; `run` measures.
    """

    NAME: str
    WEIGHT: float
    RANKS: int

    def shapes(self, seed: int, count: int) -> Iterator[Measurement]:
        """So many shapes, the most informative first; device, stack and results are blank."""
        ...

    def run(self, shape: Measurement, session: Session) -> Measurement:
        """The shape with its results. Raises UnsupportedError where this GPU cannot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks for; `HELP` says what each is."""

    out: Path
    budget_s: float = 600.0
    seed: int = 1
    families: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a capture did. `rows` and `failures` count those of this run by family; `before` those found in the file."""

    device: str
    stack: str
    before: int
    rows: Mapping[str, int]
    failures: Mapping[str, int]
    seconds: Mapping[str, float]


@dataclass(slots=True)
class Queue:
    """A family with the shapes that are left of it, and the time that it has had."""

    family: Family
    shapes: Iterator[Measurement]
    spent_s: float = 0.0
    rows: int = 0
    failures: int = 0
    ended: bool = False


@dataclass(slots=True)
class Plan:
    """Whose turn it is: the family that has had least of its share."""

    queues: list[Queue]
    done: set[tuple[Any, ...]] = field(default_factory=set)

    def next(self, session: Session) -> tuple[Queue, Measurement] | None:
        """The next shape that is not in the table yet; None when all are."""
        while open_queues := [queue for queue in self.queues if not queue.ended]:
            queue = min(open_queues, key=lambda queue: queue.spent_s / queue.family.WEIGHT)
            for shape in queue.shapes:
                labelled = session.labelled(shape)
                if key(labelled) not in self.done:
                    self.done.add(key(labelled))
                    return queue, labelled
            queue.ended = True
        return None


def families() -> dict[str, Family]:
    """Every family, by name: a file in `calibration/bench/` whose name does not begin with an underscore."""
    names = [module.name for module in pkgutil.iter_modules(bench.__path__) if not module.name.startswith("_")]
    return {name: cast(Family, import_module(f"calibration.bench.{name}")) for name in sorted(names)}


def capture(options: Options) -> Summary:
    """Measure for the budget. Raises CaptureError without a GPU, DescriptorError for a table that cannot go on.

    Under `torchrun` rank 0 chooses the shapes and writes; the others take part where several GPUs are needed.
    """
    chosen = _chosen(options.families)
    with _session() as session:
        queues = [
            Queue(family, family.shapes(options.seed, MOST_SHAPES))
            for family in chosen
            if session.ranks >= family.RANKS
        ]
        if not queues:
            raise CaptureError(f"{', '.join(options.families)} needs {chosen[0].RANKS} GPUs: start it with torchrun")
        return _lead(options, session, queues) if session.rank == 0 else _follow(session, queues)


def _chosen(names: Sequence[str]) -> list[Family]:
    known = families()
    wrong = [unknown("family", name, known) for name in names if name not in known]
    if wrong:
        raise CaptureError("; ".join(wrong))
    return [known[name] for name in names or known]


@contextmanager
def _session() -> Iterator[Session]:
    """On the GPU of this process; with the others' processes where `torchrun` started several."""
    torch = environment.torch_module()
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    facts = environment.facts(torch, torch.cuda.current_device())
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks)))
    session = Session(torch=torch, facts=facts, rank=rank, ranks=ranks, ranks_per_node=per_node)
    if ranks > 1:
        torch.distributed.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))
        session.control = torch.distributed.new_group(backend="gloo", timeout=timedelta(hours=4))
    try:
        session.start()
        yield session
    finally:
        if ranks > 1:
            torch.distributed.destroy_process_group()


def _lead(options: Options, session: Session, queues: list[Queue]) -> Summary:
    """Rank 0, and the only one where there is no other."""
    found = _table_so_far(options.out)
    plan, stop_s = Plan(queues, {key(row) for row in found}), time.monotonic() + options.budget_s
    _record_environment(options, session)
    try:
        with _progress(options.budget_s) as show:
            while (now := time.monotonic()) < stop_s and (turn := plan.next(session)):
                queue, shape = turn
                _tell(session, queue, shape)
                row = _tried(queue, shape, session)
                append(options.out, [row])
                queue.spent_s += time.monotonic() - now
                show(options.budget_s - (stop_s - time.monotonic()), sum(each.rows for each in queues), shape)
                _check_alive(session, shape)
        _tell(session, None, None)
    except KeyboardInterrupt:  # every row is on disk; the other ranks are interrupted as well
        pass
    return _summary(session, queues, len(found))


def _follow(session: Session, queues: list[Queue]) -> Summary:
    """A further rank: measure what rank 0 says, where it takes several GPUs."""
    by_name = {queue.family.NAME: queue for queue in queues}
    try:
        while (turn := _told(session)) is not None:
            name, shape = turn
            if by_name[name].family.RANKS > 1:
                _tried(by_name[name], shape, session)
    except KeyboardInterrupt:
        pass
    return _summary(session, queues, 0)


def _tell(session: Session, queue: Queue | None, shape: Measurement | None) -> None:
    """To the other ranks: the next shape and its family, or that there is none."""
    if session.ranks > 1:
        message = [(queue.family.NAME, shape) if queue else None]
        session.torch.distributed.broadcast_object_list(message, src=0, group=session.control)


def _told(session: Session) -> tuple[str, Measurement] | None:
    message: list[Any] = [None]
    session.torch.distributed.broadcast_object_list(message, src=0, group=session.control)
    turn: tuple[str, Measurement] | None = message[0]
    return turn


def _tried(queue: Queue, shape: Measurement, session: Session) -> Measurement:
    """The measured row, or the row of a failure."""
    try:
        row = queue.family.run(shape, session)
        queue.rows += 1
    except Exception as error:
        row = failed(shape, _reason(error))
        queue.failures += 1
        queue.ended = queue.rows == 0 and queue.failures >= MOST_FAILURES
    session.tidy()
    return row


def _reason(error: Exception) -> str:
    """In words that do not change from run to run."""
    if "OutOfMemory" in type(error).__name__ or "out of memory" in str(error):
        return "out of memory"
    said = str(error) if isinstance(error, UnsupportedError) else f"{type(error).__name__}: {error}"
    return f"not supported: {' '.join(said.split())[:120]}"


def _check_alive(session: Session, shape: Measurement) -> None:
    """After some errors the GPU answers to nothing more in this process."""
    try:
        session.synchronize()
    except Exception as error:
        what = f"{shape.op} ({shape.kernel or shape.dtype})"
        raise CaptureError(
            f"the GPU stopped after {what}, which is recorded; the same command goes on: {error}"
        ) from None


def _table_so_far(path: Path) -> list[Measurement]:
    path.parent.mkdir(parents=True, exist_ok=True)
    repair(path)
    return read_table(path) if path.exists() and path.stat().st_size else []


def _record_environment(options: Options, session: Session) -> None:
    """Beside the table: what the rows were taken with."""
    facts = asdict(session.facts) | {"empty_event_pair_s": session.empty_s, "ranks": session.ranks}
    del facts["uuid"], facts["index"]
    text = json.dumps(facts | {"seed": options.seed}, indent=2, sort_keys=True) + "\n"
    options.out.with_suffix(".environment.json").write_text(text, "utf-8")


def _summary(session: Session, queues: list[Queue], before: int) -> Summary:
    return Summary(
        device=session.facts.device,
        stack=session.facts.stack,
        before=before,
        rows=Counter({queue.family.NAME: queue.rows for queue in queues}),
        failures=Counter({queue.family.NAME: queue.failures for queue in queues}),
        seconds={queue.family.NAME: queue.spent_s for queue in queues},
    )


@contextmanager
def _progress(budget_s: float) -> Iterator[Any]:
    """A bar on standard error: time used, rows measured, what is being measured."""
    rich: Any = import_module("rich.progress")
    console = import_module("rich.console").Console(stderr=True)
    columns = ("{task.description}", rich.BarColumn(), rich.TimeRemainingColumn(), "{task.fields[rows]} rows")
    with rich.Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=budget_s, rows=0)

        def show(used_s: float, rows: int, shape: Measurement) -> None:
            words = " ".join(filter(None, (shape.op, shape.dtype, shape.kernel, shape.mode)))
            bar.update(task, completed=min(used_s, budget_s), rows=rows, description=f"{words:32.32}")

        yield show


__all__ = ["HELP", "CaptureError", "Family", "Options", "Summary", "capture", "families"]
