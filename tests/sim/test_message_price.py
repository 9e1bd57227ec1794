"""Collectives where measurements are at hand: within one domain, of measured ranks, on the profile's own machine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.cost.learned import Learned
from calibration.cost.model import CostModel, Prices
from calibration.cost.physics import Physics
from calibration.fit_messages import fingerprint, within
from calibration.profile import FOLDER, load
from calibration.table import Measurement, op_of, read_table
from hardware import catalog
from hardware.types import Cluster
from sim import collectives
from sim.machine import domain_of, machine_of
from sim.message_price import message_prices
from sim.price import price
from sim.pricing_table import Machines, price_table
from sim.profiles import cost_model
from workloads.ops import Collective, CommunicationOp, Transfer

MEASURED = FOLDER / "h200-sxm" / "torch-2.11-cu130"
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
PAIR = Collective(op="all_gather", bytes=3e6, ranks=2)


@pytest.fixture(scope="module")
def node() -> Cluster:
    return catalog.cluster("hgx-h200", 2)


@pytest.fixture(scope="module")
def learned(node: Cluster) -> CostModel:
    found = cost_model(node.device)
    assert isinstance(found, Learned)
    return found


def held_out() -> list[Measurement]:
    rows = read_table(MEASURED / "held_out.csv")
    return [row for row in rows if isinstance(op_of(row), Collective | Transfer) and within(row, 8)]


def prices(ops: list[CommunicationOp], on: Cluster, model: CostModel) -> Prices:
    return message_prices(ops, on, model)


def physics(op: CommunicationOp, on: Cluster) -> tuple[float, float]:
    seconds, spread = collectives.seconds([op], on)
    return seconds[0], spread[0]


def one(op: CommunicationOp, on: Cluster, model: CostModel) -> tuple[float, float]:
    found = prices([op], on, model)
    return found.seconds[0], found.spread[0]


def test_held_out_collectives_are_priced_within_a_few_percent(node: Cluster, learned: CostModel):
    rows = held_out()
    assert len(rows) > 500
    found = prices([op_of(row) for row in rows], node, learned)  # type: ignore[misc]
    errors = np.abs(found.seconds / np.array([row.time_s for row in rows]) - 1)
    assert np.median(errors) < 0.02
    assert errors.mean() < 0.03


def test_a_step_and_a_table_have_the_same_prices(node: Cluster, learned: CostModel, tmp_path: Path):
    expected = one(PAIR, node, learned)[0]
    assert expected != physics(PAIR, node)[0]
    assert price([PAIR], node, learned)[PAIR].seconds == expected
    table = tmp_path / "table.csv"
    table.write_text("op,device,ranks,bytes\nall_gather,h200-sxm,2,3e6\n", "utf-8")
    assert float(price_table(table, Machines()).rows[0]["predicted_s"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "op",
    [
        replace(PAIR, ranks=3),
        replace(PAIR, ranks=8),
        replace(PAIR, stride=8),
        replace(PAIR, bytes=1e12),
        Transfer(bytes=3e6, stride=8),
        Transfer(bytes=3e6, stride=1, source=7),
    ],
    ids=str,
)
def test_other_ranks_sizes_and_nodes_are_physics_alone(node: Cluster, learned: CostModel, op: CommunicationOp):
    assert one(op, node, learned) == physics(op, node)


def test_another_fabric_device_or_model_is_physics_alone(node: Cluster, learned: CostModel):
    pcie = replace(node, scale_up=catalog.fabric("pcie"), scale_up_bytes_per_s=63e9)
    for on, model in ((pcie, learned), (catalog.cluster("dgx-h100", 1), learned), (node, Physics())):
        assert one(PAIR, on, model) == physics(PAIR, on)


def test_measured_prices_are_surer(node: Cluster, learned: CostModel):
    assert one(PAIR, node, learned)[1] < 0.5 * physics(PAIR, node)[1]


def test_nothing_to_send_costs_nothing_and_is_sure(node: Cluster, learned: CostModel):
    for op in (replace(PAIR, bytes=0.0), replace(PAIR, ranks=1), Transfer(bytes=0.0, stride=1)):
        assert one(op, node, learned) == (0.0, 0.0)
    assert prices([], node, learned).seconds.size == 0


def test_a_bulk_price_is_the_price_of_each(node: Cluster, learned: CostModel):
    ops: list[CommunicationOp] = [PAIR, Transfer(bytes=1e7, stride=1), replace(PAIR, ranks=8), replace(PAIR, bytes=1e9)]
    assert prices(ops, node, learned).seconds.tolist() == [one(op, node, learned)[0] for op in ops]


@pytest.mark.parametrize("kind", [*KINDS, "send_recv"])
def test_time_grows_with_bytes_and_never_beats_the_links(node: Cluster, learned: CostModel, kind: str):
    """From the least measured size to far beyond the largest."""
    sizes = np.exp2(np.arange(10.5, 36, 0.25))
    ops = [message(kind, float(size)) for size in sizes]
    seconds = prices(ops, node, learned).seconds
    assert (np.diff(seconds) > -0.02 * seconds[1:]).all()
    sent = sizes if kind in ("all_reduce", "broadcast", "send_recv") else sizes / 2
    assert (seconds > sent / node.scale_up_bytes_per_s).all()


def message(kind: str, size: float) -> CommunicationOp:
    if kind == "send_recv":
        return Transfer(bytes=size, stride=1)
    return Collective(op=kind, bytes=size, ranks=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*/profile.npz")), ids=lambda path: str(path.parent.name))
def test_a_profile_that_ships_was_fitted_on_this_physics_of_collectives(path: Path):
    """If this fails, the closed form or its data changed: fit the profile again from the measurements beside it."""
    found = load(path)
    machine = machine_of(catalog.device(found.device))
    if found.messages:
        assert machine is not None
        assert fingerprint(domain_of(machine), found.messages.kinds) == found.messages.base_sha256
