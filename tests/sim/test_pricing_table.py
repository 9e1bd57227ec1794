"""Measurement tables: every row priced or skipped with its reason, malformed tables refused as a whole."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardware import catalog
from hardware.descriptor import DescriptorError
from sim.cli import app
from sim.collectives import seconds
from sim.pricing_table import Machines, price_table
from sim.profiles import cost_model
from sim.table_rows import compute_op
from workloads.ops import Collective, Gemm

TABLE = """op,dtype,device,m,n,k,rows,cols,seq_q,heads,head_dim,ranks,ranks_per_node,bytes,time_s
gemm,bf16,h100-sxm,4096,4096,4096,,,,,,,,,0.0002
gemm,fp8,a100-sxm-80g,4096,4096,4096,,,,,,,,,
gemm,bf16,h900,4096,4096,4096,,,,,,,,,
rms_norm,bf16,h100-sxm,,,,4096,4096,,,,,,,
attention,bf16,h100-sxm,,,,,,4096,32,128,,,,
all_reduce,bf16,h100-sxm,,,,,,,,,16,8,1e9,
all_reduce,bf16,h100-sxm,,,,,,,,,16,1,1e9,
send_recv,bf16,h100-sxm,,,,,,,,,2,1,1e9,
conv,bf16,h100-sxm,,,,,,,,,,,,
all_reduce,bf16,h100-sxm,,,,,,,,,12,8,1e9,
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "table.csv"
    found.write_text(TABLE, "utf-8")
    return found


def test_a_row_costs_what_its_op_costs(path: Path):
    rows = price_table(path, Machines()).rows
    op = Gemm(m=4096, n=4096, k=4096, dtype="bf16")
    h100 = catalog.device("h100-sxm")
    burst = cost_model(h100).price([op], h100).seconds[0]
    assert float(rows[0]["predicted_s"]) == pytest.approx(burst, rel=1e-5)
    message = Collective(op="all_reduce", bytes=1e9, ranks=16)
    expected = seconds([message], catalog.cluster("dgx-h100", 2))[0][0]
    assert float(rows[5]["predicted_s"]) == pytest.approx(expected, rel=1e-5)


def test_every_row_is_priced_or_says_why_not(path: Path):
    rows = price_table(path, Machines()).rows
    assert [bool(row["predicted_s"]) for row in rows] == [True, False, False, *[True] * 5, False, False]
    reasons = [row["skipped"] for row in rows if row["skipped"]]
    for reason, words in zip(
        reasons, ("no dtype 'fp8'", "no device 'h900'", "no op 'conv'", "no multiple"), strict=True
    ):
        assert words in reason


def test_spread_ranks_share_no_node(path: Path):
    rows = price_table(path, Machines()).rows
    assert float(rows[6]["predicted_s"]) > float(rows[5]["predicted_s"])


def test_a_window_of_nothing_is_none(tmp_path: Path):
    text = "op,dtype,device,seq_q,heads,head_dim,window\nattention,bf16,h200-sxm,4096,8,128,0\n"
    text += "attention,bf16,h200-sxm,4096,8,128,\n"
    (tmp_path / "own.csv").write_text(text)
    one, other = (row["predicted_s"] for row in price_table(tmp_path / "own.csv", Machines()).rows)
    assert one == other


def test_a_window_of_a_table_is_that_of_its_op():
    row = {"op": "attention", "dtype": "bf16", "seq_q": "4096", "heads": "64", "head_dim": "64"}
    found = compute_op(row | {"window": "128"})
    assert found == replace(compute_op(row), window=128)


