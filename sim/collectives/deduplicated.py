"""Deduplicated: rows to the ranks of their experts, each once over the network to a domain, and there once to a rank.

As DeepEP does it (github.com/deepseek-ai/DeepEP): a row goes to the rank of the same place in each domain that has one
of its experts, which hands it on. Back, rows are summed up on the same way.
"""

from dataclasses import replace

from sim.collectives.phase import MESSAGE_PROTOCOLS, Phase
from sim.collectives.placement import Placement
from workloads.ops import Exchange


def exchange(op: Exchange, place: Placement) -> tuple[Phase, ...]:
    """Over the network and the domain's fabric at once; the copy of a rank's own rows stays."""
    at_ranks = op.routing.hit(place.ranks) * op.bytes
    at_domains = op.routing.hit(place.domains) * op.bytes
    handed_on = at_ranks * (1 - 1 / place.domain_ranks)
    wires = []
    if place.domain_ranks > 1:
        wires.append(place.inside(1, handed_on, place.all_pairs_bytes_per_s))
    if place.domains > 1:
        wires.append(place.across(1, at_domains * (1 - 1 / place.domains)))
    return tuple(replace(phase, protocols=MESSAGE_PROTOCOLS) for phase in (*wires, place.copy(at_ranks / place.ranks)))
