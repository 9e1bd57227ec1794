"""In-switch: the switch adds up what the ranks hold and sends the sum to all of them (NVLink SHARP)."""

from dataclasses import replace

from sim.collectives.phase import SIMPLE, Phase
from sim.collectives.placement import Placement
from workloads.ops import Collective

# Latency of each half (reduce, multicast) in hops: the members wait for each other before and after.
HALF_ROUNDS = 3
HALVES = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}


def phases(op: Collective, place: Placement) -> tuple[Phase, ...]:
    """Within one domain, where switch and devices can do it."""
    return () if place.domains > 1 else steps(op, place)


def steps(op: Collective, place: Placement) -> tuple[Phase, ...]:
    """Reduce (a link carries the whole vector out) and multicast (the whole vector in); empty if it cannot.

    The halves of an all-reduce use opposite directions of the links, but for the rank's own part.
    """
    if op.op not in HALVES or not place.in_switch_bytes_per_s:
        return ()
    moved_bytes = op.bytes * (1 + 1 / place.domain_ranks if op.op == "all_reduce" else 1)
    step = place.inside(HALVES[op.op] * HALF_ROUNDS, moved_bytes, place.in_switch_bytes_per_s)
    return (replace(step, protocols=(SIMPLE,)),)
