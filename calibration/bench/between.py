"""A collective between GEMMs that keep the GPUs at their power limit: what it loses with the clock, and who waits.

Two GEMMs and a collective take turns for three seconds. The time of a turn's collective is the shorter of all ranks:
that of the rank that comes last, and so does not wait. Notes give both alone at full clock, and a GEMM in turns.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from calibration.bench import collectives, gemm
from calibration.bench._sampling import aligned, log_size, pick, points
from calibration.bench._session import SUSTAINED_S, Session, measured, timing
from calibration.table import Measurement

NAME = "between"
WEIGHT = 5.0
RANKS = 2

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")
GEMMS = 2  # of a turn
FEW = 3  # calls of each time alone

Call = Callable[[], object]


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """GEMMs of 4 Ki to 16 Ki, which draw what the limit is; messages of 16 to 256 MiB, as tensor parallelism sends."""
    return map(_shape, islice(points(seed, 5), count))


def run(shape: Measurement, session: Session) -> Measurement:
    """Of the second half of the turns."""
    name = (shape.kernel or "").split()[0]
    product = gemm.work(shape, session)
    message = collectives.work(Measurement(op=name, ranks=shape.ranks, bytes=shape.bytes), session)
    for call in (product, message):
        call()
    gemm_s, message_s = (collectives.alone_s(session, call, FEW) for call in (product, message))
    turns = max(4, int(0.5 * SUSTAINED_S / (GEMMS * gemm_s + message_s)))
    _turns(session, product, message, turns)
    power = session.meter.power() if session.meter else None
    products, messages = _turns(session, product, message, turns)
    watts = power.watts() if power else None
    least = _shortest(session, messages)
    waited_s = -collectives.slowest(session, sum(least) - sum(messages)) / turns  # of the rank that waits less
    between_s = sum(_shortest(session, [sum(products)])) / turns / GEMMS
    notes = (
        f"alone: gemm {gemm_s:.4g} s, {name} {message_s:.4g} s; gemm between {between_s:.4g} s; waited {waited_s:.3g} s"
    )
    return replace(measured(shape, timing(least, notes)), power_w=watts)


def _shortest(session: Session, values: list[float]) -> list[float]:
    """The smallest of each number over all ranks."""
    if session.ranks == 1:
        return values
    dist: Any = session.torch.distributed
    held = session.torch.tensor(values, dtype=session.torch.float64)
    dist.all_reduce(held, op=dist.ReduceOp.MIN, group=session.control)
    return [float(value) for value in held]


def _turns(session: Session, product: Call, message: Call, turns: int) -> tuple[list[float], list[float]]:
    """Seconds of the GEMMs and of the collective of each turn."""
    collectives.meet(session)
    events = []
    for _ in range(turns):
        first = session.event()
        for _ in range(GEMMS):
            product()
        second = session.event()
        message()
        events.append((first, second, session.event()))
    session.synchronize()
    products = [session.between_s(first, second) for first, second, _ in events]
    return products, [session.between_s(second, last) for _, second, last in events]


def _shape(point: tuple[float, ...]) -> Measurement:
    m, n, k = (aligned(log_size(share, 4096, 16384), 128) for share in point[:3])
    sizes = gemm.capped({"m": m, "n": n, "k": k}, "bf16")
    name = pick(point[4], COLLECTIVES)
    size = float(aligned(log_size(point[3], 2**24, 2**28), 4096))
    placed: dict[str, Any] = {"ranks": RANKS, "ranks_per_node": RANKS, "bytes": size}
    return Measurement(
        op=NAME, dtype="bf16", batch=1, layout="tn", kernel=f"{name} between gemms", **sizes, **placed, mode="sustained"
    )
