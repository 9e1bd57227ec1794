"""What holds for every device of the catalogue, then a few figures that others measured."""

from dataclasses import replace

import numpy as np
import pytest

from calibration.cost.physics import Physics
from hardware import catalog
from hardware.types import Device
from workloads.ops import Attention, ComputeOp, Direction, Gemm, Layout, Pointwise, traffic_table

TRAINING, BURST = Physics(sustained=True), Physics()
# Tiles, waves and splits of k: a slightly larger problem may fall on a better choice.
QUANTISATION = 1.35


@pytest.fixture(params=catalog.devices())
def device(request: pytest.FixtureRequest) -> Device:
    return catalog.device(request.param)


def price_s(op: ComputeOp, device: Device, model: Physics = TRAINING) -> float:
    return float(model.price([op], device).seconds[0])


def dtype_of(device: Device) -> str:
    return "fp16" if "fp16" in device.tensor_flops_per_s else "fp32"


def gemms(device: Device) -> list[Gemm]:
    sizes = (1, 8, 77, 128, 1000, 4096, 9000)
    dtype = dtype_of(device)
    return [Gemm(m=m, n=n, k=k, dtype=dtype, out_dtype=dtype) for m in sizes for n in sizes for k in sizes]


def attention(**changes: object) -> Attention:
    shape = {"batch": 2, "seq_q": 2048, "seq_kv": 2048, "heads": 32, "kv_heads": 8, "head_dim": 128}
    return Attention(**{**shape, "dtype": "fp16", **changes})  # type: ignore[arg-type]


def peak(device: Device) -> float:
    return device.tensor_flops_per_s.get(dtype_of(device), device.vector_flops_per_s["fp32"])


@pytest.mark.parametrize("model", [TRAINING, BURST])
def test_no_gemm_beats_its_roofline(device: Device, model: Physics) -> None:
    ops = gemms(device)
    bound_s = [max(op.flops / peak(device), op.bytes / device.memory_bytes_per_s) for op in ops]
    assert (model.price(ops, device).seconds > bound_s).all()


@pytest.mark.parametrize("side", ["m", "n", "k"])
def test_a_gemm_of_twice_the_size_takes_longer_within_quantisation(device: Device, side: str) -> None:
    ops = gemms(device)
    doubled = [replace(op, **{side: 2 * getattr(op, side)}) for op in ops]
    small_s, large_s = TRAINING.price(ops, device).seconds, TRAINING.price(doubled, device).seconds
    aligned = np.array([op.n % 8 == 0 and op.k % 8 == 0 for op in ops])
    assert (large_s >= small_s / QUANTISATION)[aligned].all()


def test_twice_the_batch_is_no_faster(device: Device) -> None:
    ops = gemms(device)
    twice_s = TRAINING.price([replace(op, batch=2) for op in ops], device).seconds
    assert (twice_s >= TRAINING.price(ops, device).seconds * (1 - 1e-9)).all()


def test_a_bulk_price_is_the_price_of_each(device: Device) -> None:
    ops: list[ComputeOp] = [*gemms(device)[::17], Pointwise(op="gelu", rows=4096, cols=4096, dtype="fp16")]
    if "fp16" in device.tensor_flops_per_s:
        ops.insert(3, attention())
    bulk = TRAINING.price(ops, device)
    assert bulk.seconds.tolist() == [price_s(op, device) for op in ops]
    assert (bulk.spread > 0).all()


def test_prices_are_the_same_each_time(device: Device) -> None:
    ops = gemms(device)
    assert TRAINING.price(ops, device).seconds.tolist() == TRAINING.price(ops, device).seconds.tolist()


def test_nothing_to_price_is_fine(device: Device) -> None:
    assert TRAINING.price([], device).seconds.size == 0


def test_a_long_run_is_no_faster_than_a_burst(device: Device) -> None:
    ops = gemms(device)
    assert (TRAINING.price(ops, device).seconds >= BURST.price(ops, device).seconds).all()


