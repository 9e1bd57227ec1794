import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

import hardware
from hardware import catalog
from hardware.descriptor import DescriptorError
from hardware.types import Cluster, Device

FOLDER = Path(hardware.__file__).parent
KINDS: dict[str, tuple[Callable[[], tuple[str, ...]], Callable[..., object]]] = {
    "architectures": (catalog.architectures, catalog.architecture),
    "devices": (catalog.devices, catalog.device),
    "fabrics": (catalog.fabrics, catalog.fabric),
    "clusters": (catalog.clusters, catalog.cluster),
}
ENTRIES = [(kind, path.stem) for kind in KINDS for path in sorted((FOLDER / kind).glob("*.toml"))]
# Bytes per FLOP fall from one format to the next, so the rates must not.
NARROWING = ["fp64", "fp32", "tf32", "bf16", "fp8", "nvfp4"]


@pytest.fixture(params=catalog.devices())
def device(request: pytest.FixtureRequest) -> Device:
    return catalog.device(request.param)


@pytest.fixture(params=catalog.clusters())
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return catalog.cluster(request.param)


# Laws of every file.


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_file_reads_and_bears_its_own_name(kind: str, name: str):
    names, look_up = KINDS[kind]
    assert name in names()
    assert getattr(look_up(name), "name") == name  # noqa: B009


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_file_names_its_source(kind: str, name: str):
    assert len(getattr(KINDS[kind][1](name), "source")) > 10  # noqa: B009


def test_a_file_is_read_once():
    assert catalog.device("h100-sxm") is catalog.device("h100-sxm")
    assert catalog.cluster("dgx-h100").device is catalog.device("h100-sxm")


# Laws of every device.


def test_what_the_data_sheet_does_not_print_has_a_source_of_its_own(device: Device):
    assert {"memory_bytes", "l2_bytes", "boost_clock_hz", "links"} <= device.sources.keys()
    assert all(len(source) > 10 for source in device.sources.values())


def test_sources_belong_to_numbers_that_are_there(device: Device):
    assert device.sources.keys() <= {field.name for field in fields(Device)}


def test_every_device_is_sold_from_the_first_day_of_a_month_on(device: Device):
    assert device.sold_from and device.sold_from.day == 1
    assert "sold_from" in device.sources


def test_narrower_formats_are_not_slower(device: Device):
    rates = [device.tensor_flops_per_s[dtype] for dtype in NARROWING if dtype in device.tensor_flops_per_s]
    assert rates == sorted(rates)


@pytest.mark.parametrize(("wide", "narrow"), [("tf32", "bf16"), ("bf16", "fp8"), ("fp8", "nvfp4")])
def test_half_the_width_is_twice_the_rate(device: Device, wide: str, narrow: str):
    rates = device.tensor_flops_per_s
    if wide in rates and narrow in rates:
        assert 1.9 <= rates[narrow] / rates[wide] <= 3.1  # 3: dense fp4 of Blackwell Ultra


def test_the_two_16_bit_formats_are_equally_fast(device: Device):
    rates = device.tensor_flops_per_s
    share = 0.5 if device.architecture.name == "cdna1" else 1.0
    assert "bf16" not in rates or rates["bf16"] == share * rates["fp16"]


def test_matrix_units_beat_vector_units(device: Device):
    common = device.tensor_flops_per_s.keys() & device.vector_flops_per_s.keys()
    assert all(device.tensor_flops_per_s[dtype] >= device.vector_flops_per_s[dtype] for dtype in common)


def test_dense_16_bit_rate_is_a_power_of_two_for_each_unit_and_clock(device: Device):
    """Catches a sparse figure that was not halved, a wrong clock and a wrong number of units."""
    if "fp16" not in device.tensor_flops_per_s:
        return
    each = device.tensor_flops_per_s["fp16"] / (device.sm_count * device.boost_clock_hz)
    assert min(abs(each / 2**power - 1) for power in range(9, 14)) < 0.07


def test_fp32_of_nvidia_runs_on_vector_units_only(device: Device):
    assert device.vector_flops_per_s["fp32"] > 0
    assert device.vendor == "amd" or "fp32" not in device.tensor_flops_per_s


def test_memory_is_plausible(device: Device):
    assert 7e9 < device.memory_bytes < 320e9
    assert 0.19e12 < device.memory_bytes_per_s < 10e12
    assert 2e6 < device.l2_bytes < 150e6
    # A pass over the whole memory takes some tens of milliseconds on every card sold.
    assert 0.01 < device.memory_bytes / device.memory_bytes_per_s < 0.09


def test_clock_and_power_are_plausible(device: Device):
    assert 1.0e9 < device.boost_clock_hz < 3e9
    assert 70 <= device.power_limit_w <= 1500


def test_every_device_has_a_host_link_and_known_links(device: Device):
    assert "pcie" in device.links
    assert device.links.keys() <= set(catalog.fabrics())
    assert all(rate < device.memory_bytes_per_s for rate in device.links.values())


