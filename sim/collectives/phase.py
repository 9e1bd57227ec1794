"""What a collective does on the wire: phases, the protocols that carry them, and their closed-form time.

An algorithm is a few phases that run as one pipeline. Equations and figures: `docs/models/collectives.md`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How the library moves data: fast to start or fast to stream.

    Args:
        start_s: fixed time beyond that of the fastest protocol.
        hop: latency of a hop, relative to the fabric's.
        rate: bandwidth, relative to the fabric's.
    """

    name: str
    start_s: float
    hop: float
    rate: float


# Fitted to NCCL collectives of 2, 4 and 8 A100, H100 and B200 (4 KB to 512 MB).
MESSAGE_LOW_LATENCY = Protocol(name="ll", start_s=0.0, hop=1.0, rate=0.05)
LOW_LATENCY = Protocol(name="ll128", start_s=0.0, hop=1.0, rate=0.80)
SIMPLE = Protocol(name="simple", start_s=4e-6, hop=2.0, rate=1.0)

COLLECTIVE_PROTOCOLS = (LOW_LATENCY, SIMPLE)
MESSAGE_PROTOCOLS = (MESSAGE_LOW_LATENCY, SIMPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Equal rounds of one rank, which sends `bytes` in each.

    Args:
        fabric: the slowest fabric that the phase crosses; `memory` is a copy within the device.
        bytes_per_s: at which the rank sends when nobody else is there.
        pipeline_bytes: sent before the pipeline is full.
        protocols: that the library has for it.
    """

    fabric: Literal["scale_up", "scale_out", "memory"]
    rounds: float
    bytes: float
    bytes_per_s: float
    latency_s: float
    pipeline_bytes: float = 0.0
    protocols: tuple[Protocol, ...] = COLLECTIVE_PROTOCOLS

    @property
    def sent_bytes(self) -> float:
        """By one rank, in all rounds."""
        return self.rounds * self.bytes

    @property
    def stream_s(self) -> float:
        """To send everything, latency aside."""
        return self.sent_bytes / self.bytes_per_s

    @property
    def fill_s(self) -> float:
        """To fill the pipeline."""
        return min(self.sent_bytes, self.pipeline_bytes) / self.bytes_per_s


def pipeline_s(phases: Sequence[Phase]) -> float:
    """Seconds of `phases` run as one pipeline, under the best protocol that all of them have."""
    wires = [phase for phase in phases if phase.fabric != "memory"]
    common = [p for p in wires[0].protocols if all(p in phase.protocols for phase in wires)]
    return min(protocol_s(phases, protocol) for protocol in common)


def protocol_s(phases: Sequence[Phase], protocol: Protocol) -> float:
    """Latency of all rounds, the slowest stream, the filling of every stage, and copies in memory."""
    wires = [phase for phase in phases if phase.fabric != "memory"]
    latency_s = sum(phase.rounds * phase.latency_s for phase in wires)
    stream_s = max(phase.stream_s for phase in wires) + sum(phase.fill_s for phase in wires)
    copy_s = sum(phase.stream_s for phase in phases if phase.fabric == "memory")
    return protocol.start_s + protocol.hop * latency_s + stream_s / protocol.rate + copy_s