def test_an_unknown_dtype_names_the_dtypes_of_the_device(device: Device) -> None:
    with pytest.raises(ValueError, match=rf"{device.name}: no dtype 'int3'; known: .*fp"):
        TRAINING.price([Gemm(m=8, n=8, k=8, dtype="int3")], device)


def test_an_unknown_attention_kernel_names_those_known() -> None:
    with pytest.raises(ValueError, match=r"no attention kernel 'flush'; known: .*flash"):
        TRAINING.price([attention(kernel="flush")], catalog.device("h100-sxm"))


def test_misaligned_rows_cost_time() -> None:
    aligned = Gemm(m=4096, n=4096, k=4096, dtype="bf16")
    h100 = catalog.device("h100-sxm")
    assert price_s(replace(aligned, k=4095), h100) > 1.3 * price_s(aligned, h100)


@pytest.mark.parametrize(
    ("layout", "change", "measured"),
    [
        ("tn", {"k": 4100}, 254),
        ("nn", {"n": 4098}, 278),
        ("nt", {"m": 4094}, 222),
        ("tn", {"k": 4097}, 130),
        ("nn", {"n": 4095}, 143),
        ("nt", {"m": 4095}, 125),
        ("nt", {"k": 4095}, 788),  # no row is of this length
        ("tn", {"m": 4097}, 768),
    ],
)
def test_rows_of_any_length_are_as_fast_as_on_an_h200(layout: Layout, change: dict[str, int], measured: float) -> None:
    op = replace(Gemm(m=4096, n=4096, k=4096, layout=layout, dtype="bf16"), **change)
    tflops = op.flops / price_s(op, catalog.device("h200-sxm")) / 1e12
    assert 0.7 * measured < tflops < 1.4 * measured


@pytest.mark.parametrize(
    ("layout", "m", "n", "k", "measured"),
    [("nn", 671, 1685, 1428, 44e-6), ("nt", 481, 921, 1004, 20e-6), ("tn", 963, 803, 2047, 44e-6)],
)
def test_small_gemms_lose_as_much_by_rows_of_any_length_as_on_an_h200(
    layout: Layout, m: int, n: int, k: int, measured: float
) -> None:
    op = Gemm(m=m, n=n, k=k, layout=layout, dtype="bf16")
    assert price_s(op, catalog.device("h200-sxm"), BURST) == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize(("layout", "measured"), [("tn", 391), ("nn", 361), ("nt", 256)])
def test_tf32_operands_that_do_not_lie_along_k_are_turned(layout: Layout, measured: float) -> None:
    """Means of 171 to 204 GEMMs of more than 1 ms."""
    op = Gemm(m=8192, n=8192, k=8192, layout=layout, dtype="tf32")
    tflops = op.flops / price_s(op, catalog.device("h200-sxm"), BURST) / 1e12
    assert 0.85 * measured < tflops < 1.15 * measured


def test_a_row_takes_time_however_short_it_is() -> None:
    """PyTorch's RMS norm of 1048576 heads of 128 columns: 620 us on an H200; Transformer Engine's 173 us."""
    h200 = catalog.device("h200-sxm")
    for name, measured in (("rms_norm", 620e-6), ("rms_norm_te", 173e-6)):
        op = Pointwise(op=name, rows=1048576, cols=128, dtype="bf16")
        assert price_s(op, h200) == pytest.approx(measured, rel=0.2)


def test_lengths_of_rows_without_a_kernel_of_their_own_take_longer() -> None:
    """Transformer Engine's RMS norm on an H200: 142 us of 32768 x 4096, 361 us of 18724 x 7168, as many elements."""
    h200 = catalog.device("h200-sxm")
    own, other = (
        price_s(Pointwise(op="rms_norm_te", rows=rows, cols=cols, dtype="bf16"), h200)
        for rows, cols in ((32768, 4096), (18724, 7168))
    )
    assert own == pytest.approx(142e-6, rel=0.2)
    assert other == pytest.approx(361e-6, rel=0.2)