@pytest.mark.parametrize(("cells", "casts"), [("x,", False), ("x,linear", True), ("aiconfigurator,", True)])
def test_a_linear_layer_is_priced_with_the_cast_of_its_input(tmp_path: Path, cells: str, casts: bool):
    path = tmp_path / "table.csv"
    path.write_text(f"op,device,dtype,m,n,k,stack,kernel\ngemm,h200-nvl,fp8,4096,512,4096,{cells}\n", "utf-8")
    (row,) = price_table(path, Machines()).rows
    device = catalog.device("h200-nvl")
    op = Gemm(m=4096, n=512, k=4096, dtype="fp8", casts=casts)
    assert float(row["predicted_s"]) == pytest.approx(cost_model(device).price([op], device).seconds[0], rel=1e-5)


def test_a_long_run_is_slower_than_a_benchmark(path: Path):
    burst, sustained = (price_table(path, Machines(), sustained=long).rows[0]["predicted_s"] for long in (False, True))
    assert float(sustained) > float(burst)


def test_errors_are_summed_up_by_op_device_and_dtype(path: Path):
    priced = price_table(path, Machines())
    (group,) = priced.summary()
    error = float(priced.rows[0]["predicted_s"]) / 0.0002 - 1
    assert group == {
        **{"op": "gemm", "device": "h100-sxm", "dtype": "bf16", "n": 1},
        **{
            "median": pytest.approx(abs(error)),
            "mean": pytest.approx(abs(error)),
            "bias": pytest.approx(error),
        },
    }


def test_a_given_device_prices_all_rows(path: Path):
    rows = price_table(path, Machines(device="h200-sxm")).rows
    assert {row["device"] for row in rows} == {"h200-sxm"}
    assert sum(bool(row["skipped"]) for row in rows) == 2


def test_the_command_writes_the_table_or_prints_it(path: Path, tmp_path: Path):
    out = tmp_path / "out.csv"
    written = CliRunner().invoke(app, ["price", str(path), "-o", str(out)])
    printed = CliRunner().invoke(app, ["price", str(path)])
    assert (written.exit_code, printed.exit_code) == (0, 0)
    assert printed.stdout == out.read_text("utf-8")
    assert "6 of 10 rows priced" in written.stdout
    assert "6 of 10 rows priced" in printed.stderr
    assert [row["op"] for row in csv.DictReader(printed.stdout.splitlines())][:2] == ["gemm", "gemm"]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["is empty"]),
        ("op,device\n", ["is empty"]),
        ("op,dtype,m\ngemm,bf16,4\n", ["no column 'device'", "no column 'n'", "no column 'k'"]),
        ("op,dtype,device,m,n,k\ngemm,bf16,h100-sxm,0,nan,-1\n", ["m = '0'", "n = 'nan'", "k = '-1'"]),
        ("op,dtype,device,m,n,k\ngemm,bf16,h100-sxm,1,,inf\n", ["n is blank", "k = 'inf'"]),
        ("op,op\n1,2\n", ["column 'op' stands there twice"]),
        ("op,device\na\n", ["row 1: 1 cells"]),
        ("op,device,layout,dtype,m,n,k\ngemm,h100-sxm,xy,bf16,1,1,1\n", ["layout = 'xy'"]),
    ],
)
def test_a_malformed_table_is_refused_with_all_its_faults(tmp_path: Path, text: str, faults: list[str]):
    path = tmp_path / "bad.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(DescriptorError) as error:
        price_table(path, Machines())
    assert all(any(fault in found for found in error.value.faults) for fault in faults)


def test_a_given_cluster_prices_the_collectives_of_its_device_alone(path: Path):
    network = price_table(path, Machines(cluster="ethernet-h100")).rows
    usual = price_table(path, Machines()).rows
    assert float(network[5]["predicted_s"]) > float(usual[5]["predicted_s"])
    other = price_table(path, Machines(cluster="dgx-a100-80g")).rows
    assert other[5]["skipped"] == "dgx-a100-80g has a100-sxm-80g, not h100-sxm"
    assert other[0]["predicted_s"] == usual[0]["predicted_s"]


def test_unknown_machines_are_refused_together(path: Path):
    with pytest.raises(DescriptorError) as error:
        price_table(path, Machines(device="h900", cluster="dgx-h900"))
    assert len(error.value.faults) == 2
