"""A job: what is trained, on what, how. The one input of a simulation."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hardware.types import Cluster
from sim.host_link import host_bytes_per_s
from workloads.errors import WorkloadError, unknown
from workloads.layout import Layout, Training, check
from workloads.model import Model
from workloads.shard import Shard
from workloads.stack import Host, Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training configuration.

    Args:
        execution: eager, compile or graph; empty for the stack's usual one.
        attention: flash or unfused; empty for the stack's usual one.
        host_pace: time that the host takes, relative to the costs that the stack gives; None for the stack's own.
    """

    model: Model
    cluster: Cluster
    training: Training
    layout: Layout
    stack: Stack
    execution: str = ""
    attention: str = ""
    host_pace: float | None = None

    @property
    def pace(self) -> float:
        """Of the host, as the job or else its stack has it; a job that fills its nodes shares cores with nobody."""
        host, alone = self.stack.host, self.gpus % self.cluster.gpus_per_node == 0
        usual = host.own_pace if alone and host.own_pace else host.pace
        return usual if self.host_pace is None else self.host_pace

    @property
    def host(self) -> Host:
        """What the CPU costs on this job's nodes; the layers alone have no work once a step."""
        host = self.stack.host.paced(self.pace)
        return replace(host, step_s=0.0) if self.training.layers_alone else host

    @property
    def machine(self) -> Cluster:
        """The cluster, its devices running the GEMMs of the stack's library."""
        device = self.cluster.device
        if self.stack.library not in device.architecture.libraries:
            return self.cluster
        architecture = device.architecture.with_library(self.stack.library)
        return replace(self.cluster, device=replace(device, architecture=architecture))

    @property
    def runs_ahead(self) -> bool:
        """Whether the host keeps its lead over the GPU through a step.

        GEMMs of experts that it launches one by one need their numbers of rows, so that it waits in each layer.
        """
        host, layout = self.stack.host, self.layout
        counts = self.model.experts and self.stack.grouped_gemms == "streams"
        messages = host.waits_for_stages and layout.pp > 1 and layout.vp == 1
        return host.ahead == "step" and not (counts or messages)

    @property
    def gpus(self) -> int:
        """Devices that the job uses: all of its cluster, or fewer."""
        return self.layout.gpus

    @property
    def trained(self) -> Model:
        """The model with as many layers that predict further tokens as are trained."""
        known = self.stack.mtp and self.training.task == "pretrain"
        usual = self.model.mtp_layers if known else 0
        return replace(self.model, mtp_layers=usual if self.training.mtp_layers is None else self.training.mtp_layers)

    @property
    def can_offload(self) -> bool:
        """Whether some of its layers could be offloaded."""
        return self.layout.pp == 1 and self.model.layers > 1 and not any(self._offload_faults())

    def shard(self) -> Shard:
        """The job as one rank sees it; raises WorkloadError with every inconsistency."""
        model = self.trained
        check(model, self.layout, self.training)
        shard = Shard(
            model=model,
            layout=self.layout,
            training=self.training,
            stack=self.stack,
            execution=self.execution or self.stack.execution,
            attention=self.attention or self.stack.attention,
        )
        own = (*self._size_faults(), *self._mtp_faults(), *self._recompute_faults(), *self._library_faults())
        if faults := [*own, *stack_faults(shard)]:
            raise WorkloadError("job", faults)
        return shard

    def _size_faults(self) -> Iterator[str]:
        if self.layout.gpus > self.cluster.gpus:
            has = f"{self.cluster.name} x {self.cluster.nodes} has {self.cluster.gpus}"
            yield f"layout needs {self.layout.gpus} GPUs, {has}"

    def _mtp_faults(self) -> Iterator[str]:
        count = self.training.mtp_layers
        if count and not self.stack.mtp:
            yield f"training.mtp_layers = {count}: {self.stack.name} does not train layers that predict further tokens"
        if count and self.model.family == "bert":
            yield f"training.mtp_layers = {count} is of causal models"

    def _recompute_faults(self) -> Iterator[str]:
        recompute = self.training.recompute
        for fault in self._offload_faults() if self.training.offloaded_layers else ():
            yield f"training.recompute = {recompute!r}: {fault}"

    def _library_faults(self) -> Iterator[str]:
        """Where releases of libraries are told apart, one that is not among them is a slip of the pen."""
        known, release = self.cluster.device.architecture.libraries, self.stack.library
        if release and known and release not in known:
            kind = f"library of {self.cluster.device.architecture.name}"
            yield f"{self.stack.name}: {unknown(kind, release, known)}, and none for that of its measurements"

    def _offload_faults(self) -> Iterator[str]:
        """Why stack and device offload nothing."""
        if not self.stack.offloads:
            yield f"{self.stack.name} does not offload layers"
        if not host_bytes_per_s(self.cluster.device):
            yield f"no link of {self.cluster.device.name} to its host is known"


def stack_faults(shard: Shard) -> Iterator[str]:
    """What the stack cannot do for this layout."""
    executions = shard.stack.host.launch_s
    if shard.execution not in executions:
        yield f"stack.execution: {unknown('execution of ' + shard.stack.name, shard.execution, executions)}"
    if shard.attention not in ("flash", "unfused"):
        yield f"stack.attention: {unknown('attention', shard.attention, ('flash', 'unfused'))}"
    if shard.attention == "flash" and shard.model.sinks and not shard.stack.fused_sinks:
        kernel = f"{shard.stack.name} has no fused kernel for the sinks of {shard.model.name}"
        yield f'stack.attention: {kernel}; "unfused" is right, where scores fit into memory'
    if shard.layout.expert_overlap and shard.stack.host.reads_counts:
        yield f"layout.expert_overlap: {shard.stack.name} waits for the numbers of rows that it exchanges"
    if shard.attention == "unfused" and shard.layout.cp > 1 and not shard.exchanges_heads:
        needed = 'needs stack.attention = "flash", or layout.context_mode = "all_to_all"'
        yield f"layout.cp = {shard.layout.cp} {needed}: unfused attention needs all keys"