def test_tensor_cores_that_take_any_layout_need_no_transposed_copies() -> None:
    """A cast for both dimensions takes what one along rows does on Blackwell; on an H200 367 and 275 us."""
    b200, h200 = catalog.device("b200-sxm"), catalog.device("h200-sxm")
    rows, both, copy = (
        Pointwise(op=op, rows=8192, cols=28672, dtype="bf16")
        for op in ("quantize_current", "quantize_current_both", "transpose_fp8")
    )
    assert price_s(both, b200) < 1.15 * price_s(rows, b200)
    assert price_s(both, h200) == pytest.approx(367 / 275 * price_s(rows, h200), rel=0.1)
    assert price_s(copy, b200) < 1e-8 < price_s(copy, h200)


def test_every_kernel_of_a_chain_starts() -> None:
    """An eager RMS norm of 16 rows, backward: 19 kernels in 44 us on an H200."""
    op = Pointwise(op="rms_norm_eager", rows=16, cols=1024, dtype="bf16", direction="bwd")
    assert price_s(op, catalog.device("h200-sxm")) == pytest.approx(44e-6, rel=0.2)


@pytest.mark.parametrize(
    ("device", "dtype", "n"),
    [("b200-sxm", "mxfp8", 8320), ("b200-sxm", "nvfp4", 8224), ("h100-sxm", "fp32", 8191)],
)
def test_neither_scales_nor_vector_units_ask_for_longer_rows(device: str, dtype: str, n: int) -> None:
    usual = Gemm(m=8192, n=8192, k=8192, dtype=dtype)
    on = catalog.device(device)
    assert price_s(replace(usual, n=n), on) < 1.12 * price_s(usual, on)


def test_less_power_costs_time_for_large_gemms_only() -> None:
    full = catalog.device("h100-sxm")
    capped = replace(full, power_limit_w=500.0)
    large = Gemm(m=8192, n=8192, k=8192, dtype="bf16")
    small = Gemm(m=1, n=8192, k=8192, dtype="bf16")
    assert price_s(large, capped) > 1.1 * price_s(large, full)
    assert price_s(small, capped) < 1.05 * price_s(small, full)


def test_adding_to_the_output_costs_a_tile_the_read_of_it() -> None:
    """Of what SimuMax measured on a B200, for a tile of 256 x 128: docs/models/kernels.md. Long k hides it."""
    device, measured_s = catalog.device("b200-sxm"), 2.9e-6
    more = []
    for k in (4096, 32768):
        plain = Gemm(m=57344, n=8192, k=k, dtype="bf16", layout="nt")
        added = price_s(replace(plain, out_dtype="fp32", accumulate=True), device) - price_s(plain, device)
        more.append(added / (57344 * 8192 / (256 * 128) / device.sm_count))
    assert more[0] == pytest.approx(measured_s, rel=0.2)
    assert more[1] == pytest.approx(more[0], rel=0.1)


@pytest.mark.parametrize(("k", "tflops"), [(2048, 629), (4096, 734), (6144, 760)])
def test_adding_to_the_output_on_hopper(k: int, tflops: float) -> None:
    """cublasGemmEx of cuBLAS 13.1 on an H200, in bursts."""
    gemm = Gemm(m=12288, n=12288, k=k, dtype="bf16", layout="nt", out_dtype="fp32", accumulate=True)
    assert gemm.flops / price_s(gemm, catalog.device("h200-sxm"), BURST) == pytest.approx(tflops * 1e12, rel=0.06)


