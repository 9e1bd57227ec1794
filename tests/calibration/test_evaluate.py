"""The error table, checked with a cost model whose errors are known."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from calibration.cost.model import Prices
from calibration.evaluate import Messages, evaluate
from calibration.plots import page
from calibration.table import Measurement
from hardware import catalog
from hardware.types import Device
from workloads.ops import CommunicationOp, ComputeOp

DEVICE = "h200-sxm"


@dataclass(frozen=True)
class Constant:
    """Everything takes a second, give or take 10 %."""

    def price(self, ops: Sequence[ComputeOp], device: Device) -> Prices:
        if any(op.dtype == "fp64" for op in ops):
            raise ValueError(f"{device.name}: no fp64")
        return Prices(np.ones(len(ops)), np.full(len(ops), 0.1))


def row(m: int, time_s: float | None, **changes: object) -> Measurement:
    shape = Measurement(op="gemm", dtype="bf16", device=DEVICE, m=m, n=64, k=64, time_s=time_s)
    return replace(shape, **changes)  # type: ignore[arg-type]


def test_errors_by_hand() -> None:
    rows = [row(1, 1.0), row(2, 1.25), row(3, 0.5), row(4, 2.0)]
    line = evaluate(rows, Constant(), catalog.device(DEVICE)).summary()[0]
    assert (line["family"], line["group"], line["n"]) == ("gemm", "all", 4)
    assert line["median"] == pytest.approx((0.2 + 0.5) / 2)
    assert line["mean"] == pytest.approx((0 + 0.2 + 1 + 0.5) / 4)
    assert line["bias"] == pytest.approx((0 - 0.2 + 1 - 0.5) / 4)
    assert line["inside"] == 0.25  # e^0.1645 = 1.18


def test_repeated_shapes_count_once() -> None:
    report = evaluate([row(1, second) for second in (1.0, 1.0, 5.0)], Constant(), catalog.device(DEVICE))
    assert [point.measured_s for point in report.points] == [1.0]


def test_what_has_no_price_is_counted_with_its_reason() -> None:
    rows = [
        row(1, 1.0),
        row(1, 1.0, device="h100-sxm"),
        row(1, None, notes="out of memory"),
        row(1, 1.0, mode="sustained"),
        row(1, 1.0, op="host"),
    ]
    document = evaluate(rows, Constant(), catalog.device(DEVICE)).document()
    assert document["shapes"] == 1
    assert sum(document["skipped"].values()) == 4
    assert document["skipped"]["not measured: out of memory"] == 1
    assert json.loads(json.dumps(document)) == document


def test_groups_are_listed_below_their_family() -> None:
    gelu = Measurement(op="gelu", dtype="bf16", device=DEVICE, rows=8, cols=8, direction="bwd", time_s=1.0)
    rows = [row(1, 1.0), row(1, 1.0, dtype="fp16"), gelu]
    summary = evaluate(rows, Constant(), catalog.device(DEVICE)).summary()
    assert [(line["family"], line["group"]) for line in summary] == [
        ("gemm", "all"),
        ("gemm", "bf16"),
        ("gemm", "fp16"),
        ("pointwise", "all"),
        ("pointwise", "gelu/bwd"),
    ]


def of_a_collective(size: float, time_s: float, **changes: object) -> Measurement:
    shape = Measurement(op="all_reduce", device=DEVICE, ranks=2, ranks_per_node=2, bytes=size, time_s=time_s)
    return replace(shape, **changes)  # type: ignore[arg-type]


def a_second_each(ops: Sequence[CommunicationOp]) -> Prices:
    return Prices(np.ones(len(ops)), np.full(len(ops), 0.1))


def test_collectives_are_listed_as_a_whole_by_kind_and_once_more_where_large() -> None:
    rows = [of_a_collective(1e3, 2.0), of_a_collective(1e6, 0.5), of_a_collective(1e9, 1.0, op="send_recv")]
    report = evaluate(rows, Constant(), catalog.device(DEVICE), messages=Messages(8, a_second_each))
    lines = {(line["family"], line["group"]): line for line in report.summary()}
    assert [(line["group"], line["n"]) for line in lines.values()] == [
        ("all", 3),
        ("all, 1 MB up", 2),
        ("all_reduce/2", 2),
        ("all_reduce/2, 1 MB up", 1),
        ("send_recv/2", 1),
        ("send_recv/2, 1 MB up", 1),
    ]
    assert lines["collective", "all"]["mean"] == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert lines["collective", "all_reduce/2, 1 MB up"]["bias"] == pytest.approx(1.0)


def test_collectives_that_nobody_prices_are_counted_with_their_reason() -> None:
    rows = [of_a_collective(1e6, 1.0), of_a_collective(1e6, 1.0, ranks=16, ranks_per_node=8)]
    device = catalog.device(DEVICE)
    assert sum(evaluate(rows, Constant(), device).skipped.values()) == 2
    report = evaluate(rows, Constant(), device, messages=Messages(8, a_second_each))
    assert (len(report.points), list(report.skipped)) == (1, ["all_reduce: over 16 ranks in no domain of 8 devices"])


def test_the_page_of_plots_stands_alone() -> None:
    pytest.importorskip("plotly")
    device = catalog.device(DEVICE)
    rows = [*(row(m, m * 1e-6) for m in (1, 64, 4096)), of_a_collective(1e6, 1.0)]
    text = page(evaluate(rows, Constant(), device, messages=Messages(8, a_second_each)), device)
    assert text.startswith("<!doctype html>")
    assert "measured (us)" in text
    assert "roof of bf16" in text
    assert '<script src="http' not in text
