"""A job: what is trained, on what, how. The one input of a simulation."""

from dataclasses import dataclass

from hardware.types import Cluster
from workloads.errors import WorkloadError
from workloads.layout import Layout, Training, check
from workloads.model import Model
from workloads.shard import Shard
from workloads.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training configuration.

    Args:
        execution: eager or compile; empty for the stack's usual one.
        attention: flash or unfused; empty for the stack's usual one.
    """

    model: Model
    cluster: Cluster
    training: Training
    layout: Layout
    stack: Stack
    execution: str = ""
    attention: str = ""

    @property
    def gpus(self) -> int:
        """Devices that the job uses: all of its cluster, or fewer."""
        return self.layout.gpus

    def shard(self) -> Shard:
        """The job as one rank sees it; raises WorkloadError with every inconsistency."""
        check(self.model, self.layout, self.training)
        if self.layout.gpus > self.cluster.gpus:
            fault = f"needs {self.layout.gpus} GPUs, {self.cluster.name} x {self.cluster.nodes} has {self.cluster.gpus}"
            raise WorkloadError("layout", [fault])
        return Shard(
            model=self.model,
            layout=self.layout,
            training=self.training,
            stack=self.stack,
            execution=self.execution or self.stack.execution,
            attention=self.attention or self.stack.attention,
        )
