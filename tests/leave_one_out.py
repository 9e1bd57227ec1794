"""How good is a source that no parameter was read off? `python -m tests.leave_one_out TABLE`.

Host times that training stacks share are the parameters which published step times could have shaped. They are fitted
again here on all sources of the table but one, and the one that was left out is predicted with what came out. Every
source weighs the same in the fit, so that a large one does not decide it. The width of intervals is fitted likewise.
The shipped parameters stay as they are: this is a check, not a fit.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from joblib import Parallel, delayed

from sim.error_figures import Record, mean
from sim.result import NINETY_PERCENT
from sim.rows import Row, job_of
from sim.step import simulate
from sim.validate import PUBLISHED, compared, read_rows

# Stacks whose host times stand on the same observation, by the launch time that they share.
GROUPS = {
    "Megatron, PyTorch 1": (
        *("megatron-lm-2020", "megatron-lm-2021", "megatron-lm-2022"),
        *("megatron-deepspeed-2022", "megatron-deepspeed-rocm"),
    ),
    "eager PyTorch 1.13 and 2": ("aleph-alpha-2023", "bert-base", "internevo", "llm-foundry"),
    "Transformer Engine": ("megatron-core", "nemo", "nemo-2024", "nemo-rocm"),
}
LAUNCH_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
STEP_FACTORS = (0.0, 0.5, 1.0, 2.0, 4.0)
SHIPPED = (1.0, 1.0)
ALIKE = 0.02  # of the mean error: less is no reason to prefer one setting
SPREADS = tuple(place / 100 for place in range(41))
INSIDE = 0.9

Setting = tuple[float, float]
Errors = Mapping[str, Mapping[Setting, Sequence[float]]]  # source -> setting -> errors of its rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A source predicted with what all others say, beside what ships: mean errors without sign.

    `settings` are all that the others cannot tell apart; `error` is the smallest and the largest that follows.
    """

    source: str
    n: int
    settings: Sequence[Setting]
    error: tuple[float, float]
    shipped: float


def leave_one_out(errors: Errors) -> list[LeftOut]:
    """Each source with the settings that are best for the others."""
    found = []
    for source, settings in errors.items():
        best = best_settings({name: each for name, each in errors.items() if name != source})
        left = [_mean_abs(settings[setting]) for setting in best]
        usual = settings[SHIPPED]
        error = (min(left), max(left))
        found.append(LeftOut(source=source, n=len(usual), settings=best, error=error, shipped=_mean_abs(usual)))
    return found


def best_settings(errors: Errors) -> list[Setting]:
    """Of the smallest mean error with each source weighing the same, and all that are as good within ALIKE."""
    settings = next(iter(errors.values()))
    total = {each: math.fsum(_mean_abs(one[each]) for one in errors.values()) for each in settings}
    return [each for each in settings if total[each] <= (1.0 + ALIKE) * min(total.values())]


def step_s(row: Row, launch_factor: float) -> float:
    """Of a row, with the launch and message times of its stack scaled."""
    job = job_of(row)
    host = job.stack.host
    launch_s, message_s = (
        {execution: launch_factor * seconds for execution, seconds in costs.items()}
        for costs in (host.launch_s, host.message_s)
    )
    scaled = replace(host, launch_s=launch_s, message_s=message_s)
    return simulate(replace(job, stack=replace(job.stack, host=scaled))).step_s


def errors_of(rows: Sequence[Row], records: Sequence[Record]) -> Errors:
    """Errors of every row of a group with every setting."""
    found: dict[str, dict[Setting, list[float]]] = {}
    pairs = [(row, record) for row, record in zip(rows, records, strict=True) if record["error"] is not None]
    for launch in LAUNCH_FACTORS:
        predicted = Parallel(n_jobs=-1)(delayed(step_s)(row, launch) for row, _ in pairs)
        for (row, record), seconds in zip(pairs, predicted, strict=True):
            host_s = job_of(row).host.step_s
            for step in STEP_FACTORS:
                error = (seconds + (step - 1.0) * host_s) / float(str(record["measured_s"])) - 1.0
                found.setdefault(row["source"], {}).setdefault((launch, step), []).append(error)
    return found


def spread_errors(rows: Sequence[Row], records: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    """Source -> |log(measured / predicted)| and the spread of the prices alone, without that of the stack."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row, record in zip(rows, records, strict=True):
        if record["error"] is not None:
            high, predicted, measured = (
                float(str(record[f"{key}_s"])) for key in ("predicted_high", "predicted", "measured")
            )
            total = math.log(high / predicted) / NINETY_PERCENT
            own = math.sqrt(max(total**2 - job_of(row).stack.spread ** 2, 0.0))
            found.setdefault(row["source"], []).append((abs(math.log(measured / predicted)), own))
    return found


def inside(rows: Sequence[tuple[float, float]], spread: float) -> float:
    """Share of the rows of a source in their interval, with that spread of the stack."""
    return sum(gap <= NINETY_PERCENT * math.hypot(own, spread) for gap, own in rows) / len(rows)


def best_spread(sources: Mapping[str, Sequence[tuple[float, float]]]) -> float:
    """The smallest with which nine rows of ten are inside, each source weighing the same."""
    enough = (each for each in SPREADS if (mean([inside(rows, each) for rows in sources.values()]) or 0.0) >= INSIDE)
    return next(enough, SPREADS[-1])


def _mean_abs(errors: Sequence[float]) -> float:
    return math.fsum(map(abs, errors)) / len(errors)


def main() -> None:
    """Print a line for each source of each group, then the intervals."""
    rows = read_rows(Path(sys.argv[1]) if len(sys.argv) > 1 else PUBLISHED)
    records = compared(rows)
    for group, stacks in GROUPS.items():
        chosen = [(row, record) for row, record in zip(rows, records, strict=True) if row["stack"] in stacks]
        errors = errors_of([row for row, _ in chosen], [record for _, record in chosen])
        _say(f"\n{group}: all sources together say {_words(best_settings(errors))}")
        for one in leave_one_out(errors) if len(errors) > 1 else []:
            low, high = one.error
            _say(f"{one.source[:60]:60} {one.n:4}  {_words(one.settings)}")
            _say(f"{'':66}left out {low:.1%} to {high:.1%}, as shipped {one.shipped:.1%}")
    spreads = spread_errors(rows, records)
    covered = {
        source: inside(own, best_spread({name: each for name, each in spreads.items() if name != source}))
        for source, own in spreads.items()
    }
    everywhere = mean(list(covered.values())) or 0.0
    weighted = sum(covered[name] * len(own) for name, own in spreads.items()) / sum(map(len, spreads.values()))
    _say(f"\nstack.spread for {INSIDE:.0%} inside, each source alike: {best_spread(spreads):.2f}; fitted without a")
    _say(f"source, {weighted:.1%} of the rows left out are inside, {everywhere:.1%} with each source alike")


def _words(settings: Sequence[Setting]) -> str:
    """As in `launch x 0.75 to 1.25, step_s x 1 to 2`."""
    launch, step = (sorted({each[place] for each in settings}) for place in (0, 1))
    return f"launch x {launch[0]:g} to {launch[-1]:g}, step_s x {step[0]:g} to {step[-1]:g}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
