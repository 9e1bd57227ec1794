"""SimuMax: times worked out by hand from the shares of a peak that its system file holds, and the traps of its keys."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibration.readers import Context, ReaderError, read_file
from calibration.table import Measurement, op_of
from tests.calibration.test_readers import FIXTURES
from workloads.ops import Attention, Gemm

FILE = FIXTURES / "simumax.json"
KEY = "b=1, m=4096, k=8192, n=16384, layout=TN, accumulate=False, out_dtype=bf16"
PEAK = 1e15


@pytest.fixture(scope="module")
def rows() -> tuple[Measurement, ...]:
    return read_file(FILE, context=Context(device="b200-sxm", stack="te-2.11-cu131", kernel="cudnn")).records


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The fixture with something wrong in it."""
    document = json.loads(FILE.read_text("utf-8"))
    change(document)
    (path / "system.json").write_text(json.dumps(document, indent=1), "utf-8")
    return path / "system.json"


def matmul(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["accelerator"]["op"]["matmul"]
    return found


def test_by_hand_a_time_is_flops_over_efficiency_times_peak(rows: tuple[Measurement, ...]):
    """2 x 4096 x 8192 x 16384 = 1.0995e12 FLOPs at half of 1e15: 2.199 ms. In fp8, half of 2e15: half of that."""
    assert rows[0].time_s == pytest.approx(2.199e-3, rel=1e-3)
    assert next(row for row in rows if row.dtype == "fp8").time_s == pytest.approx(1.0995e-3, rel=1e-3)


def test_the_sequences_of_a_micro_batch_are_rows_of_one_gemm(rows: tuple[Measurement, ...]):
    forward, data, weight = (op_of(row) for row in rows[:3])
    assert forward == Gemm(m=4096, n=16384, k=8192, dtype="bf16", layout="tn")
    assert data == Gemm(m=4096, n=8192, k=16384, dtype="bf16", layout="nn")
    assert weight == Gemm(
        m=16384, n=8192, k=4096, dtype="bf16", layout="nt", out_dtype="fp32", accumulate=True
    )  # fmt: skip
    assert forward.flops == data.flops == weight.flops


def test_all_stages_of_experts_are_named_by_the_forward_pass(rows: tuple[Measurement, ...]):
    found = [(row.layout, row.batch, row.m, row.n, row.k, row.out_dtype) for row in rows if row.op == "grouped_gemm"]
    assert found == [
        ("tn", 16, 16384, 4096, 2048, None),
        ("nn", 16, 16384, 2048, 4096, None),
        ("nt", 16, 4096, 2048, 16384, "fp32"),
    ]


def test_by_hand_attention_counts_what_the_mask_hides(rows: tuple[Measurement, ...]):
    """Two products of 4096^2 pairs and 32 heads: 2 x 4096^2 x 32 x 256 = 2.749e11; at 0.8 of 1e15 344 us."""
    first = next(row for row in rows if row.op == "attention")
    op = op_of(first)
    assert isinstance(op, Attention)
    assert (op.heads, op.kv_heads, op.kernel, op.causal, op.direction) == (32, 8, "cudnn", True, "fwd")
    assert first.time_s == pytest.approx(343.6e-6, rel=1e-3)
    assert op.flops / (first.time_s or 0) / PEAK == pytest.approx(0.8 / 2, rel=1e-3)
    back = next(row for row in rows if row.direction == "bwd")
    assert back.time_s == pytest.approx(5 * 32768**2 * 32 * 256 / (0.5 * PEAK))


def test_a_loop_of_a_tenth_of_a_second_is_a_long_run(rows: tuple[Measurement, ...]):
    """A hundred GEMMs back to back, fifty of experts, thirty attentions that are waited for."""
    assert [(row.op, row.mode, round(1e6 * (row.time_s or 0))) for row in rows] == [
        ("gemm", "sustained", 2199),
        ("gemm", "sustained", 1759),
        ("gemm", "sustained", 2749),
        ("gemm", "loop", 9),
        ("gemm", "sustained", 1100),
        ("grouped_gemm", "loop", 1100),
        ("grouped_gemm", "loop", 1374),
        ("grouped_gemm", "sustained", 2199),
        ("attention", "burst", 344),
        ("attention", "burst", 429),
        ("attention", "sustained", 87961),
        ("attention", "loop", 43),
    ]


def test_what_is_no_row_is_counted():
    notes = read_file(FILE).notes
    assert notes == (
        "1 row left out: attention with 192 dimensions of queries and 128 of values: the table has one head_dim",
        "2 rows left out: a share of the memory bandwidth without a shape",
        "1 row left out: bandwidth and latency fitted to a collective, no size measured",
        "4 of the rows are loops of unknown clock (mode loop): nothing is fitted to them",
    )


def test_every_row_says_whose_it_is(rows: tuple[Measurement, ...]):
    assert {row.notes for row in rows} == {"SimuMax made_up", "SimuMax made_up, q, k, v not contiguous"}


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> None:
        shapes = matmul(document)["accurate_efficient_factor"]
        shapes[KEY.replace(old, new)] = shapes.pop(KEY)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (renamed("m=4096", "m=0"), r"matmul: 'b=1, m=0, .*': m=0: should be a whole number of 1 or more"),
        (renamed("n=16384", "n=1e4"), "n=1e4: should be a whole number"),
        (renamed("layout=TN", "layout=TT"), "layout=TT: should be one of TN, NN, NT"),
        (renamed("accumulate=False", "accumulate=no"), "accumulate=no: should be one of True, False"),
        (renamed("out_dtype=bf16", "out_dtype=int8"), "out_dtype=int8: should be one of bf16, fp32"),
        (renamed(", out_dtype=bf16", ""), "should name b, m, k, n, layout, accumulate, out_dtype"),
        (renamed("k=8192", "k=8192, k=1"), "should name b, m, k"),
        (lambda document: matmul(document)["accurate_efficient_factor"].update({KEY: 0}), "= 0: should be a number ab"),
        (lambda document: matmul(document)["accurate_efficient_factor"].update({KEY: "0.5"}), "should be a number"),
        (lambda document: matmul(document)["accurate_efficient_factor"].update({KEY: 48.2}), "at most 2"),
        (lambda document: matmul(document).pop("tflops"), r"op\.matmul\.tflops = None: should be a number above 0"),
        (lambda document: matmul(document).update(accurate_efficient_factor=[1]), "should be a table of shapes"),
        (lambda document: document["accelerator"].update(op=3), r"accelerator\.op: missing, or no table"),
        (lambda document: document["accelerator"]["op"].update(matmul=3), r"op\.matmul: should be a table"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str):
    path = changed(tmp_path, change)
    with pytest.raises(ReaderError, match=said) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_key_that_stands_there_twice_is_refused(tmp_path: Path):
    (tmp_path / "twice.json").write_text(FILE.read_text("utf-8").replace('"FC8"', '"sys_name"'), "utf-8")
    with pytest.raises(ReaderError, match="'sys_name' stands there twice"):
        read_file(tmp_path / "twice.json")


def test_a_file_that_was_cut_off_is_refused_with_its_line(tmp_path: Path):
    (tmp_path / "cut.json").write_text(FILE.read_text("utf-8")[:1500], "utf-8")
    with pytest.raises(ReaderError, match=r"cut\.json:\d+: is no valid JSON .*: was it cut off"):
        read_file(tmp_path / "cut.json")


def test_averages_without_shapes_are_no_measurements(tmp_path: Path):
    def averages(document: dict[str, Any]) -> None:
        for section in document["accelerator"]["op"].values():
            section.pop("accurate_efficient_factor", None)

    with pytest.raises(ReaderError, match="has no shape with an efficiency of its own"):
        read_file(changed(tmp_path, averages))


def test_other_operators_are_counted(tmp_path: Path):
    def conv(document: dict[str, Any]) -> None:
        document["accelerator"]["op"]["conv"] = {"tflops": 1, "accurate_efficient_factor": {"a=1": 0.5, "a=2": 0.5}}

    assert "2 rows left out: operator 'conv' is none of the table's" in read_file(changed(tmp_path, conv)).notes
