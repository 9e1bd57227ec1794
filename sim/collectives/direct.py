"""Direct: every rank sends each of the others its part at once; also plain messages between two ranks."""

from dataclasses import replace
from math import ceil

from sim.collectives.phase import MESSAGE_PROTOCOLS, Phase
from sim.collectives.placement import Placement
from workloads.ops import Collective

# Messages to other domains that a rank has under way at a time.
PEERS_AT_ONCE = 8
MESH_ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}


def phases(op: Collective, place: Placement) -> tuple[Phase, ...]:
    """All-to-all anywhere; the others where each pair of the group has a link of its own."""
    if op.op == "all_to_all":
        return all_to_all(op, place)
    if op.op in MESH_ROUNDS and place.full_mesh and place.domains == 1:
        return on_mesh(op, place)
    return ()


def on_mesh(op: Collective, place: Placement) -> tuple[Phase, ...]:
    """Parts to those who reduce them, sums back to all: a round each, over all links at once."""
    rounds, part_bytes = MESH_ROUNDS[op.op], op.bytes / place.ranks
    return (place.inside(rounds, rounds * (place.ranks - 1) * part_bytes), place.copy(part_bytes))


def all_to_all(op: Collective, place: Placement) -> tuple[Phase, ...]:
    """1/ranks of the vector to each peer, over the domain's fabric and the network at once."""
    part_bytes = op.bytes / place.ranks
    near, far = place.domain_ranks - 1, place.ranks - place.domain_ranks
    inside = [place.inside(1, near * part_bytes, place.all_pairs_bytes_per_s)] if near else []
    across = [place.across(ceil(far / PEERS_AT_ONCE), far * part_bytes)] if far else []
    return tuple(replace(p, protocols=MESSAGE_PROTOCOLS) for p in (*inside, *across, place.copy(part_bytes)))


def message(message_bytes: float, place: Placement, *, same_domain: bool) -> Phase:
    """One message to a partner, while all other ranks of the node send theirs."""
    if same_domain:
        phase = place.inside(1, message_bytes, place.pair_bytes_per_s)
    else:
        phase = place.across(1, message_bytes)
    return replace(phase, protocols=MESSAGE_PROTOCOLS)
