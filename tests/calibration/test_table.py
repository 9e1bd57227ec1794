"""The measurement table: what is written is read back, faults name their place, a kill loses nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from calibration.table import COLUMNS, IDENTITY, Measurement, append, failed, key, op_of, read_table
from hardware.descriptor import DescriptorError
from workloads.ops import Attention, Collective, Gemm, Pointwise, Transfer

GEMM = Measurement(
    op="gemm",
    dtype="bf16",
    device="h200-sxm",
    stack="torch-2.11-cu130",
    batch=1,
    m=4096,
    n=14336,
    k=4096,
    layout="nt",
    time_s=6.54e-4,
    samples=21,
    time_p10_s=6.5e-4,
    time_p90_s=6.6e-4,
)
ATTENTION = Measurement(
    op="attention", dtype="bf16", batch=2, seq_q=4096, seq_kv=4096, heads=32, kv_heads=8, head_dim=128, causal=False
)
ROWS = (
    GEMM,
    replace(ATTENTION, direction="bwd", kernel="cudnn", time_s=1e-3, notes="host behind in 6 of 11"),
    Measurement(op="silu", dtype="fp16", rows=8192, cols=4096, direction="fwd", kernel="eager", time_s=3.3e-5),
    Measurement(op="all_reduce", dtype="bf16", ranks=2, ranks_per_node=2, bytes=2.0**32, time_s=1.2e-2),
    Measurement(op="gemm", dtype="fp8", m=1, n=16, k=16, time_s=1e-6, power_w=690.0, mode="sustained"),
    failed(GEMM, "out of memory"),
    replace(GEMM, out_dtype="fp32", accumulate=True, mode="loop"),
)


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_what_is_appended_is_read_back(tmp_path: Path):
    table = tmp_path / "table.csv"
    append(table, ROWS[:2])
    append(table, ROWS[2:])
    assert read_table(table) == list(ROWS)
    assert table.read_text("utf-8").splitlines()[0] == ",".join(COLUMNS)
    assert len(table.read_text("utf-8").splitlines()) == len(ROWS) + 1


def test_a_key_is_the_shape_and_not_the_result():
    assert key(GEMM) == key(failed(GEMM, "out of memory"))
    assert key(GEMM) != key(replace(GEMM, mode="sustained"))
    assert "time_s" not in IDENTITY
    assert "kernel" in IDENTITY


def test_keys_survive_the_file(tmp_path: Path):
    append(tmp_path / "table.csv", ROWS)
    assert [*map(key, read_table(tmp_path / "table.csv"))] == [*map(key, ROWS)]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_last_line_that_a_kill_left_half_is_removed(tmp_path: Path, cut: int):
    table = tmp_path / "table.csv"
    append(table, ROWS[:3])
    table.write_bytes(table.read_bytes()[:-cut])
    append(table, ROWS[3:4])
    assert read_table(table) == [*ROWS[:2], ROWS[3]]


def test_a_header_that_a_kill_left_half_is_written_again(tmp_path: Path):
    table = written(tmp_path / "table.csv", "op,dtype,dev")
    append(table, ROWS[:1])
    assert read_table(table) == [GEMM]


def test_a_table_of_before_a_column_was_added_goes_on_without_it(tmp_path: Path):
    old = ",".join(name for name in COLUMNS if name not in ("out_dtype", "accumulate"))
    table = written(tmp_path / "table.csv", f"{old}\n")
    append(table, ROWS[:2])
    assert read_table(table) == list(ROWS[:2])
    with pytest.raises(DescriptorError, match="has no column 'accumulate', which gemm rows need"):
        append(table, [replace(GEMM, accumulate=True)])


def test_a_table_of_other_columns_is_not_appended_to(tmp_path: Path):
    table = written(tmp_path / "table.csv", "op,m,n\ngemm,1,2\n")
    with pytest.raises(DescriptorError, match="has other columns"):
        append(table, ROWS[:1])


def test_notes_stay_on_one_line(tmp_path: Path):
    append(tmp_path / "table.csv", [failed(GEMM, 'not supported: "a",\n b')])
    assert read_table(tmp_path / "table.csv")[0].notes == 'not supported: "a", b'


def test_all_faults_of_a_file_are_named_by_line_and_column(tmp_path: Path):
    table = written(
        tmp_path / "bad.csv",
        "op,m,time_s,layout,causal\ngemm,0,1e-6,tn,1\ngemm,4,-1,xx,perhaps\n,1,1,,\ngemm,1,,tn,\ngemm,1\n",
    )
    with pytest.raises(DescriptorError) as caught:
        read_table(table)
    text = str(caught.value)
    for part in (
        "line 2, column m = '0': should be a whole number of 1 or more",
        "line 3, column time_s = '-1': should be a number greater than 0",
        "line 3, column layout = 'xx': should be one of tn, nn, nt",
        "line 3, column causal = 'perhaps'",
        "line 4, column op: is blank",
        "line 5, column time_s: is blank; notes should say why",
        "line 6: 2 cells; the first line has 5",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("op,colour,time_s\n", "no column 'colour'"),
        ("op,op,time_s\n", "'op' stands there twice"),
        ("op,m\n", "no column 'time_s'"),
        ('op,time_s\n"gemm,1\n', "is not CSV"),
    ],
)
def test_a_damaged_file_gets_a_message(tmp_path: Path, text: str, said: str):
    with pytest.raises(DescriptorError, match=said):
        read_table(written(tmp_path / "bad.csv", text))


def test_a_missing_file_gets_a_message(tmp_path: Path):
    with pytest.raises(DescriptorError, match="no such file"):
        read_table(tmp_path / "none.csv")


def test_many_faults_are_cut_short(tmp_path: Path):
    with pytest.raises(DescriptorError, match="and 80 more such faults"):
        read_table(written(tmp_path / "bad.csv", "op,time_s\n" + "gemm,x\n" * 100))


def test_rows_stand_for_ops():
    expected = Gemm(m=4096, n=14336, k=4096, dtype="bf16", layout="nt")
    assert op_of(GEMM) == expected
    assert op_of(replace(GEMM, out_dtype="fp32", accumulate=True)) == replace(
        expected, out_dtype="fp32", accumulate=True
    )
    assert op_of(replace(GEMM, out_dtype="int8")) is None
    assert op_of(replace(GEMM, dtype="tf32")) == replace(expected, dtype="tf32", out_dtype="fp32")
    attention = op_of(ATTENTION)
    assert isinstance(attention, Attention)
    assert not attention.causal
    assert isinstance(op_of(ROWS[2]), Pointwise)
    assert op_of(ROWS[3]) == Collective(op="all_reduce", bytes=2.0**32, ranks=2)
    assert op_of(Measurement(op="send_recv", ranks=2, bytes=4.0)) == Transfer(bytes=4.0, stride=1)


@pytest.mark.parametrize(
    "row",
    [
        Measurement(op="host", kernel="launch", rows=1),
        Measurement(op="memcpy", kernel="host_to_device", bytes=1.0),
        Measurement(op="gemm", dtype="bf16", m=1, n=1),
        Measurement(op="gemm", dtype="int3", m=1, n=1, k=1),
        Measurement(op="add", dtype="bf16", rows=1),
    ],
)
def test_other_rows_stand_for_none(row: Measurement):
    assert op_of(row) is None


@pytest.mark.parametrize(
    ("dtype", "stack", "kernel", "casts"),
    [
        ("fp8", "aiconfigurator", None, True),
        ("fp8", "aiconfigurator", "gemm", False),
        ("bf16", "aiconfigurator", None, False),
        ("fp8", "torch-2.11-cu130", None, False),
        ("nvfp4", "torch-2.11-cu130", "linear", True),
        ("bf16", "torch-2.11-cu130", "linear", False),
    ],
)
def test_narrow_gemms_of_linear_layers_were_timed_with_a_cast(dtype: str, stack: str, kernel: str | None, casts: bool):
    op = op_of(Measurement(op="gemm", dtype=dtype, stack=stack, kernel=kernel, m=8, n=8, k=8, time_s=1e-5))
    assert isinstance(op, Gemm)
    assert op.casts is casts


@pytest.mark.parametrize("flag", ["1", "1.0", "yes", "True"])
def test_a_flag_may_have_a_decimal_point(tmp_path: Path, flag: str):
    """As pandas writes one in a column with blanks."""
    path = tmp_path / "table.csv"
    path.write_text(f"op,dtype,batch,seq_q,heads,head_dim,causal,time_s\nattention,bf16,1,64,8,64,{flag},1e-5\n")
    (row,) = read_table(path)
    assert row.causal is True
