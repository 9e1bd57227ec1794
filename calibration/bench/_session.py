"""How something is timed on the GPU at hand: the same for every family, on CUDA and on ROCm.

Device events around each launch, operands out of the caches, launches queued behind a spinning kernel so that
the host is never waited for. The time of an empty pair of events is taken off: it is no kernel's.
"""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from calibration import environment
from calibration.environment import Facts, Meter
from calibration.table import Measurement

REPEATS = 11  # of a kernel of a millisecond and more
SHORT_REPEATS = 21
SHORT_S = 1e-3
FLUSH_BYTES = 512 * 2**20  # more than any L2; more than the 256 MB cache behind that of CDNA 3
GAP_S = 150e-6
LONGEST_GAP_S = 30e-3
LONGEST_REST_S = 30e-3
SUSTAINED_S = 3.0
SUSTAINED_END_S = 1.0
CHUNK_S = 0.05

Work = Callable[[], object]


class UnsupportedError(Exception):
    """This GPU or this PyTorch cannot run the shape; the message says why."""


class Timing(NamedTuple):
    """Median and percentiles in seconds, and how many samples they are of."""

    median_s: float
    p10_s: float
    p90_s: float
    samples: int
    notes: str = ""


def timing(times: list[float], notes: str = "") -> Timing:
    """Statistics of samples in seconds."""
    ordered = sorted(times)
    last = len(ordered) - 1
    p10, p90 = (ordered[round(share * last)] for share in (0.1, 0.9))
    return Timing(statistics.median(ordered), p10, p90, len(ordered), notes)


def measured(shape: Measurement, taken: Timing) -> Measurement:
    """The row of a shape with what was taken."""
    return replace(
        shape,
        time_s=taken.median_s,
        time_p10_s=taken.p10_s,
        time_p90_s=taken.p90_s,
        samples=taken.samples,
        notes=taken.notes or None,
    )


