"""What a simulated step says: its time, efficiency, breakdown, critical path and memory.

Only the raw truth is stored (program, prices, timeline); everything else is computed from it when asked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from calibration.cost import power
from calibration.cost.model import CostModel
from sim.blocks import BlockTime, gpu_s, host_s
from sim.breakdown import breakdown
from sim.engine import Timeline
from sim.job import Job
from sim.load import Load
from sim.memory import Memory
from sim.price import Price
from sim.profiles import measured
from workloads.graph import Message, Program, Segment, leaf_runs, runs, streams
from workloads.model import step_model_flops
from workloads.ops import Attention, ComputeOp, Gemm, Op

# Width of the 90 % interval of a normal distribution, in standard deviations to each side.
NINETY_PERCENT = 1.645


@dataclass(frozen=True, kw_only=True)
class Result:
    """One simulated step. Seconds, bytes and FLOPs are SI; ratios are 0..1."""

    job: Job
    program: Program
    prices: Mapping[Op, Price]
    times: Mapping[int, BlockTime]
    task_seconds: Sequence[float]
    timeline: Timeline
    load: Load
    cost_model: CostModel
    memory: Memory

    @cached_property
    def step_s(self) -> float:
        """From the start of one step to the start of the next."""
        return self._span_s + self.job.host.step_s

    @cached_property
    def _span_s(self) -> float:
        """Of the step, without what the host adds at its end."""
        begin, end = self._windows
        return float((end - begin).max())

    @cached_property
    def _windows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """When each rank begins and ends its step.

        All of them together, unless each updates its parameters without a word from the others: a rank that came late
        has as much time as the first one then, as it may begin its next step as late (arXiv:2401.10241, section 4).
        """
        together = np.zeros(self.program.ranks), np.full(self.program.ranks, self.timeline.seconds)
        if not self.job.stack.optimizer.validates:
            return together
        begin, end = together[1], together[0]
        ranks = np.array(self.program.tasks.ranks)
        np.minimum.at(begin, ranks, self.timeline.start_s)
        np.maximum.at(end, ranks, self.timeline.end_s)
        return begin, end

    @property
    def tokens_per_s(self) -> float:
        """Of the whole cluster."""
        return self.job.training.tokens / self.step_s

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Of one GPU."""
        return self.tokens_per_s / self.job.gpus

    @property
    def model_flops(self) -> float:
        """Forward and backward FLOPs of the model in one step over all GPUs, without recomputation."""
        training = self.job.training
        head = not training.layers_alone
        return step_model_flops(self.job.trained, training.seq_len, training.global_batch, head=head)

    @property
    def peak_flops_per_s(self) -> float:
        """Dense data-sheet rate of all GPUs in the data type of the GEMMs."""
        device = self.job.cluster.device
        dtype = self.job.shard().precision.gemm
        rates = {**device.vector_flops_per_s, **device.tensor_flops_per_s}
        return self.job.gpus * rates[dtype]

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: model FLOPs over what the GPUs could do in the step."""
        return self.model_flops / (self.step_s * self.peak_flops_per_s)

    @property
    def hfu(self) -> float:
        """Hardware FLOPs utilisation: as MFU, with the forward FLOPs that are run again counted."""
        again = self._phase_flops("recompute")
        once = self._phase_flops("forward") + self._phase_flops("backward")
        return self.mfu * (1.0 + again / once)

    @cached_property
    def breakdown(self) -> dict[str, float]:
        """Part -> seconds, a mean over ranks; they add up to `step_s`."""
        begin_s, host_s = self._windows[0].tolist(), self.job.host.step_s
        return breakdown(self.program, self.times, self.timeline, self.task_seconds, begin_s, self._span_s, host_s)

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Of each pipeline stage, how long its segments run in a step; waits are left out."""
        busy = [0.0] * self.program.ranks
        for op, rank, seconds in zip(self.program.tasks.ops, self.program.tasks.ranks, self.task_seconds, strict=True):
            if isinstance(self.program.ops[op], Segment):
                busy[rank] += seconds
        return tuple(busy)

    @property
    def bubble(self) -> float:
        """Share of the step in which a rank waits for other stages."""
        return self.breakdown.get("bubble", 0.0) / self.step_s

    @cached_property
    def measured_share(self) -> float:
        """Of the time of kernels, priced from measurements on the device; the rest is extrapolated by physics."""
        seconds = {op: s for op, s in self._work_seconds().items() if isinstance(op, ComputeOp)}
        covered = measured(self.cost_model, list(seconds), self.job.cluster.device)
        return float(np.dot(covered, list(seconds.values()))) / sum(seconds.values())

    @property
    def power_w(self) -> float:
        """Mean power of one GPU board over the step: of its load, and of waiting in bubbles and for the host."""
        device = self.job.cluster.device
        waiting = (self.breakdown.get("bubble", 0.0) + self.breakdown.get("host", 0.0)) / self.step_s
        return (1.0 - waiting) * self.load.watts + waiting * float(power.watts(np.array(power.STATIC_DRAW), device))

    @property
    def energy_j(self) -> float:
        """Of all GPU boards in one step; hosts, switches and cooling are not counted."""
        return self.power_w * self.step_s * self.job.gpus

    @property
    def exposed_s(self) -> dict[str, float]:
        """Communication that no computation hides, by dimension of parallelism."""
        parts = self.breakdown.items()
        return {part.removeprefix("exposed "): s for part, s in parts if part.startswith("exposed ")}

    @property
    def critical_path(self) -> dict[str, float]:
        """What the step would be shorter by, task by task: op -> seconds on the longest chain of tasks."""
        path: dict[str, float] = {}
        for index in self._chain():
            name = self._name(self.program.tasks.ops[index])
            path[name] = path.get(name, 0.0) + float(self.timeline.end_s[index] - self.timeline.start_s[index])
        return dict(sorted(path.items(), key=lambda item: -item[1]))

    @cached_property
    def spread(self) -> float:
        """Standard deviation of log(measured / predicted) of the step.

        Errors of one kind of work go together (a GEMM model that is slow is slow everywhere), those of
        different kinds do not. What the description of the stack leaves out is added, as sure as the stack says.
        """
        kinds: dict[str, float] = {}
        for op, seconds in self._work_seconds().items():
            kind = type(op).__name__
            kinds[kind] = kinds.get(kind, 0.0) + seconds * self.prices[op].spread
        kinds["host"] = self._launching_s() * self.job.stack.host.spread
        return math.hypot(math.hypot(*kinds.values()) / self.step_s, self.job.stack.spread)

    @property
    def interval_s(self) -> tuple[float, float]:
        """In which the measured step lies nine times out of ten, as far as the prices of its ops go."""
        factor = math.exp(NINETY_PERCENT * self.spread)
        return self.step_s / factor, self.step_s * factor

    def _chain(self) -> list[int]:
        """Tasks of the critical path, last first: each started when the next one in the list ended."""
        end, start = self.timeline.end_s, self.timeline.start_s
        before: dict[int, int] = {}
        for queue in streams(self.program.tasks).values():
            before.update(zip(queue[1:], queue, strict=False))
        index = int(np.argmax(end))
        chain = [index]
        while start[index] > 0.0:
            waited = [*self.program.tasks.after[index], *([before[index]] if index in before else [])]
            index = max(waited, key=lambda earlier: (float(end[earlier]), earlier))
            chain.append(index)
        return chain

    def _name(self, op: int) -> str:
        found = self.program.ops[op]
        return f"{found.dimension} {found.name}" if isinstance(found, Message) else found.name

    def _phase_flops(self, phase: str) -> float:
        """FLOPs of the GEMMs and attention of a phase, over the program."""
        return sum(
            often * count * sum(work.op.flops for work in block.work if isinstance(work.op, Gemm | Attention))
            for op, often in zip(self.program.ops, runs(self.program), strict=True)
            if isinstance(op, Segment)
            for block, count in op.blocks
            if block.phase == phase
        )

    def _launching_s(self) -> float:
        """Seconds of a step that take as long as the host launches, a mean over ranks."""
        launched = [host_s(op, self.times) if isinstance(op, Segment) else 0.0 for op in self.program.ops]
        computed = [gpu_s(op, self.times) if isinstance(op, Segment) else math.inf for op in self.program.ops]
        pairs = zip(self.program.tasks.ops, self.task_seconds, strict=True)
        held = sum(min(launched[op], taken) for op, taken in pairs if taken > computed[op])
        return held / self.program.ranks

    def _work_seconds(self) -> dict[Op, float]:
        """Op -> seconds that a rank spends on it in a step, a mean over ranks; hidden work included."""
        return {
            op: often * self.prices[op].seconds / self.program.ranks for op, often in leaf_runs(self.program).items()
        }
