"""The logs of a run's ranks -> its step time and peak memory, or why it failed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

METRICS = "[metrics] "
TOKENS = "throughput(tps)"
ACTIVE = "memory/max_active(GiB)"
RESERVED = "memory/max_reserved(GiB)"
DATA = "time_metrics/data_loading(s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of one rank; tokens/s for each GPU, as TorchTitan counts them."""

    step: int
    tokens_per_s_per_gpu: float
    active_gib: float
    reserved_gib: float
    data_s: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Median over the measured steps; memory is the peak of the fullest rank."""

    steps: int
    step_time_s: float
    fastest_s: float
    slowest_s: float
    tokens_per_s_per_gpu: float
    active_gib: float
    reserved_gib: float
    data_s: float
    loss: float


class FailedRunError(Exception):
    """A run without enough steps; the message is what it died of."""


def steps(text: str) -> tuple[Step, ...]:
    """Steps in the log of one rank; a line that was cut short is passed over."""
    return tuple(step for line in text.splitlines() if (step := _step(line)) is not None)


def _step(line: str) -> Step | None:
    _, found, record = line.partition(METRICS)
    if not found:
        return None
    try:
        fields = json.loads(record)
        return Step(
            step=int(fields["step"]),
            tokens_per_s_per_gpu=float(fields[TOKENS]),
            active_gib=float(fields[ACTIVE]),
            reserved_gib=float(fields[RESERVED]),
            data_s=float(fields[DATA]),
            loss=float(fields["loss_metrics/global_avg_loss"]),
        )
    except (ValueError, KeyError):
        return None


def measured(logs: Sequence[str], *, tokens_per_gpu: float, skip: int) -> Measured:
    """The steps after the first `skip`.

    tokens_per_gpu: tokens of a step over all GPUs. All ranks pass a step together, so the last rank's clock is as
    good as any; it is the one that sees the loss under pipeline parallelism.
    """
    ranks = [[step for step in steps(log) if step.step > skip] for log in logs]
    if not ranks or not all(ranks):
        raise FailedRunError(cause(logs))
    times_s = [tokens_per_gpu / step.tokens_per_s_per_gpu for step in ranks[-1]]
    everywhere = [step for rank in ranks for step in rank]
    middle_s = median(times_s)
    return Measured(
        steps=len(times_s),
        step_time_s=middle_s,
        fastest_s=min(times_s),
        slowest_s=max(times_s),
        tokens_per_s_per_gpu=tokens_per_gpu / middle_s,
        active_gib=max(step.active_gib for step in everywhere),
        reserved_gib=max(step.reserved_gib for step in everywhere),
        data_s=median(step.data_s for step in ranks[-1]),
        loss=ranks[-1][-1].loss,
    )


def cause(logs: Iterable[str]) -> str:
    """The last line that names an error, of the first rank that has one."""
    for log in logs:
        named = [line.strip() for line in log.splitlines() if _names_error(line)]
        if named:
            return named[-1][:300]
    return "it ended before the measured steps"


def _names_error(line: str) -> bool:
    word = line.strip().split(":", 1)[0]
    return word.endswith(("Error", "Exception", "SystemExit")) and " " not in word
