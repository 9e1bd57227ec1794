"""What a machine is: devices, fabrics and clusters, as frozen facts in SI units.

Nothing here knows of work or time. The values come from the TOML files beside this module, which name
their sources; `hardware.descriptor` reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Gt(0), Le(1)]
NonNegative = Annotated[float, Ge(0)]
Part = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Gt(0)]

# Read by the descriptor reader: a misspelt key, a NaN or an infinity in a file is a fault.
STRICT: Mapping[str, object] = {"extra": "forbid", "allow_inf_nan": False}
SIXTEEN_BITS = ("fp16", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How the vendor's kernels behave on one generation of devices (`architectures/*.toml`).

    Everything is a share of a peak on the data sheet or a fixed time, measured on the devices that
    `source` names, and holds for every device of the generation. `docs/models/kernels.md` has the equations.

    Args:
        tiles: output tiles (rows, columns) that GEMM kernels give one SM (AMD: one compute unit).
        tensor_share: of the peak of a dtype, reached in the main loop of a GEMM at full clock.
        libraries: release of the library of GEMMs -> rate of its main loop in 16 bits, of that of `tensor_share`.
        vector_share: likewise for kernels on the vector units.
        issue_share: of the bytes that an SM of an H200 gets through in a clock where instructions bound a kernel.
        hbm_share: of the memory bandwidth, reached by streaming kernels.
        l2_bytes_per_clock: from L2 into one SM, at the boost clock, multicast counted as if it were read.
        kernel_s: fixed time of a kernel on the device, its first loads and last stores; no host time.
        pointwise_s: fixed time of a kernel bound by memory traffic, its operands not in L2.
        cta_s: prologue and epilogue of one output tile.
        split_s: added by splitting k over several SMs.
        tail_share: of the idle time in a last, partly filled wave, what kernels do lose (rest: stream-k).
        addend_hidden: of the time to read the tile of C that a product is added to, what other tiles' main loops hide.
        narrow_per_clock: loads and stores of 4 bytes or fewer in an SM, where rows are no multiple of 16 bytes.
        turned_bytes_per_clock: into an SM's tensor cores, of an operand wider than 16 bits that does not lie along k.
        narrow_layouts: of 8-bit operands that tensor cores take; with "tn" both have to lie along k.
        split_accumulator_share: of the main loop's rate in 8 bits that is left where products are added up outside of
            the tensor cores every few steps.
        sustained_clock: clock of the reference part in a long run of large GEMMs, relative to a burst.
        vector_draw: power of a GEMM on the vector units at full clock, beyond that of a GPU that waits, relative to the
            power limit of the reference part.
        throttle_s: length of a GEMM at which a benchmark's short loop has lost half of that clock.
        joules_per_flop: power limit over 16-bit tensor peak of the reference part; less clocks lower.
        attention_share: kernel name -> (forward, backward) share of the tensor peak, long sequences.
        attention_kv_ramp: keys whose time each query tile spends on prologue, mask edge and epilogue.
        attention_softmax_dims: head dimensions whose time the softmax of one query-key pair costs.
        attention_softmax: kernel name -> the same, (forward, backward), of kernels whose products leave softmax another
            share of the time.
        attention_s: fixed time of a fused attention kernel with its helper kernels.
        gemm_spread, attention_spread, pointwise_spread: standard deviation of log(measured / predicted).
    """

    __pydantic_config__: ClassVar = STRICT

    name: str
    source: str
    tiles: tuple[tuple[Count, Count], ...]
    tensor_share: Mapping[str, Share]
    vector_share: Share
    hbm_share: Share
    l2_bytes_per_clock: Positive
    kernel_s: Positive
    pointwise_s: Positive
    cta_s: Positive
    split_s: Positive
    tail_share: Share
    narrow_per_clock: Positive
    turned_bytes_per_clock: Positive
    narrow_layouts: Literal["tn", "any"]
    sustained_clock: Share
    throttle_s: Positive
    joules_per_flop: Positive
    attention_share: Mapping[str, tuple[Share, Share]]
    attention_kv_ramp: Positive
    attention_softmax_dims: NonNegative
    attention_s: Positive
    gemm_spread: Positive
    attention_spread: Positive
    pointwise_spread: Positive
    attention_softmax: Mapping[str, tuple[NonNegative, NonNegative]] = field(default_factory=dict)
    split_accumulator_share: Share = 1.0
    addend_hidden: Part = 0.0
    vector_draw: NonNegative = 0.65  # an H200's
    issue_share: Share = 1.0
    libraries: Mapping[str, Share] = field(default_factory=dict)

    def with_library(self, release: str) -> "Architecture":
        """With GEMMs of a release that is among its `libraries`."""
        share = self.libraries[release]
        slower = {dtype: rate * (share if dtype in SIXTEEN_BITS else 1.0) for dtype, rate in self.tensor_share.items()}
        return replace(self, tensor_share=slower)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The data sheet of one GPU, or of one die where the software sees dies (`devices/*.toml`).

    Rates are dense (no sparsity). `links` gives, for each fabric that the device is sold with, the
    bytes per second that one device can send over all its links of that kind, in one direction.

    Args:
        host_bytes_per_s: between the device and the memory of its host, in each direction, where that is not over PCIe.
        sold_from: month of the first systems, as its first day.
    """

    __pydantic_config__: ClassVar = STRICT

    name: str
    title: str
    vendor: Literal["nvidia", "amd"]
    architecture: Architecture
    source: str
    sources: Mapping[str, str]
    tensor_flops_per_s: Mapping[str, Positive]
    vector_flops_per_s: Mapping[str, Positive]
    memory_bytes: Positive
    memory_bytes_per_s: Positive
    l2_bytes: Positive
    sm_count: Count
    boost_clock_hz: Positive
    power_limit_w: Positive
    links: Mapping[str, Positive]
    host_bytes_per_s: Positive | None = None
    sold_from: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """How a kind of interconnect behaves (`fabrics/*.toml`).

    Args:
        topology: who reaches whom at full rate. `switch`: any pair. `mesh`: one link for each peer, so
            that a pair gets 1/(peers) of a device's bandwidth. `ring`: neighbours only. `tree`: through
            a shared host bridge.
        pair_share: share of a device's bandwidth that one peer can get.
        utilisation: share of the peak that large ring collectives reach (bus bandwidth over peak).
        latency_s: time of one hop of a small message, software included.
        pipeline_bytes: what a device has to send before the pipeline of a large collective is full.
        start_s: architecture -> fixed time of a collective of its devices; `other` for the rest.
        message_share: architecture -> rate of messages and of all-to-all within the domain, relative to that of rings;
            1 for the rest.
        rings: number of members -> rings that a collective of theirs finds in a mesh whose links are not alike, in
            links of a device; members - 1 for the rest.
        in_switch_share: architecture -> share of the peak that all-reduces inside the switch reach;
            architectures that cannot have the switch reduce are absent.
        clock_share: how much of the slowdown of a GEMM at a lower clock its messages have: SMs move them.
    """

    __pydantic_config__: ClassVar = STRICT

    name: str
    title: str
    topology: Literal["switch", "mesh", "ring", "tree"]
    pair_share: Share
    utilisation: Share
    latency_s: Positive
    source: str
    pipeline_bytes: Positive = 5e6
    start_s: Mapping[str, Positive] = field(default_factory=lambda: {"other": 8e-6})
    message_share: Mapping[str, Positive] = field(default_factory=dict)
    rings: Mapping[str, Positive] = field(default_factory=dict)
    in_switch_share: Mapping[str, Share] = field(default_factory=dict)
    clock_share: Annotated[float, Ge(0), Le(1)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Equal nodes of equal devices (`clusters/*.toml`; the job says how many nodes).

    A domain is the set of devices that one scale-up fabric joins: a node as a rule, a rack for NVL72.

    Args:
        scale_up_bytes_per_s: what one device sends into the scale-up fabric, in one direction.
        scale_out_bytes_per_s: what one node sends into the network, all its NICs, in one direction.
    """

    __pydantic_config__: ClassVar = STRICT

    name: str
    title: str
    device: Device
    nodes: Count
    gpus_per_node: Count
    domain_gpus: Count
    scale_up: Fabric
    scale_up_bytes_per_s: Positive
    scale_out: Fabric
    scale_out_bytes_per_s: Positive
    source: str

    @property
    def gpus(self) -> int:
        """Devices in the cluster."""
        return self.nodes * self.gpus_per_node
