"""What collectives and messages cost: worked by hand, bounded by bandwidth, near published measurements."""

from itertools import pairwise

import numpy as np
import pytest

from hardware import catalog
from hardware.types import Cluster
from sim.collectives import Placement, algorithms, candidates, pipeline_s, placement, seconds
from workloads.ops import Collective, CommunicationOp, Exchange, Transfer
from workloads.routing import Routing

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
CLUSTERS = ("dgx-a100-80g", "dgx-h100", "hgx-b200", "mi300x-node", "dgx-1-v100", "gb200-nvl72", "l40s-node")
GROUPS = ((2, 1), (4, 1), (8, 1), (4, 2), (16, 1), (32, 1), (4, 8), (8, 8))
SIZES = tuple(float(2**power) for power in range(9, 34))


def op(kind: str, size: float, ranks: int, stride: int = 1) -> Collective:
    return Collective(op=kind, bytes=size, ranks=ranks, stride=stride)  # type: ignore[arg-type]


def time_s(what: CommunicationOp, cluster: Cluster) -> float:
    return float(seconds([what], cluster)[0][0])


@pytest.fixture
def h100() -> Cluster:
    return catalog.cluster("dgx-h100", 4)


def test_the_folder_holds_five_algorithms():
    assert set(algorithms()) == {"direct", "hierarchical", "in_switch", "ring", "tree"}


def test_ring_all_gather_worked_by_hand(h100):
    # 512 MiB on 8 H100, protocol `simple`: start 5 + 4 us; 7 hops of 2 x 1 us; 7/8 of it at 0.75 x 450 GB/s,
    # and 5 MB to fill the pipeline; own 1/8 copied at 0.6 x 3.352 TB/s, read and written.
    size, rate = 2.0**29, 0.75 * 450e9
    by_hand = 9e-6 + 7 * 2e-6 + (size * 7 / 8 + 5e6) / rate + size / 8 * 2 / (0.6 * 3.352e12)
    assert time_s(op("all_gather", size, 8), h100) == pytest.approx(by_hand, rel=1e-9)
    assert by_hand == pytest.approx(1.497e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("size", "tree"), [(2**16, True), (2**18, False), (2**28, False), (2**29, False), (2**30, True), (2**33, True)]
)
def test_two_nodes_run_rings_but_for_the_smallest_and_the_largest(size: int, tree: bool):
    """As 16 A100 do: 256 MiB in 3.04 ms, 1 GiB in 9.19 ms."""
    pair, four = (catalog.cluster("dgx-a100-40g", nodes) for nodes in (2, 4))
    assert ("tree" in candidates(op("all_reduce", float(size), 16), pair)) == tree
    assert "tree" in candidates(op("all_reduce", float(size), 32), four)
    assert "tree" in candidates(op("all_reduce", float(size), 2, 8), pair)  # one rank of each node: the same either way


@pytest.mark.parametrize(
    ("size", "measured_s"), [(2**25, 452e-6), (2**28, 3.043e-3), (2**30, 9.188e-3), (2**33, 67.69e-3)]
)
def test_all_reduce_on_two_nodes_of_a100_takes_what_it_took(size: int, measured_s: float):
    found = time_s(op("all_reduce", float(size), 16), catalog.cluster("dgx-a100-40g", 2))
    assert found == pytest.approx(measured_s, rel=0.08)


def test_message_over_the_network_worked_by_hand(h100):
    # 16 MB to the next node, an eighth of 400 GB/s at 0.91: start 5 + 4 us, 2 x 5 us, 16 + 5 MB.
    by_hand = 9e-6 + 10e-6 + 21e6 / (0.91 * 50e9)
    assert time_s(Transfer(bytes=16e6, stride=8), h100) == pytest.approx(by_hand, rel=1e-9)


def test_message_within_a_node_worked_by_hand(h100):
    # 16 MB to a neighbour at 1.1 x 0.75 x 450 GB/s: start 5 + 4 us, 2 x 1 us, 16 + 5 MB.
    by_hand = 9e-6 + 2e-6 + 21e6 / (1.1 * 0.75 * 450e9)
    assert time_s(Transfer(bytes=16e6, stride=1), h100) == pytest.approx(by_hand, rel=1e-9)