@pytest.mark.parametrize(
    ("hidden", "tokens", "tflops"), [(2304, 6144, 252), (4096, 3072, 253), (5120, 1024, 238), (6144, 1024, 241)]
)
def test_adding_to_the_output_on_ampere_is_hidden_by_other_tiles(hidden: int, tokens: int, tflops: float) -> None:
    """All weight gradients of Megatron-LM's layers: arXiv:2401.10241, Table 9."""
    shapes = [(3 * hidden, hidden), (hidden, hidden), (4 * hidden, hidden), (hidden, 4 * hidden)]
    kind = {"dtype": "fp16", "layout": "nt", "out_dtype": "fp32", "accumulate": True}
    gemms = [Gemm(m=m, n=n, k=tokens, **kind) for m, n in shapes]
    seconds = sum(price_s(gemm, catalog.device("a100-sxm-80g"), BURST) for gemm in gemms)
    assert sum(gemm.flops for gemm in gemms) / seconds == pytest.approx(tflops * 1e12, rel=0.05)


def test_an_accumulated_fp32_output_costs_its_bytes() -> None:
    a100 = catalog.device("a100-sxm-80g")
    plain = Gemm(m=16384, n=16384, k=64, dtype="bf16")
    accumulated = replace(plain, out_dtype="fp32", accumulate=True)
    assert price_s(accumulated, a100) > 2 * price_s(plain, a100)


@pytest.mark.parametrize(
    "device",
    [found for found in map(catalog.device, catalog.devices()) if "fp16" in found.tensor_flops_per_s],
    ids=lambda device: device.name,
)
def test_no_attention_beats_the_tensor_peak(device: Device) -> None:
    for kernel in device.architecture.attention_share:
        for direction in ("fwd", "bwd"):
            op = attention(kernel=kernel, direction=direction, seq_q=16384, seq_kv=16384)
            assert price_s(op, device) > op.flops / peak(device)


def test_a_causal_mask_saves_nearly_half_of_a_long_sequence() -> None:
    h100 = catalog.device("h100-sxm")
    full_s = price_s(attention(seq_q=32768, seq_kv=32768, causal=False), h100)
    causal_s = price_s(attention(seq_q=32768, seq_kv=32768), h100)
    assert 0.5 < causal_s / full_s < 0.56


def test_every_pointwise_kernel_has_a_price(device: Device) -> None:
    """But for copies that a device does without."""
    ops = [Pointwise(op=op, rows=4096, cols=8192, dtype="fp16", direction=d) for op, d in traffic_table()]  # type: ignore[arg-type]
    if device.architecture.narrow_layouts == "any":
        ops = [op for op in ops if op.turned_bytes < op.bytes or not op.bytes]
    moving, finding = [op for op in ops if op.bytes >= op.elements], [op for op in ops if op.bytes < op.elements]
    assert {op.op for op in finding} <= {"topk_te", "chunk_map_te", "sink_gradient"}
    assert (TRAINING.price(moving, device).seconds > device.architecture.kernel_s).all()
    assert (TRAINING.price(finding, device).seconds > device.architecture.pointwise_s).all()


def test_a_kernel_larger_than_l2_runs_near_the_memory_bandwidth(device: Device) -> None:
    op = Pointwise(op="copy", rows=65536, cols=16384, dtype="fp16")
    reached = op.bytes / price_s(op, device) / device.memory_bytes_per_s
    assert 0.7 < reached < 1


def test_the_instructions_of_a_norm_bound_it_on_fast_memory() -> None:
    """10 bytes a clock of 132 SMs at 1.83 GHz are less than the memory of an H200 delivers, not of an H100."""
    norm = Pointwise(op="layer_norm", rows=32768, cols=4096, dtype="bf16")
    h100, h200 = catalog.device("h100-sxm"), catalog.device("h200-sxm")
    assert price_s(norm, h200) > norm.bytes / (0.8 * h200.memory_bytes_per_s)
    assert price_s(norm, h100) < 1.1 * price_s(norm, h200)