# Laws of every cluster.


def test_the_scale_up_fabric_is_one_that_the_device_is_sold_with(cluster: Cluster):
    assert cluster.scale_up_bytes_per_s == cluster.device.links[cluster.scale_up.name]


def test_a_domain_is_whole_nodes_or_a_node_is_whole_domains(cluster: Cluster):
    small, large = sorted((cluster.domain_gpus, cluster.gpus_per_node))
    assert large % small == 0


def test_the_network_is_slower_than_the_scale_up_fabric(cluster: Cluster):
    assert cluster.scale_out_bytes_per_s < cluster.gpus_per_node * cluster.scale_up_bytes_per_s


def test_a_cluster_has_one_node_unless_told_otherwise(cluster: Cluster):
    assert cluster.nodes == 1
    assert catalog.cluster(cluster.name, nodes=3).gpus == 3 * cluster.gpus_per_node


@pytest.mark.parametrize("device_name", catalog.devices())
def test_every_fabric_and_device_can_be_put_into_a_cluster(tmp_path: Path, device_name: str):
    for fabric, rate in catalog.device(device_name).links.items():
        text = cluster_text(device=f'"{device_name}"', scale_up=f'"{fabric}"', scale_up_bytes_per_s=rate)
        assert catalog.cluster(in_file(tmp_path, text)).scale_up.name == fabric


# Worked by hand.


def test_h100_tensor_rate_by_hand():
    """132 SMs x 4 tensor cores x 512 multiply-adds x 2 x 1.83 GHz = 989.4 TFLOP/s."""
    by_hand = 132 * 4 * 512 * 2 * 1.83e9
    assert catalog.device("h100-sxm").tensor_flops_per_s["bf16"] == pytest.approx(by_hand, rel=1e-3)


def test_mi300x_matrix_rate_by_hand():
    """304 compute units x 2048 FLOP x 2.1 GHz = 1307.4 TFLOP/s."""
    by_hand = 304 * 2048 * 2.1e9
    assert catalog.device("mi300x").tensor_flops_per_s["bf16"] == pytest.approx(by_hand, rel=1e-3)


def test_l40s_sparse_figures_of_the_data_sheet_are_halved():
    """The sheet prints fp8 as 733 | 1466 TFLOP/s."""
    assert catalog.device("l40s").tensor_flops_per_s["fp8"] == 733e12


def test_h20_and_h800_are_cut_where_the_export_rules_cut_them():
    h20, h800, h100 = (catalog.device(name) for name in ("h20", "h800-sxm", "h100-sxm"))
    assert h20.tensor_flops_per_s["bf16"] == 148e12
    assert h20.links == h100.links
    assert h800.tensor_flops_per_s["bf16"] == h100.tensor_flops_per_s["bf16"]
    assert h800.links["nvlink-switch"] == 400e9 / 2


def test_links_of_the_meshes_by_hand():
    assert catalog.device("v100-sxm2-16g").links["nvlink-cube-mesh"] == 6 * 25e9
    assert catalog.device("mi300x").links["xgmi-mesh"] == 7 * 64e9
    assert catalog.device("mi355x").links["xgmi-mesh"] == pytest.approx(7 * 76.8e9)


def test_one_die_of_an_mi250x_is_half_of_it():
    die = catalog.device("mi250x-gcd")
    assert die.tensor_flops_per_s["bf16"] == 383e12 / 2
    assert die.memory_bytes_per_s == 3276.8e9 / 2
    assert die.sm_count == 220 / 2


def test_eight_adapters_of_200_gbit_are_200_gbyte():
    assert catalog.cluster("dgx-a100-80g").scale_out_bytes_per_s == 8 * 200e9 / 8


def test_a_rack_of_nvl72_is_one_domain_of_eighteen_trays():
    rack = catalog.cluster("gb200-nvl72", nodes=18)
    assert rack.gpus == rack.domain_gpus == 72


# What goes wrong.


def cluster_text(**changes: object) -> str:
    values: dict[str, object] = {
        "name": '"mine"',
        "title": '"My cluster"',
        "source": '"the invoice"',
        "device": '"h200-sxm"',
        "gpus_per_node": 8,
        "domain_gpus": 8,
        "scale_up": '"nvlink-switch"',
        "scale_up_bytes_per_s": 450e9,
        "scale_out": '"infiniband"',
        "scale_out_bytes_per_s": 400e9,
    }
    return "\n".join(f"{key} = {value}" for key, value in (values | changes).items())


