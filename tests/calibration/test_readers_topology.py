"""Machines as their tools describe them, and the cluster files that come of them."""

from pathlib import Path

import pytest

from calibration.readers import ReaderError, Topology, cluster_toml, read_topology
from hardware import catalog
from hardware.types import Cluster

FIXTURES = Path(__file__).parent / "fixtures"


def matrix(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row.split()) for row in text.strip().splitlines())


def machine(links: str, **facts: object) -> Topology:
    rows = matrix(links)
    return Topology(source="test", gpus=len(rows), links=rows, **facts)  # type: ignore[arg-type]


def cluster(tmp_path: Path, topology: Topology, device: str, **options: object) -> Cluster:
    path = tmp_path / "mine.toml"
    defaults: dict[str, object] = {"nics": 1, "nic_gb_per_s": 100.0}
    path.write_text(cluster_toml(topology, catalog.device(device), name="mine", **{**defaults, **options}))  # type: ignore[arg-type]
    return catalog.cluster(path)


def test_nvidia_smi_with_colours_empty_cells_and_glued_links():
    found = read_topology(FIXTURES / "nvidia-smi-topo.txt")
    assert found.links == matrix("X NV12 NV12 NV12\nNV12 X NV12 NV12\nNV12 NV12 X NV12\nNV12 NV12 NV12 X")
    assert (found.nics, found.numa) == (("mlx5_0", "mlx5_1"), (0, 0, 1, 1))


def test_rocm_smi_reads_links_and_numa_nodes():
    found = read_topology(FIXTURES / "rocm-smi-topo.txt")
    assert (found.links, found.numa) == (matrix("X XGMI\nXGMI X"), (0, 1))


def test_nccl_xml_sums_links_into_switches_and_knows_the_adapters(tmp_path: Path):
    found = read_topology(FIXTURES / "nccl-topology.xml")
    assert found.links is not None
    assert found.links[0] == ("X", "NV18", "NV18", "NV18")
    made = cluster(tmp_path, found, "h200-sxm", nics=None, nic_gb_per_s=None)
    assert (made.scale_up.name, made.domain_gpus) == ("nvlink-switch", 4)
    assert made.scale_out_bytes_per_s == 4 * 50e9  # the slow management port does not count


@pytest.mark.parametrize(
    ("links", "device", "fabric", "domain"),
    [
        ("X NV18\nNV18 X", "h200-sxm", "nvlink-switch", 2),
        ("X NV12\nNV12 X", "a100-pcie-80g", "nvlink-bridge", 2),
        ("X NV12 SYS SYS\nNV12 X SYS SYS\nSYS SYS X NV12\nSYS SYS NV12 X", "a100-pcie-80g", "nvlink-bridge", 2),
        ("X NV1 NV2\nNV1 X NV1\nNV2 NV1 X", "v100-sxm2-32g", "nvlink-cube-mesh", 3),
        ("X XGMI\nXGMI X", "mi300x", "xgmi-mesh", 2),
        ("X XGMI\nXGMI X", "mi250x-gcd", "infinity-fabric", 2),
        ("X PHB\nPHB X", "l40s", "pcie", 2),
        ("X", "h200-sxm", "pcie", 1),
    ],
)
def test_the_fabric_is_one_that_the_device_is_sold_with(
    tmp_path: Path, links: str, device: str, fabric: str, domain: int
):
    made = cluster(tmp_path, machine(links), device)
    assert (made.scale_up.name, made.domain_gpus, made.device.name) == (fabric, domain, device)
    assert made.scale_up_bytes_per_s == catalog.device(device).links[fabric]
    assert made.scale_out_bytes_per_s == 12.5e9


def test_links_that_the_device_cannot_have_are_refused(tmp_path: Path):
    with pytest.raises(ReaderError, match="l40s is sold with pcie"):
        cluster(tmp_path, machine("X NV4\nNV4 X"), "l40s")


def test_unequal_groups_make_no_cluster_file(tmp_path: Path):
    with pytest.raises(ReaderError, match=r"groups of \[1, 2\] GPUs"):
        cluster(tmp_path, machine("X NV4 SYS\nNV4 X SYS\nSYS SYS X"), "a100-pcie-80g")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("nvidia-smi-topo.txt", "GPU1\tNV12", "GPU1\tNV6", "GPU0 - GPU1: NV12 and NV6 do not fit"),
        ("nvidia-smi-topo.txt", "GPU2\tNV12", "GPU2\tQPI", r":4: unknown link 'QPI'"),
        ("nvidia-smi-topo.txt", "GPU3\tNV12\tNV12\tNV12", "", "no row of GPU3"),
        ("rocm-smi-topo.txt", "GPU1   XGMI", "GPU1   WIFI", r":\d+: link 'WIFI': should be XGMI, PCIE"),
        ("rocm-smi-topo.txt", "Link Type", "Link Tpye", "no section 'Link Type between two GPUs'"),
        ("nccl-topology.xml", '<system version="1">', '<system version="9">', "known is <system>, 1 and 2"),
        ("nccl-topology.xml", "</cpu>", "", r":\d+: is no valid XML"),
        ("nccl-topology.xml", "<system", "<!DOCTYPE a [<!ENTITY b 'c'>]><system", "declares a document type"),
        ("nccl-topology.xml", "0000:00:00.0", "0000:1c:00.0", "leads to itself"),
    ],
)
def test_damage_is_named(tmp_path: Path, file: str, old: str, new: str, message: str):
    content = (FIXTURES / file).read_text("utf-8")
    assert old in content
    (tmp_path / file).write_text(content.replace(old, new), "utf-8")
    with pytest.raises(ReaderError, match=message):
        read_topology(tmp_path / file)


def test_graphs_of_nccl_are_no_machine(tmp_path: Path):
    (tmp_path / "graph.xml").write_text('<graphs version="1"></graphs>')
    with pytest.raises(ReaderError, match="NCCL_TOPO_DUMP_FILE"):
        read_topology(tmp_path / "graph.xml")


def test_a_file_with_several_matrices_is_not_guessed_at(tmp_path: Path):
    content = (FIXTURES / "nvidia-smi-topo.txt").read_text("utf-8")
    (tmp_path / "two.txt").write_text(content + content)
    with pytest.raises(ReaderError, match="has 2 matrices, at lines 1, "):
        read_topology(tmp_path / "two.txt")


def test_a_cloud_file_without_links_takes_those_of_the_data_sheet(tmp_path: Path):
    pci = "".join(f'<pci busid="000{i}:00:00.0" class="0x030200" link_speed="16 GT/s"/>' for i in range(8))
    (tmp_path / "cloud.xml").write_text(f'<system version="1"><cpu numaid="0">{pci}</cpu></system>')
    found = read_topology(tmp_path / "cloud.xml")
    assert (found.gpus, found.links) == (8, None)
    assert cluster(tmp_path, found, "h100-sxm").scale_up.name == "nvlink-switch"