@dataclass(slots=True, kw_only=True)
class Session:
    """One process on one GPU. `start` makes it ready; ranks above 0 measure only what needs several GPUs."""

    torch: Any
    facts: Facts
    rank: int = 0
    ranks: int = 1
    ranks_per_node: int = 1
    control: Any = None  # process group on the hosts
    device: str = "cuda"
    meter: Meter | None = None
    empty_s: float = 0.0
    cycles_per_s: float = 1e9
    flush_from: Any = None
    flush_to: Any = None
    seeds: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        """Allocate what flushes the caches, wake the clocks, calibrate the spin and the events."""
        torch = self.torch
        torch.manual_seed(0)
        self.flush_from = torch.empty(FLUSH_BYTES // 4, dtype=torch.float32, device=self.device).normal_()
        self.flush_to = torch.empty((), dtype=torch.float32, device=self.device)
        self.meter = Meter.of(self.facts)
        self.cycles_per_s = self._spin_rate()
        self.empty_s = self._empty_pair_s()

    def labelled(self, shape: Measurement) -> Measurement:
        """The shape with this device and this stack, in the words of its vendor."""
        kernel = environment.vendor_kernel(shape.kernel, self.facts)
        placed = replace(shape, device=self.facts.device, stack=self.facts.stack, kernel=kernel)
        if not shape.ranks:
            return placed
        return replace(placed, ranks=self.ranks, ranks_per_node=self.ranks_per_node)

    def dtype(self, name: str) -> Any:
        """PyTorch's type of one of ours; fp8 is the e4m3 that the GPU has."""
        if name == "fp8":
            return getattr(self.torch, self.facts.fp8)
        names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "tf32": "float32"}
        return getattr(self.torch, names[name])

    def random(self, *shape: int, dtype: str = "bf16", grad: bool = False) -> Any:
        """Normally distributed numbers: zeros draw less power and run faster than data does."""
        wide = dtype if dtype != "fp8" else "bf16"
        values = self.torch.randn(*shape, device=self.device, dtype=self.dtype(wide))
        values = values.to(self.dtype(dtype)) if dtype == "fp8" else values
        return values.requires_grad_() if grad else values

    def burst(self, work: Work, *, gap_s: float = GAP_S, warm_up: int = 2, queued: bool = True) -> Timing:
        """Cold caches and a rest as long as the work before each repeat, so that the power limit does not bite.

        Work that is not `queued` (it waits for the GPU) is timed with the host's part in it.
        """
        for _ in range(warm_up):
            work()
        once_s = self._once_s(work)
        repeats = SHORT_REPEATS if once_s < SHORT_S else REPEATS
        times, late = list[float](), 0
        while gap_s <= LONGEST_GAP_S:
            times, late = self._repeated(work, repeats, gap_s + min(once_s, LONGEST_REST_S))
            if late <= repeats // 4 or not queued:
                break
            gap_s *= 4
        return timing(times, f"host behind in {late} of {repeats}" if queued and late > repeats // 4 else "")

    def sustained(self, work: Work, shape: Measurement) -> Measurement:
        """Back to back for SUSTAINED_S; time, power and clock are those of its end."""
        for _ in range(3):
            work()
        once_s = max(self._once_s(work), 2e-6)
        launches = max(1, min(900, int(CHUNK_S / once_s)))
        chunks, watts, hertz = self._loaded(work, launches)
        taken = timing([seconds / launches for seconds in chunks])
        mean_s = statistics.fmean(chunks) / launches
        row = measured(shape, taken._replace(median_s=mean_s))
        return replace(row, power_w=watts, sm_clock_hz=hertz)

    def event(self) -> Any:
        """One that has been recorded."""
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between_s(self, first: Any, last: Any) -> float:
        """Seconds between two events that have passed."""
        return float(first.elapsed_time(last)) / 1e3

    def synchronize(self) -> None:
        """Wait for the GPU; an error that it kept to itself surfaces here."""
        self.torch.cuda.synchronize()

    def spin(self, seconds: float) -> None:
        """Keep the stream busy without work."""
        self.torch.cuda._sleep(int(seconds * self.cycles_per_s))

    def flush(self) -> None:
        """Read more than the caches hold. Not written: dirty lines would slow the kernel that evicts them."""
        self.torch.amax(self.flush_from, dim=(0,), out=self.flush_to)

    def tidy(self) -> None:
        """Give back cached memory before it is fragmented."""
        if self.torch.cuda.memory_reserved() > 0.4 * self.facts.memory_bytes:
            gc.collect()
            self.torch.cuda.empty_cache()

    def _repeated(self, work: Work, repeats: int, gap_s: float) -> tuple[list[float], int]:
        """Seconds of each repeat, and in how many the GPU had to wait for the host."""
        pairs, late = [], 0
        for _ in range(repeats):
            self.flush()
            self.spin(gap_s)
            first = self.event()
            work()
            last = self.event()
            late += first.query()
            pairs.append((first, last))
        self.synchronize()
        return [max(self.between_s(*pair) - self.empty_s, 1e-7) for pair in pairs], late

    def _once_s(self, work: Work) -> float:
        self.synchronize()
        first = self.event()
        work()
        last = self.event()
        self.synchronize()
        return self.between_s(first, last)

    def _loaded(self, work: Work, launches: int) -> tuple[list[float], float | None, float | None]:
        """Seconds of each chunk of the end, its mean power and clock."""
        chunks, clocks, pending = list[float](), list[float](), []
        power = self.meter.power() if self.meter else None
        start, begun = time.monotonic(), False
        while (elapsed := time.monotonic() - start) < SUSTAINED_S:
            if not begun and elapsed > SUSTAINED_S - SUSTAINED_END_S:
                begun, chunks, clocks = True, [], []
                power = self.meter.power() if self.meter else None
            first = self.event()
            for _ in range(launches):
                work()
            pending.append((first, self.event()))
            if len(pending) > 1:
                pair = pending.pop(0)
                pair[1].synchronize()
                chunks.append(self.between_s(*pair))
                clocks += self.meter.clocks_hz() if self.meter else []
        watts = power.watts() if power else None
        self.synchronize()
        return chunks, watts, statistics.fmean(clocks) if clocks else None

    def _spin_rate(self) -> float:
        cycles = 4_000_000
        for _ in range(3):
            self.torch.cuda._sleep(cycles)
        return cycles / self._once_s(lambda: self.torch.cuda._sleep(cycles))

    def _empty_pair_s(self) -> float:
        self.empty_s = 0.0
        times, _ = self._repeated(lambda: None, 31, GAP_S)
        return statistics.median(times)
