"""How long each task takes where the host runs ahead of the GPU through a whole step, not only within a segment.

While the GPU computes what takes it longer than the host takes to launch, the host gains on it; a segment whose
launches take longer than its kernels waits only for what the host has not gained before. A stage that waits for others
lets its host gain as well; that is left out. A host that reads something from the GPU has lost what it had gained.
"""

from collections.abc import Mapping, Sequence

from sim.blocks import BlockTime, gpu_s, host_s
from workloads.graph import COMPUTE, Program, Segment


def task_seconds(
    program: Program, op_seconds: Sequence[float], times: Mapping[int, BlockTime], *, ahead: bool
) -> list[float]:
    """Seconds of each task, undisturbed.

    Args:
        op_seconds: of each op of the program by itself, the host no further ahead than the segment lets it.
        ahead: whether the host keeps its lead from segment to segment.
    """
    tasks = program.tasks
    alone = [op_seconds[op] for op in tasks.ops]
    if not ahead:
        return alone
    parts = [(gpu_s(op, times), host_s(op, times)) if isinstance(op, Segment) else None for op in program.ops]
    reading = {index for index, op in enumerate(program.ops) if isinstance(op, Segment) and _reads(op)}
    lead = [0.0] * program.ranks
    for index, (op, rank, stream) in enumerate(zip(tasks.ops, tasks.ranks, tasks.streams, strict=True)):
        part = parts[op]
        if part is None or stream != COMPUTE:
            continue
        gained = lead[rank] + part[0] - part[1]
        lead[rank] = 0.0 if op in reading else max(gained, 0.0)
        alone[index] = part[0] + max(-gained, 0.0)
    return alone


def _reads(segment: Segment) -> bool:
    return any(work.counted for block, _ in segment.blocks for work in block.work)
