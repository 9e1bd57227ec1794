"""The work of a step as small frozen values: shapes in, FLOPs and bytes out, never seconds.

An op is a dictionary key: equal ops cost the same, so a step with thousands of tasks is priced by pricing
a few dozen different ops. Field names are the columns of the measurement table.
"""

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from workloads.routing import Routing

# Bytes of one element; the block-scaled formats carry their scales (one byte each 32 or 16 elements).
DTYPE_BYTES = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "mxfp8": 1.0 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
}

Layout = Literal["tn", "nn", "nt"]
Direction = Literal["fwd", "bwd"]
CollectiveKind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """C[m, n] = A[m, k] B[k, n], `batch` times.

    `layout` is the memory order in BLAS terms: tn for the forward pass (weights stored [n, k]), nn for the
    data gradient, nt for the weight gradient. Inputs are `dtype`; C is written as `out_dtype`, and read
    first when `accumulate` is set (gradient accumulation fused into the weight-gradient GEMM). `grouped`: the
    batch is of experts, whose rows differ in number; m (of a weight gradient, k) is the mean; with `streams` each
    is a kernel of its own, one behind the other on each of some streams. `casts`: A comes in
    16 bits and is cast to `dtype` on the way, as benchmarks of whole linear layers time it; steps have ops of their own
    for that. `split_accumulator`: sums of 8-bit products leave the tensor cores every few steps of k, to be added up in
    fp32, as those of gradients do in Transformer Engine and torchao.
    """

    m: int
    n: int
    k: int
    dtype: str
    batch: int = 1
    layout: Layout = "tn"
    out_dtype: str = "bf16"
    accumulate: bool = False
    grouped: bool = False
    streams: bool = field(default=False, repr=False)
    split_accumulator: bool = field(default=False, repr=False)
    casts: bool = field(default=False, repr=False)  # equal shapes have equal names, so that splits keep them together

    @property
    def flops(self) -> float:
        """Two for each multiply-add."""
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def bytes(self) -> float:
        """Each input read once, the output written once."""
        inputs = DTYPE_BYTES[self.dtype] * (self.m * self.k + self.k * self.n)
        output = DTYPE_BYTES[self.out_dtype] * self.m * self.n * (2 if self.accumulate else 1)
        return self.batch * (inputs + output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """softmax(Q K^T) V in one fused kernel, forward or backward.

    `heads` query heads share `kv_heads` heads of keys and values; a causal mask halves the work of a square
    problem. The backward pass does 2.5 times the forward FLOPs (five matrix products instead of two). With a
    `window` each query sees so many keys at most, its own the last of them (causal ones only); 0: all before it.
    A head's values may have other columns than its queries and keys (`value_dim`; 0: as many).
    """

    batch: int
    seq_q: int
    seq_kv: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    causal: bool = True
    window: int = 0
    direction: Direction = "fwd"
    kernel: str = "flash"
    value_dim: int = 0

    @property
    def dims(self) -> tuple[int, int]:
        """Columns of a head: of its queries and keys, and of its values."""
        return self.head_dim, self.value_dim or self.head_dim

    @property
    def flops(self) -> float:
        """Of the matrix products; what is masked is not counted.

        Forward one over the columns of keys and one over those of values, backward three and two.
        """
        keys, values = self.dims
        columns = keys + values if self.direction == "fwd" else 3 * keys + 2 * values
        return 2.0 * self.batch * self.heads * columns * self.pairs

    @property
    def pairs(self) -> float:
        """Query-key pairs that are computed, for each head and sample."""
        if not self.causal:
            return float(self.seq_q * self.seq_kv)
        seeing, before = min(self.seq_q, self.seq_kv), max(self.seq_kv - self.seq_q, 0)
        growing = min(max(self.window - before, 0), seeing) if self.window else seeing
        return growing * (before + (growing + 1) / 2) + (seeing - growing) * float(self.window)

    @property
    def bytes(self) -> float:
        """Q, K, V and the output once; backward also their gradients."""
        rows = self.batch * (self.seq_q * self.heads + self.seq_kv * self.kv_heads)
        passes = 1 if self.direction == "fwd" else 2
        return DTYPE_BYTES[self.dtype] * passes * rows * sum(self.dims)


class Traffic(NamedTuple):
    """What a memory-bound kernel moves for each element of its main tensor."""

    elements: float  # elements of the activation type read or written
    bytes: float  # further bytes: masks, fp32 copies, indices
    flops: float
    per_clock: float  # bytes that one SM gets through in a clock, at most
    by_element: bool  # that is of 16-bit elements, and wider ones take as long
    short_per_clock: float  # per_clock of the kernel for rows of SHORT_ROW elements at most
    share: float  # of the memory rate that streaming kernels reach
    kernels: float  # that it takes, one after the other
    row_clocks: float  # that one SM spends on a row at least
    each: float  # further ones, for each group of rows
    lengths: frozenset[int]  # of rows with a kernel of their own; empty: all
    other_per_clock: float  # per_clock of the kernel for all other lengths
    turned: float  # of the bytes, those of a transposed copy in 8 bits


# Elements that PyTorch's softmax keeps in the registers of one warp at most.
SHORT_ROW = 1024

# Of a kernel that does nothing but load and store: more than any memory delivers.
STREAMING_PER_CLOCK = 40.0


@cache
def traffic_table() -> dict[tuple[str, str], Traffic]:
    """(kernel, direction) -> traffic, from `pointwise.toml`."""
    table = tomllib.loads((Path(__file__).parent / "pointwise.toml").read_text("utf-8"))
    return {
        (name, direction): Traffic(
            elements=row.get("elements", 0.0),
            bytes=row.get("bytes", 0.0),
            flops=row.get("flops", 0.0),
            per_clock=row.get("per_clock", STREAMING_PER_CLOCK),
            by_element=row.get("by_element", False),
            short_per_clock=row.get("short_per_clock") or row.get("per_clock", STREAMING_PER_CLOCK),
            share=row.get("share", 1.0),
            kernels=row.get("kernels", 1.0),
            row_clocks=row.get("row_clocks", 0.0),
            each=row.get("each", 0.0),
            lengths=frozenset(kernel.get("lengths", ())),
            other_per_clock=row.get("other_per_clock", STREAMING_PER_CLOCK),
            turned=kernel.get("turned", 0.0),
        )
        for name, kernel in table.items()
        for direction, row in kernel.items()
        if isinstance(row, dict)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointwise:
    """A kernel bound by memory traffic over a [rows, cols] tensor: activations, norms, softmax, optimizer.

    `op` is the table's name of the kernel (`gelu`, `rms_norm`, `adamw_fused`, ...); what it reads and
    writes for each element stands in `pointwise.toml`. Where the rows are in `groups`, of experts, some of its kernels
    run for each of them.
    """

    op: str
    rows: int
    cols: int
    dtype: str
    direction: Direction = "fwd"
    groups: int = field(default=1, repr=False)

    @property
    def elements(self) -> float:
        """Of the main tensor."""
        return float(self.rows) * self.cols

    @property
    def bytes(self) -> float:
        """Read and written."""
        traffic = traffic_table()[self.op, self.direction]
        return self.elements * (traffic.elements * DTYPE_BYTES[self.dtype] + traffic.bytes)

    @property
    def flops(self) -> float:
        """On the vector units."""
        return self.elements * traffic_table()[self.op, self.direction].flops

    @property
    def bytes_per_clock(self) -> float:
        """That one SM gets through, where the kernel's instructions bound it."""
        traffic = traffic_table()[self.op, self.direction]
        served = not traffic.lengths or self.cols in traffic.lengths
        usual = traffic.short_per_clock if self.cols <= SHORT_ROW else traffic.per_clock
        per_clock = usual if served else traffic.other_per_clock
        return per_clock * DTYPE_BYTES[self.dtype] / DTYPE_BYTES["bf16"] if traffic.by_element else per_clock

    @property
    def memory_share(self) -> float:
        """Of the memory rate that streaming kernels reach."""
        return traffic_table()[self.op, self.direction].share

    @property
    def kernels(self) -> float:
        """That it takes, one after the other."""
        return traffic_table()[self.op, self.direction].kernels + self.kernels_of_groups

    @property
    def kernels_of_groups(self) -> float:
        """Of its kernels, those that run for each group of rows."""
        return self.groups * traffic_table()[self.op, self.direction].each

    @property
    def turned_bytes(self) -> float:
        """Of a transposed copy in 8 bits, for tensor cores that take operands along k alone."""
        return self.elements * traffic_table()[self.op, self.direction].turned

    @property
    def row_clocks(self) -> float:
        """Of one SM, over all rows, where a block of threads works on one row however short it is."""
        return self.rows * traffic_table()[self.op, self.direction].row_clocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """A collective over `ranks` devices that stand `stride` apart in the order of global ranks.

    `bytes` counts as the size column of nccl-tests does: the whole vector, also where each rank
    contributes or receives 1/ranks of it.
    """

    op: CollectiveKind
    bytes: float
    ranks: int
    stride: int = 1
    dtype: str = "bf16"

    @property
    def flops(self) -> float:
        """Reductions are not counted."""
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A point-to-point message of every rank of one group to its partner `stride` ranks further.

    `ranks` are those of the communicator: libraries share its channels out among them.
    """

    bytes: float
    stride: int
    source: int = 0
    ranks: int = 2

    @property
    def flops(self) -> float:
        """None."""
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Rows to the ranks of their experts, or back: each once to a rank, and once over the network to a domain.

    However many of its experts are there (DeepEP, HybridEP). `bytes`: of all rows of a rank, each counted once.
    """

    bytes: float
    ranks: int
    routing: Routing
    stride: int = 1
    dtype: str = "bf16"

    @property
    def op(self) -> str:
        """As collectives are called."""
        return "exchange"

    @property
    def flops(self) -> float:
        """Sums on the way back are not counted."""
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCopy:
    """Bytes of a device that go to the memory of its host, or come back."""

    bytes: float

    @property
    def flops(self) -> float:
        """None."""
        return 0.0


ComputeOp = Gemm | Attention | Pointwise
CommunicationOp = Collective | Transfer | Exchange
MeasuredOp = ComputeOp | CommunicationOp  # what a table of measurements has rows of
Op = MeasuredOp | HostCopy
