"""Tree: a chain inside each domain, a double binary tree across domains, up and down in one pipeline."""

from math import ceil, log2

from sim.collectives.phase import Phase
from sim.collectives.placement import Placement
from workloads.ops import Collective

# On two domains of several ranks NCCL takes rings for these, though a tree sends half as much across: its tuner rates
# trees at half the bandwidth, and at fewer steps (src/graph/tuning.cc). 16 A100 keep to the times of a ring from
# 256 KiB to 512 MiB, and to those of a tree from 1 GiB on; 16 H100 to those of a tree up to 64 KiB
# (docs/models/collectives.md).
AS_RINGS = range(1 << 18, 1 << 30)


def phases(op: Collective, place: Placement) -> tuple[Phase, ...]:
    """All-reduce over several domains; within one, the ring does as well."""
    if op.op != "all_reduce" or place.domains == 1 or _as_a_ring(op, place):
        return ()
    return (*chain(op.bytes, place), tree(op.bytes, place), place.copy(op.bytes / place.ranks))


def _as_a_ring(op: Collective, place: Placement) -> bool:
    return place.domains == 2 and place.domain_ranks > 1 and int(op.bytes) in AS_RINGS


def chain(vector_bytes: float, place: Placement) -> tuple[Phase, ...]:
    """Up and down the members of a domain, each with its part of the vector."""
    members = place.domain_ranks
    if members == 1:
        return ()
    return (place.inside(2 * (members - 1), 2 * (members - 1) / members * vector_bytes),)


def tree(vector_bytes: float, place: Placement) -> Phase:
    """Across domains: an inner node of a binary tree sends its part up once and down twice.

    Two trees that swap leaves and inner nodes share the vector, so that a member sends twice its part,
    or once where only two domains are there (a root sends down only, a leaf up only).
    """
    sends = 1 if place.domains == 2 else 2
    return place.across(2 * ceil(log2(place.domains)), sends * vector_bytes / place.domain_ranks)
