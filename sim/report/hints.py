"""What to change, read off the largest losses of a step."""

from collections.abc import Iterator

from sim.report import units
from sim.report.words import direction
from sim.result import Result
from workloads.layout import UNSET, chunk_layers, micro_batches
from workloads.routes import positions

# Losses below this share of the step are not worth a change of layout.
WORTH = 0.10
MOST_HINTS = 2

# How much longer than the mean a stage is busy before it is said.
IMBALANCE = 0.05

# Of the memory, below which there is room to keep more activations.
ROOM = 0.8


def hints(result: Result) -> list[str]:
    """Two at most: what does not fit first, then the largest losses."""
    losses = {part: s / result.step_s for part, s in result.breakdown.items() if s >= WORTH * result.step_s}
    ranked = sorted(losses, key=lambda part: (-losses[part], part))
    found = [hint for part in ranked for hint in _loss_hints(result, part, units.percent(losses[part]))]
    return [*_memory_hints(result), *found][:MOST_HINTS]


def _loss_hints(result: Result, part: str, share: str) -> Iterator[str]:
    layout, training = result.job.layout, result.job.training
    if part == "bubble":
        yield _bubble_hint(result, share)
    elif part == "recompute" and result.memory.fits and result.memory.allocated < ROOM * result.memory.capacity:
        other = '"selective" or "none"' if training.recompute_mode == "full" else '"none"'
        yield f"Recomputation: {share}. Memory is left: try training.recompute = {other}."
    elif part == "launch":
        executions = result.job.stack.host.launch_s if result.job.shard().execution == "eager" else ()
        known = [f'stack.execution = "{name}" or ' for name in ("compile", "graph") if name in executions]
        other = "".join(known)
        yield f"Launching: {share}. Kernels are short: try {other}a larger training.micro_batch."
    elif part == "exposed tp":
        span = " and crosses nodes" if layout.tp > result.job.cluster.domain_gpus else ""
        yield f"Tensor-parallel communication: {share}{span}. A smaller layout.tp (now {layout.tp}) has less."
    elif part == "exposed dp":
        other = " or a smaller layout.zero" if layout.zero > 1 else ""
        yield f"Data-parallel communication: {share}. It counts less with more tokens a step{other}."
    elif part == "exposed offload":
        layers = training.offloaded_layers
        yield f"Copies to the host and back: {share}. Try fewer offloaded layers (now {layers}), if memory is left."
    elif part.startswith("exposed "):
        name = part.removeprefix("exposed ")
        yield f"{direction(name).capitalize()} communication: {share}. Try a smaller layout.{name}."


def _bubble_hint(result: Result, share: str) -> str:
    layout, count = result.job.layout, micro_batches(result.job.layout, result.job.training)
    others = ["more micro-batches for each replica (a larger training.global_batch or a smaller dp)"]
    if layout.vp == 1 and layout.pp > 1 and layout.schedule in UNSET:
        others.append("layout.vp = 2")
    others.append(f"a smaller layout.pp (now {layout.pp})")
    ways = f"{', '.join(others[:-1])} or {others[-1]}"
    return f"Pipeline bubble: {share} with {count} micro-batches. It shrinks with {ways}.{_slow_stage(result)}"


def _slow_stage(result: Result) -> str:
    """That the others wait for one stage, where layers can be moved from it."""
    busy, layout = result.busy_s, result.job.layout
    slowest = max(range(len(busy)), key=busy.__getitem__)
    longer = busy[slowest] / (sum(busy) / len(busy)) - 1.0
    dealt = chunk_layers(result.job.trained, layout)
    movable = [dealt[number] for at, (_, number) in positions(layout.routes).items() if at.stage == slowest]
    if longer < IMBALANCE or max(movable) < 2:
        return ""
    more = units.percent(longer)
    return f" Stage {slowest} is busy {more} longer than the mean: layout.chunk_layers can take layers off it."


def _memory_hints(result: Result) -> Iterator[str]:
    memory, layout, training = result.memory, result.job.layout, result.job.training
    if memory.fits:
        return
    excess = units.gib(memory.held + memory.reserved - memory.capacity)
    ways = list(_smaller_activations(training.recompute_mode, training.micro_batch))
    if result.job.can_offload and training.recompute_mode == "none":
        ways.insert(0, 'training.recompute = "offload:N" (N layers)')
    if layout.zero == 0 and layout.data_ranks > 1:
        ways.append("layout.zero = 1")
    elif layout.zero < 3 and layout.data_ranks > 1:
        ways.append("layout.zero = 3")
    if result.job.shard().has_wide_gradients:
        ways.append('training.gradients = "compute"')
    states = memory.weights + memory.gradients + memory.optimizer
    ordered = reversed(ways) if states > memory.activations else iter(ways)
    tried = ", ".join([*ordered, "a larger tp or pp"])
    largest = "weights, gradients and optimizer" if states > memory.activations else "activations"
    yield f"Does not fit by {excess}; most is held by {largest}. Try {tried}."


def _smaller_activations(mode: str, micro_batch: int) -> Iterator[str]:
    if mode != "full":
        yield 'training.recompute = "full"'
    if micro_batch > 1:
        yield "a smaller training.micro_batch"