@pytest.mark.parametrize(
    ("name", "direction", "bytes_each", "measured_s"),
    [
        ("a100-pcie-80g", "fwd", 38, 0.992e-3),
        ("a100-pcie-80g", "bwd", 114, 2.625e-3),
        ("h200-sxm", "fwd", 36, 33.55e6 * 12.5e-12),
        ("h200-sxm", "bwd", 92, 33.55e6 * 27.4e-12),
    ],
)
def test_an_eager_norm_agrees_with_two_devices(
    name: str, direction: Direction, bytes_each: float, measured_s: float
) -> None:
    """2048 x 16384. The A100 was measured with weights in fp32 (Liger-Kernel): more bytes for each element."""
    norm = Pointwise(op="rms_norm_eager", rows=2048, cols=16384, dtype="bf16", direction=direction)
    more = bytes_each * norm.elements / norm.bytes
    assert price_s(norm, catalog.device(name)) * more == pytest.approx(measured_s, rel=0.12)


@pytest.mark.parametrize(
    ("name", "shape", "measured_s"),
    [
        ("a100-sxm-80g", (16384, 8192, 16384), 17.55e-3),
        ("a100-sxm-80g", (16384, 7168, 6144), 5.72e-3),
        ("h100-sxm", (16384, 8192, 16384), 6.06e-3),
        ("h100-sxm", (32768, 8192, 12288), 9.00e-3),
        ("b200-sxm", (8192, 16384, 7168), 1.29e-3),
        ("b200-sxm", (3840, 16384, 16384), 1.30e-3),
    ],
)
def test_large_gemms_agree_with_aiconfigurator(name: str, shape: tuple[int, int, int], measured_s: float) -> None:
    m, n, k = shape
    predicted_s = price_s(Gemm(m=m, n=n, k=k, dtype="bf16"), catalog.device(name), BURST)
    assert predicted_s == pytest.approx(measured_s, rel=0.1)


def test_long_attention_agrees_with_aiconfigurator() -> None:
    op = attention(batch=2, seq_q=16384, seq_kv=16384, heads=64, kv_heads=64)
    assert price_s(op, catalog.device("a100-sxm-80g")) == pytest.approx(47.3e-3, rel=0.1)


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "measured"),
    [
        ("a100-sxm-80g", "bf16", (1024, 10240, 5120), 271.2),
        ("a100-pcie-80g", "bf16", (2048, 5120, 6144), 252.9),
        ("h100-sxm", "bf16", (2048, 2048, 13312), 794.5),
        ("h100-sxm", "fp8", (1024, 9216, 14336), 1402.6),
        ("mi250x-gcd", "bf16", (1024, 19968, 14080), 147.0),
        ("mi300x", "bf16", (4096, 4864, 10240), 781.9),
        ("mi300x", "bf16", (10240, 15360, 8192), 668.4),
        ("mi325x", "bf16", (13312, 10240, 8192), 784.9),
    ],
)
def test_the_best_of_many_shapes_is_reached(
    name: str, dtype: str, shape: tuple[int, int, int], measured: float
) -> None:
    """TFLOP/s that mamf-finder found (stas00/ml-engineering, compute/accelerator/README.md)."""
    m, n, k = shape
    gemm = Gemm(m=m, n=n, k=k, dtype=dtype)
    assert gemm.flops / price_s(gemm, catalog.device(name), BURST) / 1e12 == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize(
    ("name", "dtype", "measured"),
    [
        ("a40", "bf16", (115.16, 110.64, 122.29)),
        ("a40", "tf32", (54.88, 59.52, 59.39)),
        ("rtx-4090", "bf16", (151.5, 160.17, 158.54)),
        ("rtx-4090", "tf32", (84.44, 85.65, 84.5)),
        ("l4", "bf16", (54.91, 59.4, 56.9)),
        ("l4", "tf32", (24.0, 25.69, 26.17)),
        ("l20", "bf16", (111.82, 114.14, 107.95)),
        ("a40", "fp32", (23.01, 23.73, 22.82)),
        ("a10g", "bf16", (62.48, 66.59, 69.47)),
        ("a10g", "tf32", (30.95, 34.13, 34.71)),
        ("a10g", "fp32", (23.37, 23.23, 22.43)),
        ("mi210", "bf16", (120.55, 124.18, 130.83)),
        ("p100", "fp32", (9.04, 9.5, 9.49)),
    ],
)
def test_large_squares_of_other_gpus_agree(name: str, dtype: str, measured: tuple[float, ...]) -> None:
    """TFLOP/s in loops (zzc0721/torch-performance-test-data, issues 78, 107, 120, 126, 180, 185, 195)."""
    squares = [Gemm(m=m, n=m, k=m, dtype=dtype) for m in (4096, 8192, 10240)]
    rates = [gemm.flops / price_s(gemm, catalog.device(name), TRAINING) / 1e12 for gemm in squares]
    assert sum(rates) == pytest.approx(sum(measured), rel=0.1)