def test_rows_sent_once_worked_by_hand(h100):
    # 58.7 MB, 8 of 256 experts for a row, 2 nodes of 8: rows go to 1.993 nodes, half of them across, and to 6.5 of 16
    # ranks, 7 of 8 of them handed on. Start 5 + 4 us; 2 x 1 and 2 x 5 us; the network at 0.91 x 50 GB/s is the slower
    # one; 5 MB to fill each; own rows copied at 0.6 x 3.352 TB/s, read and written.
    size, routing = 58.7e6, Routing(256, 8)
    near, far = 1.1 * 0.75 * 450e9, 0.91 * 50e9
    across = size * routing.hit(2) / 2 / far
    copied = size * routing.hit(16) / 16 * 2 / (0.6 * 3.352e12)
    by_hand = 9e-6 + 12e-6 + across + 5e6 / near + 5e6 / far + copied
    exchange = Exchange(bytes=size, ranks=16, routing=routing)
    assert time_s(exchange, h100) == pytest.approx(by_hand, rel=1e-9)
    assert routing.hit(2) == pytest.approx(1.9929, abs=2e-4)


@pytest.mark.parametrize(
    "name", [name for name in CLUSTERS if name != "l40s-node"]
)  # PCIe there is no faster than the network
@pytest.mark.parametrize(("ranks", "stride"), GROUPS)
def test_rows_sent_once_take_no_longer_than_rows_sent_for_each_expert(name, ranks, stride):
    cluster, size = catalog.cluster(name, 8), 2.0**25
    once = time_s(Exchange(bytes=size, ranks=ranks, stride=stride, routing=Routing(256, 8)), cluster)
    assert once <= time_s(op("all_to_all", 8 * size, ranks, stride), cluster) * (1 + 1e-9)


def test_a_broadcast_worked_by_hand(h100):
    # 1 GB to one peer: nothing but 2 x 1 us and the stream at 1.1 x 0.75 x 450 GB/s; to three: 2 of 3 hops fill 5 MB.
    rate = 1.1 * 0.75 * 450e9
    assert time_s(op("broadcast", 1e9, 2), h100) == pytest.approx(9e-6 + 2e-6 + 1e9 / rate, rel=1e-9)
    filled = 9e-6 + 3 * 2e-6 + (1e9 + 5e6 * 2 / 3) / rate
    assert time_s(op("broadcast", 1e9, 4), h100) == pytest.approx(filled, rel=1e-9)


# Single figures of NCCL and RCCL runs: seconds of (device, kind, ranks, bytes).
@pytest.mark.parametrize(
    ("cluster", "kind", "ranks", "size", "measured_s"),
    [
        ("dgx-a100-80g", "all_reduce", 8, 2.0**29, 4.226e-3),
        ("dgx-h100", "all_reduce", 8, 2.0**29, 2.111e-3),
        ("dgx-h100", "all_reduce", 4, 2.0**29, 2.305e-3),
        ("dgx-h100", "all_gather", 8, 2.0**29, 1.401e-3),
        ("dgx-h100", "all_gather", 8, 2.0**25, 123.9e-6),
        ("hgx-b200", "reduce_scatter", 8, 2.0**29, 767.7e-6),
        ("mi300x-node", "all_reduce", 8, 2.0**30, 5.971e-3),
        ("dgx-1-v100", "all_reduce", 8, 2.0**30, 13.97e-3),
        ("dgx-h100", "all_reduce", 16, 2.0**30, 4.485e-3),
        ("dgx-h100", "all_reduce", 32, 2.0**30, 5.809e-3),
    ],
)
def test_large_collectives_are_within_15_percent_of_measurements(cluster, kind, ranks, size, measured_s):
    assert time_s(op(kind, size, ranks), catalog.cluster(cluster, 4)) == pytest.approx(measured_s, rel=0.15)


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_collective_beats_its_bandwidth_bound(name, kind):
    cluster = catalog.cluster(name, 36)
    for ranks, stride in GROUPS:
        place = placement(ranks, stride, cluster)
        times = seconds([op(kind, size, ranks, stride) for size in SIZES], cluster)[0]
        assert (times >= np.array(SIZES) * least_s_per_byte(kind, place, cluster)).all()


def least_s_per_byte(kind: str, place: Placement, cluster: Cluster) -> float:
    """Seconds a byte that no algorithm can do without, at the peak of the links.

    A rank sends what it has to the others of its domain; a domain, what it has to the other domains.
    """
    rate = cluster.scale_up_bytes_per_s
    if place.domains == 1:
        return (place.ranks - 1) / place.ranks / rate
    if kind == "all_to_all":
        far = (place.ranks - place.domain_ranks) / place.ranks
        return far * cluster.gpus_per_node / cluster.scale_out_bytes_per_s
    network = place.domain_ranks * cluster.scale_out_bytes_per_s / cluster.gpus_per_node
    return (place.domains - 1) / place.domains / network


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_time_grows_with_bytes(name, kind):
    cluster = catalog.cluster(name, 36)
    for ranks, stride in GROUPS:
        times = seconds([op(kind, size, ranks, stride) for size in SIZES], cluster)[0]
        assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("name", ["dgx-a100-80g", "dgx-h100", "mi300x-node", "gb200-nvl72"])
