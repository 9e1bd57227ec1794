"""The machine behind a table of measurements: which cluster its collectives ran on."""

from functools import cache

from calibration.cost.model import CostModel
from calibration.evaluate import Messages
from calibration.fit_messages import Domain
from hardware import catalog
from hardware.descriptor import DescriptorError
from hardware.types import Cluster, Device
from sim import collectives
from sim.message_price import message_prices

USUAL_NODE = 8


@cache
def usual_cluster(device: str) -> str | None:
    """The first of the catalogue that has the device, with 8-GPU nodes where there is one; None where none has it."""
    found = [machine for machine in map(catalog.cluster, catalog.clusters()) if machine.device.name == device]
    if not found:
        return None
    return min(found, key=lambda machine: (machine.gpus_per_node != USUAL_NODE, machine.name)).name


def machine_of(device: Device, cluster: str = "") -> Cluster | None:
    """One node of the cluster of that name, or of the device's usual one; None where the catalogue has none.

    Raises DescriptorError for a cluster of another device.
    """
    name = cluster or usual_cluster(device.name)
    if not name:
        return None
    found = catalog.cluster(name, 1)
    if found.device.name != device.name:
        raise DescriptorError("--cluster", [f"{found.name} has {found.device.name}, not {device.name}"])
    return found


def priced_messages(cluster: Cluster, cost_model: CostModel) -> Messages:
    """Who prices the collectives of a table, within one domain of the cluster."""
    return Messages(gpus=cluster.domain_gpus, price=lambda ops: message_prices(ops, cluster, cost_model))


def domain_of(cluster: Cluster) -> Domain:
    """The ranks of one scale-up domain, as a fit of collectives needs them."""
    return Domain(
        fabric=cluster.scale_up.name,
        gpus=cluster.domain_gpus,
        seconds=lambda ops: collectives.seconds(ops, cluster)[0],
    )
