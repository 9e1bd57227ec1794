"""NCCL's and RCCL's topology (`NCCL_TOPO_DUMP_FILE`), and files of that form that clouds ship for their machines."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from calibration.readers.record import ReaderError
from calibration.readers.text import text
from calibration.readers.topology import NVLINK, XGMI, Topology

NAME = "nccl-topology"
TITLE = "NCCL or RCCL topology, XML"
VERSIONS = ("1", "2")
# Beginnings of PCI classes: 3D and display controllers, accelerators; InfiniBand and Ethernet; bridges as NVSwitch.
GPU_CLASSES, NIC_CLASSES, SWITCH_CLASS = ("0x0302", "0x0380", "0x1200"), ("0x0207", "0x0200"), "0x0680"


def claims(head: str, path: Path) -> bool:
    """Its root, after comments."""
    del path
    return bool(re.search(r"<(?:system|graphs) version=", head[:4096]))


def topology(path: Path) -> Topology:
    """The machine. Raises ReaderError."""
    root = _root(path)
    _check_targets(path, root)
    parents = {child: parent for parent in root.iter() for child in parent}
    _check_numbers(path, root)
    gpus = _gpus(root, parents)
    if not gpus:
        raise ReaderError(path, "no GPU: neither <gpu> nor a <pci> of its class")
    nets = _nets(root)
    known = any(True for _ in root.iter("gpu"))
    return Topology(
        source=f"NCCL topology ({path.name})",
        gpus=len(gpus),
        links=_links(gpus, parents) if known else None,
        nics=tuple(name for name, _ in nets),
        nic_gb_per_s=tuple(rate for _, rate in nets if rate) if all(rate for _, rate in nets) else (),
        numa=tuple(_numa(_cpu(gpu, parents)) for gpu in gpus),
        has_nvswitch=any(link.get("tclass", "").startswith(SWITCH_CLASS) for link in root.iter("nvlink")),
    )


def _root(path: Path) -> Element:
    content = text(path)
    if re.search(r"<!(DOCTYPE|ENTITY)", content, re.IGNORECASE):
        raise ReaderError(path, "declares a document type or entities, which NCCL never writes: not read")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ReaderError(path, f"is no valid XML ({error.msg.split(':')[0]})", error.position[0]) from None
    if root.tag == "graphs":
        raise ReaderError(path, "holds NCCL's graphs (NCCL_GRAPH_DUMP_FILE), no machine: NCCL_TOPO_DUMP_FILE does")
    if root.tag != "system" or root.get("version") not in VERSIONS:
        raise ReaderError(path, f"<{root.tag} version={root.get('version')!r}>: known is <system>, 1 and 2")
    return root


def _check_targets(path: Path, root: Element) -> None:
    for pci in root.iter("pci"):
        for link in pci.findall("gpu/nvlink"):
            if _joins(link, pci):
                fault = f"the NVLink of {pci.get('busid')} leads to itself: the file does not say which GPUs are linked"
                raise ReaderError(path, fault)


def _check_numbers(path: Path, root: Element) -> None:
    for element in root.iter():
        for name in ("dev", "count"):
            value = element.get(name, "0")
            if element.tag in ("gpu", "nvlink", "xgmi") and not re.fullmatch(r"\d{1,4}", value):
                raise ReaderError(path, f"<{element.tag} {name}={value[:20]!r}>: should be a whole number")


def _gpus(root: Element, parents: dict[Element, Element]) -> list[Element]:
    """The <pci> of each GPU, in NCCL's order; of a file without <gpu> those of a GPU's class."""
    named = sorted(root.iter("gpu"), key=lambda gpu: int(gpu.get("dev", "0")))
    if named:
        return [parents[gpu] for gpu in named]
    return [pci for pci in root.iter("pci") if pci.get("class", "").startswith(GPU_CLASSES)]


def _nets(root: Element) -> list[tuple[str, float]]:
    """Name and Gb/s of each adapter; 0 where the file does not say."""
    found = {net.get("name", ""): float(_number(net.get("speed", ""))) / 1000 for net in root.iter("net")}
    if found:
        return list(found.items())
    return [(pci.get("busid", ""), 0.0) for pci in root.iter("pci") if pci.get("class", "").startswith(NIC_CLASSES)]


def _number(value: str) -> str:
    return value if re.fullmatch(r"\d+(\.\d+)?", value) else "0"


def _links(gpus: list[Element], parents: dict[Element, Element]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(_link(one, other, parents) for other in gpus) for one in gpus)


def _link(one: Element, other: Element, parents: dict[Element, Element]) -> str:
    if one is other:
        return "X"
    if any(_joins(link, other) for link in one.iter("xgmi")):
        return XGMI
    direct = sum(int(link.get("count", "1")) for link in one.iter("nvlink") if _joins(link, other))
    switched = min(_switched(one), _switched(other))
    if direct or switched:
        return f"{NVLINK}{direct or switched}"
    if _cpu(one, parents) is not _cpu(other, parents):
        return "SYS"
    bridges = ({each for each in _ancestors(gpu, parents) if each.tag == "pci"} for gpu in (one, other))
    return "PXB" if set.intersection(*bridges) else "NODE"


def _joins(link: Element, other: Element) -> bool:
    return link.get("target", "").lower() == other.get("busid", "-").lower()


def _switched(gpu: Element) -> int:
    """NVLinks of a GPU into switches."""
    links = (link for link in gpu.iter("nvlink") if link.get("tclass", "").startswith(SWITCH_CLASS))
    return sum(int(link.get("count", "1")) for link in links)


def _ancestors(element: Element, parents: dict[Element, Element]) -> Iterator[Element]:
    while element in parents:
        element = parents[element]
        yield element


def _cpu(gpu: Element, parents: dict[Element, Element]) -> Element | None:
    return next((each for each in _ancestors(gpu, parents) if each.tag == "cpu"), None)


def _numa(cpu: Element | None) -> int | None:
    value = cpu.get("numaid", "") if cpu is not None else ""
    return int(value) if value.isdigit() else None