@pytest.mark.parametrize(
    ("name", "measured"),
    [("v100-pcie-32g", 13.27), ("a100-pcie-40g", 16.86), ("l4", 12.99), ("h100-sxm", 49.22), ("mi100", 33.06)],
)
def test_a_large_fp32_product_agrees(name: str, measured: float) -> None:
    """TFLOP/s of the first GEMM of a layer (sitar-lab/NeuSight, scripts/asplos/label, gpt3_xl-inf-2048-2)."""
    gemm = Gemm(m=4096, n=9216, k=3072, dtype="fp32", out_dtype="fp32")
    assert gemm.flops / price_s(gemm, catalog.device(name), TRAINING) / 1e12 == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize(
    ("name", "measured"), [("v100-pcie-32g", 0.346), ("h100-sxm", 0.0974), ("mi100", 0.282), ("l4", 1.175)]
)
def test_a_softmax_of_fp32_scores_agrees(name: str, measured: float) -> None:
    """Milliseconds of 65,536 rows of 512 (sitar-lab/NeuSight, scripts/asplos/label, bert_large-train-512-8)."""
    softmax = Pointwise(op="softmax", rows=65_536, cols=512, dtype="fp32")
    assert price_s(softmax, catalog.device(name), BURST) * 1e3 == pytest.approx(measured, rel=0.1)


def test_a_burst_of_fp32_keeps_its_clock_where_the_vector_units_draw_little() -> None:
    a100 = catalog.device("a100-pcie-40g")
    gemm = Gemm(m=8192, n=8192, k=8192, dtype="fp32", out_dtype="fp32")
    assert price_s(gemm, a100, TRAINING) == pytest.approx(price_s(gemm, a100, BURST), rel=0.01)
    hot = replace(a100, architecture=replace(a100.architecture, vector_draw=1.5))
    assert price_s(gemm, hot, TRAINING) > 1.2 * price_s(gemm, hot, BURST) > 1.2 * price_s(gemm, a100, BURST)


