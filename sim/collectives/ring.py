"""Ring: every rank sends to the next one; the ring enters and leaves each domain once."""

from sim.collectives.phase import Phase
from sim.collectives.placement import Placement
from workloads.ops import Collective

PASSES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "broadcast": 1}


def phases(op: Collective, place: Placement) -> tuple[Phase, ...]:
    """`passes` (ranks - 1) rounds of 1/ranks of the vector; broadcast sends the whole vector along."""
    if op.op not in PASSES:
        return ()
    rounds = PASSES[op.op] * (place.ranks - 1)
    part_bytes = op.bytes / rounds if op.op == "broadcast" else op.bytes / place.ranks
    ring = Phase(
        fabric="scale_out" if place.domains > 1 else "scale_up",
        rounds=rounds,
        bytes=part_bytes,
        bytes_per_s=bytes_per_s(place),
        latency_s=latency_s(place),
        pipeline_bytes=place.out_pipeline_bytes if place.domains > 1 else place.up_pipeline_bytes,
    )
    return (ring, place.copy(op.bytes / place.ranks)) if op.op != "broadcast" else (ring,)


def bytes_per_s(place: Placement) -> float:
    """Bus bandwidth: the slower of the links inside and the network that the group has."""
    if place.domains == 1:
        return place.up_bytes_per_s
    return min(place.up_bytes_per_s, place.network_share) if place.domain_ranks > 1 else place.network_share


def latency_s(place: Placement) -> float:
    """Mean over the hops of the ring, of which one for each domain crosses the network."""
    crossing = place.domains / place.ranks if place.domains > 1 else 0.0
    return crossing * place.out_latency_s + (1 - crossing) * place.up_latency_s
