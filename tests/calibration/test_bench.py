"""Laws of the microbenchmarks, for each because it is there; none needs a GPU or PyTorch."""

import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from statistics import median

import pytest

from calibration.bench import attention, gemm, grouped_gemm, optimizer, pointwise
from calibration.bench._sampling import aligned, log_size, pick, points, weighted
from calibration.capture import Family, families
from calibration.table import COLUMNS, RESULTS, append, failed, key, op_of, read_table
from workloads.ops import DTYPE_BYTES, traffic_table

FAMILIES = families()
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
# Named by the table of traffic, and no kernel of PyTorch, or another one alone than in a training run.
# Kernels of Apex, Transformer Engine, Megatron-Core, vLLM and OneFlow, which PyTorch does not bring
NOT_CAPTURED = {
    *("lamb", "layer_norm_apex", "layer_norm_te", "rms_norm_te", "rope_te", "scaled_causal_softmax"),
    *("quantize_fp8_columns", "quantize_current", "quantize_current_both", "quantize_delayed", "quantize_delayed_both"),
    *("quantize_blocks", "quantize_blocks_both", "quantize_dynamic", "transpose_fp8"),
    *("topk_te", "row_map_te", "permute_te", "chunk_map_te", "sort_te", "unpermute_te", "weighted_swiglu"),
    *("mla_rope_queries", "mla_rope_keys", "layer_norm_kept", "causal_softmax_dropout"),
    *("row_bias_fp32", "sink_gradient", "activation_in_gemm"),
}


@every_family
def test_the_same_seed_draws_the_same_shapes_and_a_longer_row_begins_like_a_shorter(family: Family):
    assert [*family.shapes(7, 20)] == [*islice(family.shapes(7, 100), 20)]


@every_family
def test_another_seed_draws_other_shapes(family: Family):
    first, second = ({key(shape) for shape in family.shapes(seed, 100)} for seed in (1, 2))
    assert len(first & second) < 20 or family.NAME == "host"


@every_family
def test_shapes_hardly_repeat(family: Family):
    shapes = [*family.shapes(1, 200)]
    assert len({key(shape) for shape in shapes}) > 0.9 * len(shapes)


@every_family
def test_shapes_carry_no_results_and_name_no_device(family: Family):
    for shape in family.shapes(1, 50):
        assert all(getattr(shape, name) is None for name in RESULTS)
        assert shape.device == shape.stack == ""


@every_family
def test_shapes_survive_the_table(family: Family, tmp_path: Path):
    shapes = [failed(shape, "out of memory") for shape in family.shapes(3, 100)]
    append(tmp_path / "table.csv", shapes)
    assert read_table(tmp_path / "table.csv") == shapes


@every_family
def test_a_family_says_what_it_is(family: Family):
    assert FAMILIES[family.NAME] is family
    assert family.WEIGHT > 0
    assert family.RANKS in (1, 2)


def test_shapes_need_no_pytorch():
    code = "import sys\nfrom calibration.capture import families\nfor f in families().values(): list(f.shapes(1, 9))\n"
    code += "assert not {'torch', 'sklearn', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_every_kernel_of_the_table_of_traffic_is_measured():
    drawn = {shape.op for family in FAMILIES.values() for shape in family.shapes(1, 500)}
    assert {name for name, _ in traffic_table()} - drawn == NOT_CAPTURED


@pytest.mark.parametrize(
    "name", ["gemm", "batched_gemm", "attention", "pointwise", "fused", "optimizer", "collectives"]
)
def test_shapes_of_what_is_priced_are_ops(name: str):
    assert all(op_of(shape) for shape in FAMILIES[name].shapes(1, 300))


def test_gemms_cover_types_layouts_and_sizes_from_the_start():
    shapes = [*gemm.shapes(1, 150)]
    assert {shape.dtype for shape in shapes} == {name for name, _ in gemm.DTYPES} <= set(DTYPE_BYTES)
    assert {shape.layout for shape in shapes} == {"tn", "nn", "nt"}
    assert min(shape.m or 0 for shape in shapes) < 64
    assert max(shape.m or 0 for shape in shapes) > 16384
    assert any((shape.k or 0) % 8 for shape in shapes)


def test_bf16_gemms_are_most():
    counts = Counter(shape.dtype for shape in gemm.shapes(1, 1000))
    assert counts["bf16"] > 600
    assert min(counts.values()) > 50


def test_fp8_gemms_have_the_one_layout_and_the_alignment_that_their_kernel_knows():
    narrow = [shape for shape in gemm.shapes(1, 1000) if shape.dtype == "fp8"]
    assert all(shape.layout == "tn" and (shape.n or 1) % 16 == (shape.k or 1) % 16 == 0 for shape in narrow)


def test_no_gemm_is_longer_than_its_type_allows():
    for shape in gemm.shapes(1, 2000):
        op = op_of(shape)
        assert op is not None
        assert op.flops <= 1.1 * gemm.FLOPS[shape.dtype]


def test_attention_covers_directions_kernels_masks_and_lengths():
    shapes = [*attention.shapes(1, 200)]
    for column, values in (("direction", {"fwd", "bwd"}), ("kernel", {"flash2", "cudnn"}), ("causal", {True, False})):
        assert {getattr(shape, column) for shape in shapes} == values
    lengths = [shape.seq_q or 0 for shape in shapes]
    assert min(lengths) < 1024
    assert max(lengths) > 32768
    assert all((shape.heads or 0) % (shape.kv_heads or 1) == 0 for shape in shapes)
    assert any(shape.heads != shape.kv_heads for shape in shapes)


def test_the_rows_of_masked_scores_are_whole_squares():
    for shape in pointwise.shapes(1, 500):
        if shape.op in pointwise.SCORES:
            assert (shape.rows or 0) % (shape.cols or 1) == 0


def test_optimizer_shapes_fit_into_memory():
    assert max((shape.rows or 0) * (shape.cols or 0) for shape in optimizer.shapes(1, 500)) <= optimizer.MOST


def test_groups_share_all_rows():
    ends = grouped_gemm.group_ends(5000, 8)
    assert ends == sorted(ends)
    assert len(ends) == 8
    assert ends[-1] == 5000


def test_every_beginning_of_the_points_is_spread_evenly():
    for count in (20, 100, 500):
        for axis in zip(*islice(points(3, 4), count), strict=True):
            assert median(axis) == pytest.approx(0.5, abs=0.08)
            assert all(any(low <= value < low + 0.25 for value in axis) for low in (0.0, 0.25, 0.5, 0.75))


def test_points_in_one_dimension_step_by_the_golden_ratio():
    (first,), (second,) = islice(points(1, 1), 2)
    assert (second - first) % 1.0 == pytest.approx(0.6180339887)


def test_choices_by_a_share():
    assert pick(0.0, "abc") == "a"
    assert pick(0.999, "abc") == pick(1.0, "abc") == "c"
    assert [weighted(share, (("a", 1.0), ("b", 3.0))) for share in (0.2, 0.3, 1.0)] == ["a", "b", "b"]
    assert (log_size(0.0, 1, 65536), log_size(0.5, 1, 65536), log_size(1.0, 1, 65536)) == (1, 256, 65536)
    assert (aligned(3, 8), aligned(13, 8), aligned(100, 64)) == (8, 16, 128)


def test_columns_stay_those_of_the_design():
    assert COLUMNS[:4] == ("op", "dtype", "device", "stack")
    assert COLUMNS[-2:] == ("mode", "notes")