@pytest.mark.parametrize(("shape", "measured"), [((64, 1024, 1024, 64), 0.271), ((48, 2048, 2048, 128), 1.25)])
def test_vector_units_store_a_product_behind_its_main_loop(shape: tuple[int, ...], measured: float) -> None:
    """Milliseconds of PyTorch 2.11 on an H200; scores of attention in fp32, of which little is multiplied."""
    batch, m, n, k = shape
    gemm = Gemm(batch=batch, m=m, n=n, k=k, dtype="fp32", out_dtype="fp32")
    assert price_s(gemm, catalog.device("h200-sxm"), BURST) * 1e3 == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("direction", "cols", "dtype", "measured"),
    [
        ("fwd", 512, "bf16", 2440),
        ("fwd", 1024, "bf16", 2595),
        ("fwd", 4096, "bf16", 1286),
        ("fwd", 4096, "fp32", 2570),
        ("bwd", 2048, "bf16", 2152),
        ("bwd", 2048, "fp32", 2162),
    ],
)
def test_rows_of_a_softmax_take_their_time_by_elements_forward_and_by_bytes_backward(
    direction: Direction, cols: int, dtype: str, measured: float
) -> None:
    """GB/s of PyTorch 2.11 on an H200."""
    softmax = Pointwise(op="softmax", rows=2**26 // cols, cols=cols, dtype=dtype, direction=direction)
    assert softmax.bytes / price_s(softmax, catalog.device("h200-sxm"), BURST) / 1e9 == pytest.approx(
        measured, rel=0.16
    )


def test_instructions_take_longer_on_sms_that_issue_less() -> None:
    v100 = catalog.device("v100-sxm2-16g")
    softmax = Pointwise(op="softmax", rows=65_536, cols=4096, dtype="fp16")
    full = replace(v100, architecture=replace(v100.architecture, issue_share=1.0))
    share = v100.architecture.issue_share
    assert price_s(softmax, full, BURST) == pytest.approx(share * price_s(softmax, v100, BURST), rel=0.01)


@pytest.mark.parametrize(
    ("direction", "products", "measured"), [("fwd", 2, (0.37, 0.39, 0.358)), ("bwd", 5, (0.25, 0.252, 0.243))]
)
def test_attention_by_triton_agrees_with_its_own_benchmarks(
    direction: Direction, products: int, measured: tuple[float, ...]
) -> None:
    """Shares of an A100's peak in triton-lang/triton, python/test/regression/test_performance.py, early 2023."""
    a100 = catalog.device("a100-sxm-80g")
    op = attention(
        batch=4, seq_q=4096, seq_kv=4096, heads=48, kv_heads=48, head_dim=64, kernel="triton", direction=direction
    )
    flops = products * op.batch * op.heads * op.seq_q * op.seq_kv * op.head_dim
    share = flops / price_s(op, a100, BURST) / a100.tensor_flops_per_s["bf16"]
    assert share == pytest.approx(sum(measured) / 3, rel=0.1)


@pytest.mark.parametrize("dtype", ["fp8", "nvfp4"])
def test_a_linear_layer_costs_its_gemm_and_the_cast_of_its_input(dtype: str) -> None:
    device = catalog.device("b200-sxm")
    gemm = Gemm(m=4096, n=8192, k=2048, dtype=dtype, batch=2)
    cast = Pointwise(op="quantize_dynamic", rows=2 * 4096, cols=2048, dtype="bf16")
    linear = price_s(replace(gemm, casts=True), device, BURST)
    assert linear == pytest.approx(price_s(gemm, device, BURST) + price_s(cast, device, BURST))


def test_a_hundred_thousand_gemms_are_priced_at_once() -> None:
    ops = [Gemm(m=i % 5000 + 1, n=i % 3000 + 8, k=i % 7000 + 8, dtype="bf16") for i in range(100_000)]
    prices = TRAINING.price(ops, catalog.device("h100-sxm"))
    assert np.isfinite(prices.seconds).all()


def test_split_accumulators_slow_the_main_loop_of_hopper_alone() -> None:
    """By hand: 1 / 0.95 where nothing else takes time; memory-bound products lose nothing, nor does another generation.

    In a long run the slower main loop draws less, and the power limit leaves a higher clock.
    """
    large = Gemm(m=8192, n=8192, k=65536, dtype="fp8")
    tall = Gemm(m=16, n=8192, k=8192, dtype="fp8")
    ops = [large, replace(large, split_accumulator=True), tall, replace(tall, split_accumulator=True)]
    whole, split, thin, thin_split = Physics().price(ops, catalog.device("h200-sxm")).seconds
    assert [split / whole, thin_split / thin] == pytest.approx([1 / 0.95, 1.0], rel=0.01)
    whole, split, *_ = Physics(sustained=True).price(ops, catalog.device("h200-sxm")).seconds
    assert 1.02 < split / whole < 1.045
    whole, split, *_ = Physics().price(ops, catalog.device("b200-sxm")).seconds
    assert whole == split
