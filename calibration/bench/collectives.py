"""Collectives and point-to-point over all GPUs present, one process each (`torchrun`).

`bytes` counts as the size column of nccl-tests does: the whole vector, also where a rank gives or gets a part.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from calibration.bench._sampling import aligned, log_size, points
from calibration.bench._session import Session, UnsupportedError, measured, timing
from calibration.table import Measurement

NAME = "collectives"
WEIGHT = 20.0
RANKS = 2

KERNELS = ("all_reduce", "all_gather", "reduce_scatter", "send_recv", "all_to_all", "broadcast")
SMALLEST, LARGEST = 2**10, 2**32
REPEATS = 11
ALONE_REPEATS = 5  # of calls alone, for what is measured beside or between others
SAMPLE_S = 5e-3  # of equal calls in one sample
MOST_CALLS = 20
LAUNCH_S = 1e-4  # more than the host needs for a call
ELEMENT_BYTES = 2


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """1 KiB to 4 GiB, a fifth of them powers of two; the kinds take turns."""
    numbered = enumerate(islice(points(seed, 2), count))
    return (_shape(number, point) for number, point in numbered)


def run(shape: Measurement, session: Session) -> Measurement:
    """Equal calls in a row after the ranks have met; the slowest rank counts."""
    call = work(shape, session)
    for _ in range(3):
        call()
    calls = slowest(session, max(1, min(MOST_CALLS, int(SAMPLE_S / max(once_s(session, call, 1), 1e-6)))))
    times = [slowest(session, once_s(session, call, int(calls))) for _ in range(REPEATS)]
    return measured(shape, timing(times))


def work(shape: Measurement, session: Session) -> Callable[[], object]:
    """What runs the collective once on this rank; memory is made only once every rank has it."""
    elements = int((shape.bytes or 1) / ELEMENT_BYTES) // session.ranks * session.ranks
    if elements * ELEMENT_BYTES * 3 > session.facts.memory_bytes:
        raise UnsupportedError("larger than a third of the memory")
    whole = session.random(elements)
    return _call(shape.op, session, whole)


def slowest(session: Session, value: float) -> float:
    """The largest of a number over all ranks."""
    if session.ranks == 1:
        return value
    dist: Any = session.torch.distributed
    held = session.torch.tensor([value], dtype=session.torch.float64)
    dist.all_reduce(held, op=dist.ReduceOp.MAX, group=session.control)
    return float(held.item())


def _call(op: str, session: Session, whole: Any) -> Callable[[], object]:
    dist: Any = session.torch.distributed
    part = session.random(whole.numel() // session.ranks)
    after, before = (session.rank + 1) % session.ranks, (session.rank - 1) % session.ranks
    if op == "send_recv":
        received = session.torch.empty_like(whole)
        sent = [dist.P2POp(dist.isend, whole, after), dist.P2POp(dist.irecv, received, before)]
        return lambda: [request.wait() for request in dist.batch_isend_irecv(sent)]
    exchanged = session.torch.empty_like(whole) if op == "all_to_all" else whole
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
        "all_to_all": lambda: dist.all_to_all_single(exchanged, whole),
        "broadcast": lambda: dist.broadcast(whole, 0),
    }
    return calls[op]


def meet(session: Session) -> None:
    """Until every rank has come here with nothing left to run."""
    session.synchronize()
    if session.ranks > 1:
        session.torch.distributed.barrier(group=session.control)


def alone_s(session: Session, call: Callable[[], object], calls: int = 1) -> float:
    """Of one call of the slowest rank, after a rest: the median of a few times, each over several calls."""
    return slowest(session, timing([once_s(session, call, calls) for _ in range(ALONE_REPEATS)]).median_s)


def once_s(session: Session, call: Callable[[], object], calls: int) -> float:
    """Of one of several calls, all launched before the first runs; one before them lets the ranks meet."""
    meet(session)
    session.spin(LAUNCH_S * (calls + 2))
    call()
    first = session.event()
    for _ in range(calls):
        call()
    last = session.event()
    session.synchronize()
    return session.between_s(first, last) / calls


def _shape(number: int, point: tuple[float, ...]) -> Measurement:
    size = log_size(point[0], SMALLEST, LARGEST)
    size = 1 << (size.bit_length() - 1) if point[1] < 0.2 else aligned(size, 256)
    op = KERNELS[number % len(KERNELS)]
    return Measurement(op=op, dtype="bf16", ranks=RANKS, ranks_per_node=RANKS, bytes=float(size))
