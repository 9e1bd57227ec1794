"""One training step, from a job to a result: build, price, play."""

from collections.abc import Mapping

from calibration.cost.model import CostModel
from sim import contention, profiles
from sim.ahead import task_seconds
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
from workloads.parallelism import data, pipeline


def simulate(job: Job, cost_model: CostModel | None = None) -> Result:
    """Simulate one step of `job`; raises WorkloadError if it is inconsistent.

    Args:
        cost_model: prices computation as a short benchmark sees it, by default with the profile of the device where
            there is one; the clock of the step follows from its mix of kernels.
    """
    program = build(job.shard())
    model = cost_model or profiles.cost_model(job.cluster.device)
    return played(job, program, price(leaf_ops(program), job.machine, model), model)


def played(job: Job, program: Program, prices: Mapping[Op, Price], cost_model: CostModel) -> Result:
    """A step whose program is built and priced already, at full clock; neither depends on what the host costs."""
    times = block_times(job, program, prices)
    load = load_of(program, times, prices, job, cost_model)
    if load.clock < 1.0:
        prices = slowed(prices, program, job.machine, load.clock)
        times = block_times(job, program, prices)
    op_seconds = [_seconds(op, times, prices, job.host.between_s) for op in program.ops]
    seconds = task_seconds(program, op_seconds, times, ahead=job.runs_ahead)
    timeline = play(
        program.tasks,
        seconds,
        beside=(data.STREAM,),
        compute_rate=contention.compute_rate(job),
    )
    return Result(
        job=job,
        program=program,
        prices=prices,
        times=times,
        task_seconds=seconds,
        timeline=timeline,
        load=load,
        cost_model=cost_model,
        memory=peak_memory(job.shard(), job.cluster.device.memory_bytes),
    )


def block_times(job: Job, program: Program, prices: Mapping[Op, Price]) -> dict[int, BlockTime]:
    """Every block of the program played once, by the block's identity."""
    seconds = {op: paid.seconds for op, paid in prices.items()}
    execution = job.execution or job.stack.execution
    chunked = job.stack.overlap.in_chunks(job.training.precision)
    host = Launches(costs=job.host, execution=execution, recompute=job.shard().recompute_mode, chunked=chunked)
    rates = contention.in_blocks(job)
    return {id(block): play_block(block, seconds, host, *rates) for block in blocks(program)}


def _seconds(
    op: Segment | Message, times: Mapping[int, BlockTime], prices: Mapping[Op, Price], between_s: float
) -> float:
    if isinstance(op, Message):
        seconds = sum(prices[message].seconds for message in op.ops)
        seconds += between_s if op.name == pipeline.SEND_RECV else 0.0
        return seconds / contention.MESSAGE_RATE if op.beside else seconds
    return segment_s(op, times)
