"""One training step, from a job to a result: build, price, play."""

from collections.abc import Mapping

from calibration.cost.model import CostModel
from hardware.types import Cluster
from sim import profiles
from sim.blocks import BlockTime, Launches, play_block, segment_s
from sim.engine import play
from sim.job import Job
from sim.load import load_of, slowed
from sim.memory import peak_memory
from sim.price import Price, price
from sim.result import Result
from workloads.build import build
from workloads.graph import Message, Program, Segment, blocks, leaf_ops
from workloads.ops import Op
from workloads.parallelism import data

# Of its speed that a collective keeps beside computation. On two H200s, messages of 0.2 to 3 ms took 1.15 to 1.8 times
# as long beside GEMMs as alone, 1.5 times at the median; GEMMs of 1 to 2 ms, 1.14 to 1.5 times beside messages.
MESSAGE_RATE = 0.67


def simulate(job: Job, cost_model: CostModel | None = None) -> Result:
    """Simulate one step of `job`; raises WorkloadError if it is inconsistent.

    Args:
        cost_model: prices computation as a short benchmark sees it, by default with the profile of the device where
            there is one; the clock of the step follows from its mix of kernels.
    """
    shard = job.shard()
    program = build(shard)
    model = cost_model or profiles.cost_model(job.cluster.device)
    prices = price(leaf_ops(program), job.cluster, model)
    times = block_times(job, program, prices)
    load = load_of(program, times, prices, job.cluster.device, job.gpus)
    if load.clock < 1.0:
        prices = slowed(prices, job.cluster.device, load.clock)
        times = block_times(job, program, prices)
    op_seconds = [_seconds(op, times, prices) for op in program.ops]
    timeline = play(
        program.tasks,
        [op_seconds[task.op] for task in program.tasks],
        beside=(data.STREAM,),
        compute_rate=compute_rate(job),
    )
    return Result(
        job=job,
        program=program,
        prices=prices,
        times=times,
        op_seconds=op_seconds,
        timeline=timeline,
        load=load,
        cost_model=model,
        memory=peak_memory(shard, job.cluster.device.memory_bytes),
    )


def block_times(job: Job, program: Program, prices: Mapping[Op, Price]) -> dict[int, BlockTime]:
    """Every block of the program played once, by the block's identity."""
    seconds = {op: paid.seconds for op, paid in prices.items()}
    execution = job.execution or job.stack.execution
    host = Launches(costs=job.stack.host, execution=execution, recompute=job.training.recompute_mode)
    rate = compute_rate(job)
    beside = message_rate(job.cluster)
    return {id(block): play_block(block, seconds, host, rate, beside) for block in blocks(program)}


def message_rate(cluster: Cluster) -> float:
    """Progress, beside computation, of a message inside a domain; PCIe is too slow to miss the SMs and memory lost."""
    return 1.0 if cluster.scale_up.topology == "tree" else MESSAGE_RATE


def compute_rate(job: Job) -> float:
    """Progress of computation beside a collective, which holds some SMs for itself."""
    return 1.0 - min(job.stack.data.channels / job.cluster.device.sm_count, 0.5)


def _seconds(op: Segment | Message, times: Mapping[int, BlockTime], prices: Mapping[Op, Price]) -> float:
    if isinstance(op, Message):
        seconds = sum(prices[message].seconds for message in op.ops)
        return seconds / MESSAGE_RATE if op.beside else seconds
    return segment_s(op, times)
