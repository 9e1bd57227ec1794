"""Ring: every rank sends to the next one; the ring enters and leaves each domain once."""

from sim.collectives.phase import Phase
from sim.collectives.placement import Placement
from workloads.ops import Collective

PASSES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}

# Rate of a stream that goes one way within a domain, relative to that of rings in which every rank sends and receives
# at once: a broadcast of 1 GiB between two H200s runs at 371 GB/s, 0.825 of the link, the rings of NVSwitch at 0.75.
ONE_WAY = 1.1


def phases(op: Collective, place: Placement) -> tuple[Phase, ...]:
    """`passes` (ranks - 1) rounds of 1/ranks of the vector; broadcast sends the whole vector along."""
    if op.op == "broadcast":
        return (broadcast(op, place),)
    if op.op not in PASSES:
        return ()
    part_bytes = op.bytes / place.ranks
    ring = around(place, PASSES[op.op] * (place.ranks - 1), part_bytes, bytes_per_s(place), pipeline_bytes(place))
    return (ring, place.copy(part_bytes))


def broadcast(op: Collective, place: Placement) -> Phase:
    """From the root along the chain: relays fill their pipelines, of which a pair has none."""
    hops = place.ranks - 1
    rate = ONE_WAY * bytes_per_s(place) if place.domains == 1 else bytes_per_s(place)
    return around(place, hops, op.bytes / hops, rate, pipeline_bytes(place) * (hops - 1) / hops)


def around(place: Placement, rounds: int, part_bytes: float, rate: float, filled_bytes: float) -> Phase:
    """Equal rounds over all hops of the ring."""
    return Phase(
        fabric="scale_out" if place.domains > 1 else "scale_up",
        rounds=rounds,
        bytes=part_bytes,
        bytes_per_s=rate,
        latency_s=latency_s(place),
        pipeline_bytes=filled_bytes,
    )


def pipeline_bytes(place: Placement) -> float:
    """That fill a stage: of the network where the ring crosses it."""
    return place.out_pipeline_bytes if place.domains > 1 else place.up_pipeline_bytes


def bytes_per_s(place: Placement) -> float:
    """Bus bandwidth: the slower of the links inside and the network that the group has."""
    if place.domains == 1:
        return place.up_bytes_per_s
    return min(place.up_bytes_per_s, place.network_share) if place.domain_ranks > 1 else place.network_share


def latency_s(place: Placement) -> float:
    """Mean over the hops of the ring, of which one for each domain crosses the network."""
    crossing = place.domains / place.ranks if place.domains > 1 else 0.0
    return crossing * place.out_latency_s + (1 - crossing) * place.up_latency_s
