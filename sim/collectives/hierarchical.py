"""Hierarchical: the switch of each domain reduces, a tree joins the domains, the switch spreads the sum."""

from dataclasses import replace

from sim.collectives import in_switch, tree
from sim.collectives.phase import SIMPLE, Phase
from sim.collectives.placement import Placement
from workloads.ops import Collective


def phases(op: Collective, place: Placement) -> tuple[Phase, ...]:
    """All-reduce over several domains of several members whose switch can reduce.

    Each member carries its part of the vector across, so that all network cards of a node are busy.
    """
    if op.op != "all_reduce" or place.domains == 1 or place.domain_ranks == 1:
        return ()
    inside = in_switch.steps(op, place)
    return (*inside, replace(tree.tree(op.bytes, place), protocols=(SIMPLE,))) if inside else ()