def in_file(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_a_cluster_of_ones_own_is_a_file(tmp_path: Path):
    path = in_file(tmp_path, cluster_text(nodes=16))
    assert catalog.cluster(path).gpus == catalog.cluster(str(path)).gpus == 128
    assert catalog.cluster(path, nodes=2).gpus == 16


def test_a_changed_file_is_read_again(tmp_path: Path):
    path = in_file(tmp_path, cluster_text())
    assert catalog.cluster(path).nodes == 1
    path.unlink()
    in_file(tmp_path, cluster_text(nodes=2))
    assert catalog.cluster(path).nodes == 2


def test_a_device_of_ones_own_stands_beside_the_cluster_that_uses_it(tmp_path: Path):
    text = (FOLDER / "devices" / "h200-sxm.toml").read_text("utf-8").replace("h200-sxm", "h300")
    in_file(tmp_path, text, "h300.toml")
    path = in_file(tmp_path, cluster_text(device='"h300.toml"'))
    assert catalog.cluster(path).device.name == "h300"


@pytest.mark.parametrize(("kind", "name"), [("devices", "h900"), ("clusters", "dgx-h900"), ("fabrics", "nvlynk")])
def test_an_unknown_name_is_answered_with_the_known_ones(kind: str, name: str):
    names, look_up = KINDS[kind]
    with pytest.raises(DescriptorError) as caught:
        look_up(name)
    assert str(caught.value).startswith(f"no {kind[:-1]} '{name}'; nearest: ")
    assert str(caught.value).endswith(", ".join(names()))


def test_the_nearest_device_is_the_one_meant():
    with pytest.raises(DescriptorError, match="nearest: h100-nvl, h100-pcie, h100-sxm;"):
        catalog.device("h100")


@pytest.mark.parametrize("name", ["", " ", "../devices/h100-sxm", "H100-SXM", "h100-sxm\n", "h100\x00"])
def test_names_that_are_no_names_are_unknown(name: str):
    with pytest.raises(DescriptorError, match="no device "):
        catalog.device(name)


@pytest.mark.parametrize("path", ["none.toml", "a\x00.toml", "folder/none.toml", Path("none")])
def test_a_path_that_leads_nowhere_is_said(path: str | Path):
    with pytest.raises(DescriptorError) as caught:
        catalog.device(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("nodes", [0, -1, 2.0, True, "4"])
def test_a_number_of_nodes_that_cannot_be_is_refused(nodes: object):
    with pytest.raises(DescriptorError, match="cluster 'dgx-h100': nodes = "):
        catalog.cluster("dgx-h100", nodes=nodes)  # type: ignore[arg-type]


def test_all_faults_of_a_cluster_come_at_once_names_included(tmp_path: Path):
    text = cluster_text(device='"h900"', scale_up='"nvlynk-switch"', gpus_per_node="-8", racks=2, scale_out=3)
    with pytest.raises(DescriptorError) as caught:
        catalog.cluster(in_file(tmp_path, text))
    faults = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 5
    assert "device: no device 'h900'; nearest: h100-nvl" in faults
    assert "scale_up: no fabric 'nvlynk-switch'; nearest: nvlink-switch" in faults
    assert "scale_out: 3 should be the name of a fabric" in faults
    assert "gpus_per_node = -8: should be greater than 0" in faults
    assert "racks: no key 'racks'" in faults


def test_faults_of_a_device_file_name_that_file(tmp_path: Path):
    in_file(tmp_path, 'name = "h300"\narchitecture = "hopper"', "h300.toml")
    with pytest.raises(DescriptorError) as caught:
        catalog.cluster(in_file(tmp_path, cluster_text(device='"h300.toml"')))
    assert all(fault.startswith(f"device: {tmp_path / 'h300.toml'}: ") for fault in caught.value.faults)


def test_a_domain_that_cuts_nodes_is_refused(tmp_path: Path):
    with pytest.raises(DescriptorError, match="domain_gpus = 12: should be a multiple or a divisor of"):
        catalog.cluster(in_file(tmp_path, cluster_text(domain_gpus=12)))


def test_softmax_of_a_kernel_that_there_is_not_is_refused(tmp_path: Path):
    text = (FOLDER / "architectures" / "ampere.toml").read_text("utf-8").replace("triton = [20.0", "tritn = [20.0")
    in_file(tmp_path, text, "mine.toml")
    with pytest.raises(DescriptorError, match="attention_softmax: no kernel of attention_share 'tritn'; nearest: trit"):
        catalog.architecture("mine.toml", tmp_path)


def test_the_minimal_cluster_file_has_no_key_too_many():
    wanted = {field.name for field in fields(Cluster)} - {"nodes"}
    assert tomllib.loads(cluster_text()).keys() == wanted


def test_an_architecture_says_what_it_is_like_and_differs_in():
    chip, other = catalog.architecture("ampere-ga10x"), catalog.architecture("ampere")
    assert replace(chip, name=other.name, source=other.source, vector_share=other.vector_share) == other
    assert chip.vector_share < other.vector_share


def test_an_architecture_is_like_one_that_there_is(tmp_path: Path):
    path = in_file(tmp_path, 'name = "own"\nsource = "mine"\nlike = "amper"', "own.toml")
    with pytest.raises(DescriptorError, match="like: no architecture 'amper'; nearest: ampere"):
        catalog.architecture(path)
