"""Where the members of a group stand, and what of the fabrics each of them has."""

from dataclasses import dataclass
from math import ceil

from hardware.types import Cluster
from sim.collectives.phase import Phase

# Of the memory bandwidth, reached by the copy of a rank's own part: a collective runs on few SMs.
COPY_SHARE = 0.6

# Fixed time of a collective where the fabric names no other: between the fitted 5 us (H100) and 10 us (A100).
START_S = 8e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A group of equal ranks on a cluster; all groups of its kind are busy at once.

    Args:
        domain_ranks: members in one scale-up domain.
        domains: that the group spans.
        node_ranks: members in one node.
        up_bytes_per_s: a member sends to its neighbours in the domain.
        all_pairs_bytes_per_s: a member sends when all members talk to all others.
        pair_bytes_per_s: a member sends to a single peer in the domain.
        out_bytes_per_s: a member's part of its node's network.
        in_switch_bytes_per_s: a member sends when the switch reduces; zero where it cannot.
        full_mesh: every two devices of a domain share a link of their own.
        copy_bytes_per_s: a device copies within its memory, read and write counted once.
    """

    ranks: int
    stride: int
    domain_ranks: int
    domains: int
    node_ranks: int
    up_bytes_per_s: float
    all_pairs_bytes_per_s: float
    pair_bytes_per_s: float
    out_bytes_per_s: float
    in_switch_bytes_per_s: float
    full_mesh: bool
    copy_bytes_per_s: float
    start_s: float
    up_latency_s: float
    out_latency_s: float
    up_pipeline_bytes: float
    out_pipeline_bytes: float

    @property
    def network_share(self) -> float:
        """What the members of one domain can send into the network together, bytes per second."""
        return self.out_bytes_per_s * self.domain_ranks

    def inside(self, rounds: float, sent_bytes: float, bytes_per_s: float | None = None) -> Phase:
        """Phase in which a member sends `sent_bytes` within its domain."""
        return Phase(
            fabric="scale_up",
            rounds=rounds,
            bytes=sent_bytes / rounds,
            bytes_per_s=bytes_per_s or self.up_bytes_per_s,
            latency_s=self.up_latency_s,
            pipeline_bytes=self.up_pipeline_bytes,
        )

    def across(self, rounds: float, sent_bytes: float) -> Phase:
        """Phase in which a member sends `sent_bytes` to other domains."""
        return Phase(
            fabric="scale_out",
            rounds=rounds,
            bytes=sent_bytes / rounds,
            bytes_per_s=self.out_bytes_per_s,
            latency_s=self.out_latency_s,
            pipeline_bytes=self.out_pipeline_bytes,
        )

    def copy(self, copied_bytes: float) -> Phase:
        """Phase in which a rank copies its own part of the data to where the result belongs."""
        return Phase(fabric="memory", rounds=1, bytes=copied_bytes, bytes_per_s=self.copy_bytes_per_s, latency_s=0.0)


def placement(ranks: int, stride: int, cluster: Cluster) -> Placement:
    """Place `ranks` members that stand `stride` apart in the order of global ranks.

    Global rank r is in node r // gpus_per_node and domain r // domain_gpus. Where a group does not divide
    into domains evenly, the members are spread as evenly as the number of domains allows.
    """
    if ranks < 1 or stride < 1:
        raise ValueError(f"a group needs ranks >= 1 and stride >= 1, got ranks={ranks}, stride={stride}")
    most = max(1, min(ranks, cluster.domain_gpus // stride))
    domains = ceil(ranks / most)
    members = ceil(ranks / domains)
    up, out, device = cluster.scale_up, cluster.scale_out, cluster.device
    rate = cluster.scale_up_bytes_per_s * up.utilisation
    links = links_share(members, stride, cluster)
    architecture = device.architecture.name
    messages = rate * up.message_share.get(architecture, 1.0)
    return Placement(
        ranks=ranks,
        stride=stride,
        domain_ranks=members,
        domains=domains,
        node_ranks=max(1, min(members, cluster.gpus_per_node // stride)),
        up_bytes_per_s=rate * links,
        all_pairs_bytes_per_s=messages * links * bridge_share(members, cluster),
        pair_bytes_per_s=messages * up.pair_share,
        out_bytes_per_s=cluster.scale_out_bytes_per_s * out.utilisation / cluster.gpus_per_node,
        in_switch_bytes_per_s=cluster.scale_up_bytes_per_s * up.in_switch_share.get(architecture, 0.0),
        full_mesh=is_full_mesh(cluster),
        copy_bytes_per_s=COPY_SHARE * device.memory_bytes_per_s / 2,
        start_s=up.start_s.get(architecture, up.start_s.get("other", START_S)),
        up_latency_s=up.latency_s,
        out_latency_s=out.latency_s,
        up_pipeline_bytes=up.pipeline_bytes * links,
        out_pipeline_bytes=out.pipeline_bytes,
    )


def is_full_mesh(cluster: Cluster) -> bool:
    """Whether the links of a device, one for each peer, are as many as its peers."""
    peers = cluster.domain_gpus - 1
    return cluster.scale_up.topology == "mesh" and peers * cluster.scale_up.pair_share < 1.01


def links_share(members: int, stride: int, cluster: Cluster) -> float:
    """Share of a device's bandwidth that a group uses: the links to its other members.

    Below a shared host bridge, the groups that interleave with this one divide it.
    """
    if cluster.scale_up.topology == "tree":
        return 1.0 / max(1, min(stride, cluster.domain_gpus // members))
    links = cluster.scale_up.rings.get(str(members), max(1, members - 1))
    return min(1.0, cluster.scale_up.pair_share * links)


def bridge_share(members: int, cluster: Cluster) -> float:
    """Share left when all talk to all: a bridge in the middle carries members/2 x members/2 parts."""
    return min(1.0, 4.0 / members) if cluster.scale_up.topology == "tree" else 1.0