@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_to_all"])
def test_more_ranks_are_never_cheaper_at_the_same_bytes_per_rank(name, kind):
    cluster = catalog.cluster(name, 36)
    for per_rank in (1e4, 1e6, 1e8):
        times = [time_s(op(kind, per_rank * ranks, ranks), cluster) for ranks in (2, 4, 8, 16, 32, 64)]
        assert all(few <= many for few, many in pairwise(times))


@pytest.mark.parametrize("name", CLUSTERS)
def test_all_reduce_costs_no_less_than_the_reduce_scatter_in_it(name):
    cluster = catalog.cluster(name, 36)
    for size in SIZES:
        for ranks in (2, 4, 8):
            ranks_up = min(ranks, cluster.domain_gpus)
            reduce_s = time_s(op("reduce_scatter", size, ranks_up), cluster)
            assert time_s(op("all_reduce", size, ranks_up), cluster) >= reduce_s


def test_ring_all_reduce_streams_as_reduce_scatter_and_all_gather_together(h100):
    stream = {kind: candidates(op(kind, 1e9, 8), h100)["ring"][0].stream_s for kind in KINDS if kind != "all_to_all"}
    assert stream["all_reduce"] == pytest.approx(stream["reduce_scatter"] + stream["all_gather"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_one_costs_nothing(kind, h100):
    prices, spreads = seconds([op(kind, 1e9, 1)], h100)
    assert prices[0] == spreads[0] == 0.0


def test_no_ops_no_prices(h100):
    assert [len(column) for column in seconds([], h100)] == [0, 0]


def test_equal_ops_cost_the_same_in_any_order(h100):
    ops = [op("all_reduce", 1e6, 8), Transfer(bytes=1e6, stride=1), op("all_reduce", 1e6, 8)]
    there, back = seconds(ops, h100)[0], seconds(ops[::-1], h100)[0]
    assert there.tolist() == back[::-1].tolist()
    assert there[0] == there[2]


def test_only_devices_that_can_have_the_switch_add_use_it():
    def names(cluster: str) -> set[str]:
        return set(candidates(op("all_reduce", 1e9, 8), catalog.cluster(cluster, 1)))

    assert "in_switch" in names("dgx-h100")
    assert "in_switch" not in names("dgx-a100-80g")


def test_in_switch_helps_eight_gpus_and_not_two(h100):
    def fastest(ranks: int) -> str:
        able = candidates(op("all_reduce", 2.0**29, ranks), h100)
        return min(able, key=lambda name: pipeline_s(able[name]))

    assert (fastest(2), fastest(8)) == ("ring", "in_switch")


def test_a_group_of_one_rank_a_node_has_one_share_of_the_network(h100):
    rail, node = placement(4, 8, h100), placement(32, 1, h100)
    assert (rail.domain_ranks, rail.domains, rail.node_ranks) == (1, 4, 1)
    assert (node.domain_ranks, node.domains) == (8, 4)
    assert node.network_share == pytest.approx(8 * rail.network_share)


def test_groups_that_do_not_divide_a_rack_are_spread_evenly():
    rack = catalog.cluster("gb200-nvl72", 36)
    assert placement(64, 1, rack).domains == 1
    assert placement(8, 8, rack).domain_ranks == 8
    spread = placement(16, 8, rack)
    assert (spread.domain_ranks, spread.domains) == (8, 2)


def test_a_pair_on_a_mesh_has_one_link():
    place = placement(2, 1, catalog.cluster("mi300x-node", 1))
    assert place.up_bytes_per_s == pytest.approx(448e9 / 7 * 0.71)


@pytest.mark.parametrize(("ranks", "links"), [(2, 1), (3, 2), (6, 2), (8, 6)])
def test_a_group_in_a_cube_mesh_has_the_rings_that_its_links_allow(ranks, links):
    """Of six links of 25 GB/s; 0.9 of them is used."""
    place = placement(ranks, 1, catalog.cluster("dgx-1-v100", 1))
    assert place.up_bytes_per_s == pytest.approx(links * 25e9 * 0.9)


def test_a_message_leaves_the_domain_where_its_partner_does(h100):
    inside, outside = Transfer(bytes=1e8, stride=1, source=6), Transfer(bytes=1e8, stride=1, source=7)
    assert time_s(outside, h100) > 5 * time_s(inside, h100)


@pytest.mark.parametrize(("ranks", "stride"), [(0, 1), (2, 0)])
def test_an_empty_group_is_an_error_that_says_what_is_wrong(ranks, stride, h100):
    with pytest.raises(ValueError, match="ranks >= 1 and stride >= 1"):
        placement(ranks, stride, h100)
