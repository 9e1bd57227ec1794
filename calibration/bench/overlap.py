"""A GEMM and a collective at once, on two streams: who slows whom, and when the collective starts.

`kernel` says what the time is of: the GEMM while the collective runs, the collective while GEMMs run, or from
the middle of a GEMM's launch until the collective that was launched then has ended. Notes give each alone.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from calibration.bench import collectives, gemm
from calibration.bench._sampling import aligned, log_size, pick, points
from calibration.bench._session import Session, Timing, measured, timing
from calibration.table import Measurement

NAME = "overlap"
WEIGHT = 5.0
RANKS = 2

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")
QUESTIONS = ("gemm beside {}", "{} beside gemm", "{} launched under gemm")
REPEATS = 11


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """GEMMs of 1 Ki to 16 Ki, messages of 1 MiB to 1 GiB; the questions take turns."""
    numbered = enumerate(islice(points(seed, 5), count))
    return (_shape(number, point) for number, point in numbered)


def run(shape: Measurement, session: Session) -> Measurement:
    """Of the slowest rank; the side that is not asked for runs before and after."""
    name = (shape.kernel or "").replace("gemm", "").replace("beside", "").replace("launched under", "").strip()
    product = gemm.work(shape, session)
    message = collectives.work(collectives_shape(shape, name), session)
    for call in (product, message):
        call()
    gemm_s, message_s = (collectives.alone_s(session, call) for call in (product, message))
    main, other = (session.torch.cuda.Stream() for _ in range(2))
    if shape.kernel == QUESTIONS[2].format(name):
        taken = _launched_under(session, product, message, (main, other, gemm_s))
    else:
        asked, beside = (product, message) if (shape.kernel or "").startswith("gemm") else (message, product)
        longer, shorter = (message_s, gemm_s) if asked is product else (gemm_s, message_s)
        around = max(2, int(3 * shorter / longer) + 2)
        taken = _beside(session, asked, beside, (main, other, around, longer))
    return measured(shape, taken._replace(notes=f"alone: gemm {gemm_s:.4g} s, {name} {message_s:.4g} s"))


def collectives_shape(shape: Measurement, name: str) -> Measurement:
    """The message alone."""
    return Measurement(op=name, dtype=shape.dtype, ranks=shape.ranks, bytes=shape.bytes)


def _shape(number: int, point: tuple[float, ...]) -> Measurement:
    m, n, k = (aligned(log_size(share, 1024, 16384), 128) for share in point[:3])
    sizes = gemm.capped({"m": m, "n": n, "k": k}, "bf16")
    question = QUESTIONS[number % len(QUESTIONS)].format(pick(point[4], COLLECTIVES))
    size = float(aligned(log_size(point[3], 2**20, 2**30), 4096))
    placed: dict[str, Any] = {"ranks": RANKS, "ranks_per_node": RANKS}
    return Measurement(op=NAME, dtype="bf16", batch=1, layout="tn", kernel=question, bytes=size, **sizes, **placed)


def _beside(
    session: Session, asked: Callable[[], object], other: Callable[[], object], with_: tuple[Any, Any, int, float]
) -> Timing:
    """The asked work in the middle of a row of the other."""
    main, second, around, other_s = with_
    cuda, times = session.torch.cuda, []
    for _ in range(REPEATS):
        collectives.meet(session)
        with cuda.stream(second):
            session.spin(200e-6)
            for _ in range(around):
                other()
        with cuda.stream(main):
            session.spin(200e-6 + 0.5 * other_s)
            first = session.event()
            asked()
            last = session.event()
        session.synchronize()
        times.append(collectives.slowest(session, session.between_s(first, last)))
    return timing(times)


def _launched_under(
    session: Session, product: Callable[[], object], message: Callable[[], object], with_: tuple[Any, Any, float]
) -> Timing:
    """From the middle of the GEMM until the message has ended."""
    main, second, gemm_s = with_
    cuda, times = session.torch.cuda, []
    for _ in range(REPEATS):
        collectives.meet(session)
        with cuda.stream(main):
            session.spin(200e-6)
            product()
            product()
        with cuda.stream(second):
            session.spin(200e-6 + 0.5 * gemm_s)
            first = session.event()
            message()
            last = session.event()
        session.synchronize()
        times.append(collectives.slowest(session, session.between_s(first, last)))
    return timing(times)
