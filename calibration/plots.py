"""Two pictures of an evaluation: predicted against measured, and achieved rate against the roofline."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from calibration.cost.rates import hbm_bytes_per_s, peak_flops_per_s
from calibration.evaluate import Point, Report, family_name
from hardware.types import Device
from workloads.ops import DTYPE_BYTES, Attention, Gemm

TITLES = {"gemm": "GEMM", "attention": "attention", "pointwise": "memory-bound", "collective": "collectives"}
FACTOR = 1.1  # of the dotted lines beside the diagonal


def page(report: Report, device: Device) -> str:
    """A web page of both that needs no other file and no network."""
    first, second = accuracy(report), roofline(report, device)
    body = first.to_html(full_html=False, include_plotlyjs=True) + second.to_html(
        full_html=False, include_plotlyjs=False
    )
    title = f"{device.title}: measured and predicted kernels"
    head = f'<head><meta charset="utf-8"><title>{title}</title></head>'
    return f'<!doctype html>\n<html lang="en">{head}\n<body>{body}</body></html>\n'


def accuracy(report: Report) -> Any:
    """Predicted against measured seconds, a colour for each family; dotted: 10 % more and less."""
    plotly = import_module("plotly.graph_objects")
    traces = [
        _scatter(plotly, name, points, [p.measured_s * 1e6 for p in points], [p.predicted_s * 1e6 for p in points])
        for name, points in _families(report)
    ]
    ends = _ends([point.measured_s * 1e6 for point in report.points])
    for factor, dash in ((1.0, "solid"), (FACTOR, "dot"), (1 / FACTOR, "dot")):
        line = {"color": "grey", "width": 1, "dash": dash}
        traces.append(
            plotly.Scatter(
                x=ends, y=[end * factor for end in ends], mode="lines", line=line, showlegend=False, hoverinfo="skip"
            )
        )
    return _figure(plotly, traces, f"{report.device}, {report.mode}", "measured (us)", "predicted (us)")


def roofline(report: Report, device: Device) -> Any:
    """Achieved FLOP/s of GEMMs and attention over FLOPs per byte, below the roofs of their data types."""
    plotly = import_module("plotly.graph_objects")
    points = [point for point in report.points if isinstance(point.op, Gemm | Attention)]
    dtypes = {point: getattr(point.op, "dtype", "") for point in points}
    traces = []
    for dtype in [name for name in DTYPE_BYTES if name in dtypes.values()]:
        members = [point for point in points if dtypes[point] == dtype]
        x = [point.op.flops / point.op.bytes for point in members]
        traces.append(
            _scatter(plotly, dtype, members, x, [point.op.flops / point.measured_s / 1e12 for point in members])
        )
        traces.append(_roof(plotly, dtype, _ends(x), device))
    return _figure(plotly, traces, f"{device.title}: achieved and roofline", "FLOPs per byte of operands", "TFLOP/s")


def _roof(plotly: Any, dtype: str, ends: tuple[float, float], device: Device) -> Any:
    x = np.geomspace(ends[0], ends[1], 100)
    y = np.minimum(peak_flops_per_s(device, dtype), x * hbm_bytes_per_s(device)) / 1e12
    return plotly.Scatter(x=x.tolist(), y=y.tolist(), mode="lines", name=f"roof of {dtype}", line={"width": 1})


def _families(report: Report) -> list[tuple[str, list[Point]]]:
    found = [
        (title, [point for point in report.points if family_name(point.op) == name]) for name, title in TITLES.items()
    ]
    return [(title, points) for title, points in found if points]


def _scatter(plotly: Any, name: str, points: Sequence[Point], x: Sequence[float], y: Sequence[float]) -> Any:
    text = [f"{_shape(point)}<br>{point.error:+.1%}" for point in points]
    return plotly.Scatter(
        x=list(x), y=list(y), text=text, mode="markers", name=name, marker={"size": 4, "opacity": 0.6}
    )


def _shape(point: Point) -> str:
    """As in 'Gemm m=4096 n=4096 k=4096 dtype=bf16'."""
    values = {name: getattr(point.op, name) for name in type(point.op).__slots__}
    return " ".join([type(point.op).__name__, *(f"{name}={value}" for name, value in values.items())])


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (1.0, 10.0)


def _figure(plotly: Any, traces: Sequence[Any], title: str, x: str, y: str) -> Any:
    figure = plotly.Figure(list(traces))
    figure.update_layout(title=title, xaxis={"type": "log", "title": x}, yaxis={"type": "log", "title": y})
    figure.update_layout(template="plotly_white", height=650)
    return figure
