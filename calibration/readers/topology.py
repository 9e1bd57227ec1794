"""A machine as its tools describe it, and the cluster file that comes of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calibration.readers.record import ReaderError
from hardware.types import Device

# Kinds of links that make a scale-up fabric; anything else is PCIe.
NVLINK, XGMI = "NV", "XGMI"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """GPUs, adapters and links of one node.

    Args:
        source: the file, and what wrote it.
        links: for each pair of GPUs the kind of link: `NV18` (so many NVLinks), `XGMI`, or the way through PCIe
            as nvidia-smi calls it; `X` for a GPU itself. None where the source does not show links.
        nics: names of the network adapters.
        nic_gb_per_s: their rates in Gb/s, where the source says; as many as `nics`, or none.
        numa: node of each GPU; None where it is not known.
        has_nvswitch: whether the source names switches between the GPUs.
    """

    source: str
    gpus: int
    links: tuple[tuple[str, ...], ...] | None = None
    nics: tuple[str, ...] = ()
    nic_gb_per_s: tuple[float, ...] = ()
    numa: tuple[int | None, ...] = ()
    has_nvswitch: bool = False


def cluster_toml(
    topology: Topology,
    device: Device,
    *,
    name: str,
    nics: int | None = None,
    nic_gb_per_s: float | None = None,
    scale_out: str = "infiniband",
) -> str:
    """The text of a cluster file with such nodes, for `hardware.catalog.cluster`. Raises ReaderError.

    Args:
        device: of the catalogue; its data sheet says how fast the links are.
        nics: adapters for training, if not all that are there (storage, management).
        nic_gb_per_s: of each adapter, in Gb/s; needed where the topology does not say.
        scale_out: fabric of the network, a name of the catalogue.
    """
    fabric, domain = _scale_up(topology, device)
    count, rate = _network(topology, nics, nic_gb_per_s)
    lines = [
        f"name = {json.dumps(name)}",
        f"title = {json.dumps(f'{topology.gpus} {device.title}')}",
        f"source = {json.dumps(f'{topology.source}; data sheet of {device.name}')}",
        "",
        f"device = {json.dumps(device.name)}",
        f"gpus_per_node = {topology.gpus}",
        f"domain_gpus = {domain}",
        "",
        "# One device into the scale-up fabric, one node into the network: bytes per second in one direction.",
        *_warnings(topology, device, fabric),
        f"scale_up = {json.dumps(fabric)}",
        f"scale_up_bytes_per_s = {device.links[fabric]!r}",
        f"scale_out = {json.dumps(scale_out)}",
        f"scale_out_bytes_per_s = {count * rate / 8 * 1e9!r} # {count} of {rate:g} Gb/s",
    ]
    return "\n".join(lines) + "\n"


def domains(links: Sequence[Sequence[str]]) -> list[set[int]]:
    """Sets of GPUs that NVLink or xGMI joins, directly or through others."""
    left, found = set(range(len(links))), list[set[int]]()
    while left:
        group, edge = set[int](), {min(left)}
        while edge:
            group |= edge
            edge = {other for one in edge for other in left - group if _is_fast(links[one][other])}
        left -= group
        found.append(group)
    return found


def _is_fast(link: str) -> bool:
    return link.startswith((NVLINK, XGMI))


def _scale_up(topology: Topology, device: Device) -> tuple[str, int]:
    """The fabric, of those that the device is sold with, and how many GPUs it joins."""
    if topology.links is None:
        candidates, size = tuple(each for each in device.links if each != "pcie"), topology.gpus
    else:
        groups = domains(topology.links)
        sizes = sorted({len(group) for group in groups})
        if len(sizes) > 1:
            fault = f"groups of {sizes} GPUs with fast links among them: a cluster file has equal ones"
            raise ReaderError(topology.source, fault)
        candidates, size = tuple(_candidates(topology, topology.links, groups[0])), sizes[0]
    fabric = next((each for each in candidates if each in device.links), None)
    if fabric is None:
        fault = f"links as of {' or '.join(candidates)}; {device.name} is sold with {', '.join(device.links)}"
        raise ReaderError(topology.source, fault)
    return fabric, topology.gpus if fabric == "pcie" else size


def _candidates(topology: Topology, links: Sequence[Sequence[str]], group: set[int]) -> Iterator[str]:
    """Fabrics that look like this, the likeliest first."""
    kinds = [links[one][other] for one in group for other in group if one != other]
    if not kinds:
        yield "pcie"
    elif any(kind.startswith(XGMI) for kind in kinds):
        yield from ("xgmi-mesh", "infinity-fabric")
    elif len(set(kinds)) > 1 and not topology.has_nvswitch:
        yield "nvlink-cube-mesh"
    elif len(group) >= 8 or topology.has_nvswitch:
        yield from ("nvlink-switch", "nvl72", "nvlink-cube-mesh")
    else:
        yield from ("nvlink-bridge", "nvlink-switch", "nvl72", "nvlink-cube-mesh")


def _network(topology: Topology, nics: int | None, gb_per_s: float | None) -> tuple[int, float]:
    """How many adapters carry training, and Gb/s of each."""
    if gb_per_s is None:
        if not topology.nic_gb_per_s:
            raise ReaderError(topology.source, "does not say how fast the adapters are: give nic_gb_per_s")
        gb_per_s = max(topology.nic_gb_per_s)
        found = topology.nic_gb_per_s.count(gb_per_s)
    else:
        found = len(topology.nics)
    count = found if nics is None else nics
    if count < 1 or gb_per_s <= 0:
        raise ReaderError(topology.source, "no network adapter: give nics and nic_gb_per_s of a node")
    return count, gb_per_s


def _warnings(topology: Topology, device: Device, fabric: str) -> Iterator[str]:
    if topology.links is None:
        yield "# The source shows no links between GPUs: those of the data sheet."
    elif fabric == "pcie" and len(device.links) > 1:
        yield "# No NVLink or xGMI in the source, though the device can have it (nvidia-smi topo -mp hides NVLink)."
