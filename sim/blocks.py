"""Plays a block of kernels once: how long it takes, and what the time is made of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sim.engine import Timeline, play
from workloads.graph import COMPUTE, HIDDEN, LAYER, Block, Segment, Task, Tasks, Work
from workloads.ops import Collective, Gemm, Op, Pointwise, Transfer
from workloads.parallelism import tensor
from workloads.stack import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTime:
    """A block that was played.

    The parts of `seconds`: kernels by themselves (`compute_s`), what overlapping communication slows them
    down (`interference_s`), communication that nothing hides (`exposed_s`, by stream), and waiting for the
    host to launch (`launch_s`). `gpu_s` is how long the GPU takes when everything is launched as early as the host
    can, `host_s` how long the host takes to launch; a block by itself takes the longer of the two.
    """

    block: Block
    seconds: float
    gpu_s: float
    host_s: float
    compute_s: float
    interference_s: float
    exposed_s: Mapping[str, float]
    launch_s: float
    timeline: Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches:
    """What the host needs to get the kernels of a job launched."""

    costs: Host
    execution: str
    recompute: str
    chunked: bool = False  # tensor-parallel messages of layers go in chunks

    def launch_s(self, block: Block, item: Work) -> float:
        """Of one kernel or message of a block; behind a wait for the GPU it takes longer."""
        if item.along:
            return 0.0
        launched = self.kernel_s(block, item.op) if item.stream == COMPUTE else self._message_s(block, item)
        return launched + (self._read_s(item.op) if item.counted else 0.0)

    def _message_s(self, block: Block, item: Work) -> float:
        """Of one message; where it is in chunks, the call that sends the first one sends them all."""
        if item.name == HIDDEN:
            return 0.0
        usual, chunk_s = self.costs.message_s[self.execution], self.costs.chunk_s
        if isinstance(item.op, Transfer):  # of a ring: other messages between two ranks are in no block
            return usual if self.execution == "graph" else usual + self.costs.ring_s
        of_layer = block.name == LAYER and item.stream == tensor.STREAM
        if self.chunked and chunk_s and of_layer and isinstance(item.op, Collective):
            return min(usual, item.op.ranks * chunk_s)
        return usual

    def _read_s(self, op: Op) -> float:
        """From the end of what the host reads to the next launch: of the loss, or of a size."""
        loss = isinstance(op, Pointwise) and op.op.startswith("cross_entropy")
        return self.costs.loss_s if loss else self.costs.read_s

    def kernel_s(self, block: Block, op: Op) -> float:
        """Of one kernel of a block.

        A compiler has decided beforehand what is run again. Casts cost no more than they do at first: in models that
        wait for their host, recomputation by op took 3.5 ms a layer in bf16, and 4.1 ms under autocast with twice as
        many kernels.
        """
        rate = self.costs.backward if block.phase == "backward" else 1.0
        if isinstance(op, Gemm) and op.grouped:
            dealt = 0.0 if self.execution == "graph" else self.costs.group_s
            return rate * self.costs.launch_s[self._outside] + dealt + op.batch * self.costs.expert_s
        again = block.phase == "recompute" and self.execution == "eager" and not _is_cast(op)
        launched = rate * self.costs.launch_s[self.execution if block.name == LAYER else self._outside]
        chained = rate * self._chain_s(op) if self.execution == "eager" else 0.0
        return launched + chained + (self.costs.again_s.get(self.recompute, 0.0) if again else 0.0) + self._groups_s(op)

    def _chain_s(self, op: Op) -> float:
        """Further, for a module that is a chain of kernels, each of them after the first one."""
        further = op.kernels - op.kernels_of_groups - 1.0 if isinstance(op, Pointwise) else 0.0
        return max(further, 0.0) * self.costs.chain_s

    def _groups_s(self, op: Op) -> float:
        """Further, for kernels that PyTorch launches for each group of rows."""
        return op.kernels_of_groups * self.costs.op_s if isinstance(op, Pointwise) else 0.0

    @property
    def _outside(self) -> str:
        """How kernels are launched that no CUDA graph holds: experts' GEMMs, whose rows vary, and both ends.

        Router and dispatch are in the graph (Megatron-Core, `cuda_graph_scope = attn moe_router moe_preprocess`).
        """
        return "eager" if self.execution == "graph" else self.execution


def play_block(
    block: Block, prices: Mapping[Op, float], host: Launches, compute_rate: float, message_rate: float = 1.0
) -> BlockTime:
    """Play `block` on the streams of one rank.

    Args:
        compute_rate: progress of computation while a message is under way, 0..1.
        message_rate: progress of a message that is meant to run beside computation, 0..1.
    """
    tasks = Tasks.of(block_tasks(block))
    work = block.work
    seconds = [second for piece in block.pieces for second in _piece_s(piece, prices, message_rate)]
    seconds += _beside_s(block, prices, message_rate)
    costs = host.costs
    launches = [host.launch_s(block, item) for item in work]
    if costs.blocking:
        launches = [launch + costs.synchronise_s for launch in launches]
        seconds = [sum(parts) for parts in zip(seconds, launches, strict=True)]
    beside = {item.stream for item in work} - {COMPUTE}
    timeline = play(tasks, seconds, beside=beside, compute_rate=compute_rate)
    compute = _computing(work, seconds)
    exposed, busy = _exposed(work, timeline)
    unit_s = costs.unit_s if block.unit else 0.0
    host_s = 0.0 if costs.blocking else sum(launches) + unit_s
    counted_s = 0.0 if costs.blocking else counting_s(work, seconds, launches) + block.tensors * costs.tensor_s
    hosted = max(host_s - timeline.seconds, counted_s)
    blocked = _computing(work, launches) if costs.blocking else 0.0
    return BlockTime(
        block=block,
        seconds=timeline.seconds + hosted,
        gpu_s=timeline.seconds + counted_s,
        host_s=host_s,
        compute_s=compute - blocked,
        interference_s=busy - compute,
        exposed_s=exposed,
        launch_s=hosted + blocked,
        timeline=timeline,
    )


def counting_s(work: Sequence[Work], seconds: Sequence[float], launches: Sequence[float]) -> float:
    """How long the GPU waits in a block where the host waits for it before `counted` work, as in the one before it.

    From there on the host is not ahead: the GPU starts each kernel when it is launched.
    """
    if not any(item.counted for item in work):
        return 0.0
    host = gpu = ended = 0.0
    for _ in range(2):  # the second block starts as far ahead as the first one has left the host
        ended = gpu
        for item, second, launch in zip(work, seconds, launches, strict=True):
            host = (max(host, gpu) if item.counted else host) + launch
            gpu = max(gpu, host) + second
    return max(gpu - ended - sum(seconds), 0.0)


def segment_s(segment: Segment, times: Mapping[int, BlockTime]) -> float:
    """The GPU or the host, whichever takes longer: within a segment the host runs ahead of the GPU."""
    return max(gpu_s(segment, times), host_s(segment, times))


def gpu_s(segment: Segment, times: Mapping[int, BlockTime]) -> float:
    """How long the GPU takes for a segment that is launched in time."""
    return sum(count * times[id(block)].gpu_s for block, count in segment.blocks)


def host_s(segment: Segment, times: Mapping[int, BlockTime]) -> float:
    """How long the host takes to launch a segment."""
    return sum(count * times[id(block)].host_s for block, count in segment.blocks)


def _piece_s(piece: tuple[Work, ...], prices: Mapping[Op, float], message_rate: float) -> Iterator[float]:
    """Seconds of each work of a piece; a message goes slower while there is computation left beside it."""
    for place, item in enumerate(piece, start=1):
        alone = prices[item.op]
        if not item.asynchronous:
            yield alone
            continue
        meanwhile = sum(prices[later.op] for later in piece[place:] if later.stream == COMPUTE)
        yield _slowed_s(alone, meanwhile, message_rate)


def _beside_s(block: Block, prices: Mapping[Op, float], message_rate: float) -> Iterator[float]:
    """Seconds of each message beside the pieces; they go slower, one after the other, until the computation ends."""
    left = sum(prices[item.op] for piece in block.pieces for item in piece if item.stream == COMPUTE)
    for item in block.beside:
        seconds = _slowed_s(prices[item.op], left, message_rate)
        left = max(left - seconds, 0.0)
        yield seconds


def _slowed_s(alone: float, computing: float, message_rate: float) -> float:
    """Of a message that has so much computation beside it."""
    return min(alone / message_rate, alone + (1.0 - message_rate) * computing)


def _computing(work: tuple[Work, ...], seconds: Sequence[float]) -> float:
    """Sum over the work on the compute stream."""
    return sum(second for item, second in zip(work, seconds, strict=True) if item.stream == COMPUTE)


def _is_cast(op: Op) -> bool:
    return isinstance(op, Pointwise) and op.op == "cast"


def block_tasks(block: Block) -> list[Task]:
    """The dependencies of a block: see `Work` for who waits for whom."""
    tasks: list[Task] = []
    piece_before: tuple[int, ...] = ()
    for piece in block.pieces:
        first, named, front = len(tasks), dict[str, int](), piece_before
        for item in piece:
            after = (*front, named[item.waits]) if item.waits else front
            named[item.name] = len(tasks)
            if not item.asynchronous:
                front = (len(tasks),)
            tasks.append(Task(0, 0, item.stream, after))
        piece_before = tuple(range(first, len(tasks))) or piece_before
    return [*tasks, *(Task(0, 0, item.stream, ()) for item in block.beside)]


def _exposed(work: tuple[Work, ...], timeline: Timeline) -> tuple[dict[str, float], float]:
    """Communication that runs while nothing computes, by stream; and how long something computes."""
    spans = sorted(zip(timeline.start_s.tolist(), timeline.end_s.tolist(), work, strict=True), key=lambda s: s[:2])
    busy = [(start, end) for start, end, item in spans if item.stream == COMPUTE]
    exposed: dict[str, float] = {}
    covered = 0.0
    place = 0
    for start, end, item in spans:
        if item.stream == COMPUTE:
            continue
        at = max(start, covered)
        while at < end:
            while place < len(busy) and busy[place][1] <= at:
                place += 1
            until = min(busy[place][0], end) if place < len(busy) else end
            if until > at:
                exposed[item.stream] = exposed.get(item.stream, 0.0) + until - at
            at = max(until, busy[place][1]) if place < len(busy) and until < end else end
        covered = max(covered, end)
    return exposed, sum(end - start for start, end in busy)
