"""A validation as a web page: predicted against measured step times, and the tables beside it."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from typing import Any

from sim.report.validation import FIGURES, SWEEPS, cell, figure
from sim.validate import Validation

Row = Mapping[str, Any]

FACTOR = 1.2  # of the dotted lines beside the diagonal
ROWS = ("id", "source", "device", "stack", "measured_s", "predicted_s", "error", "assumed", "skipped")
STYLE = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}"
    "td,th{padding:2px 8px;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
)


def page(found: Validation, title: str) -> str:
    """A web page that needs no other file and no network."""
    picture = scatter(found.rows, title).to_html(full_html=False, include_plotlyjs=True)
    groups = {"source": found.summary, **found.groups}
    tables = [_figures_table(name, rows, FIGURES) for name, rows in groups.items()]
    if found.sweeps:
        tables.append(_figures_table("sweeps of layouts", found.sweep_summary, SWEEPS))
    tables.append(_html_table(ROWS, [[_value(key, row[key]) for key in ROWS] for row in found.rows]))
    head = f'<head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head>'
    return f'<!doctype html>\n<html lang="en">{head}\n<body>{picture}{"".join(tables)}</body></html>\n'


def scatter(rows: Sequence[Row], title: str) -> Any:
    """Predicted against measured seconds, a colour for each source; dotted: 20 % more and less."""
    plotly = import_module("plotly.graph_objects")
    compared = [row for row in rows if row["error"] is not None]
    sources = sorted({row["source"] for row in compared})
    traces = [_points(plotly, name, [row for row in compared if row["source"] == name]) for name in sources]
    measured = [row["measured_s"] for row in compared] or [1.0]
    ends = [min(measured), max(measured)]
    for factor, dash in ((1.0, "solid"), (FACTOR, "dot"), (1.0 / FACTOR, "dot")):
        line = {"color": "grey", "width": 1, "dash": dash}
        y = [end * factor for end in ends]
        traces.append(plotly.Scatter(x=ends, y=y, mode="lines", line=line, showlegend=False, hoverinfo="skip"))
    figure = plotly.Figure(traces)
    axes = {f"{axis}axis": {"type": "log", "title": f"{name} (s)"} for axis, name in zip("xy", AXES, strict=True)}
    figure.update_layout(title=title, template="plotly_white", height=700, **axes)
    return figure


AXES = ("measured", "predicted")


def _points(plotly: Any, source: str, rows: Sequence[Row]) -> Any:
    text = [f"{escape(str(row['id']))}<br>{row['error']:+.1%}" for row in rows]
    x, y = ([row[f"{axis}_s"] for row in rows] for axis in AXES)
    name = f"{escape(str(source))} ({len(rows)})"
    return plotly.Scatter(x=x, y=y, text=text, mode="markers", name=name, marker={"size": 5, "opacity": 0.6})


def _figures_table(name: str, groups: Sequence[Row], columns: Mapping[str, str]) -> str:
    cells = [[str(next(iter(group.values()))), *(figure(key, group[key]) for key in columns)] for group in groups]
    return _html_table([name, *columns.values()], cells)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_line("th", head), *(_line("td", row) for row in rows)]
    return f"<table>\n{chr(10).join(lines)}\n</table>\n"


def _line(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in cells)}</tr>"


def _value(key: str, value: object) -> str:
    return f"{value:.4g}" if key.endswith("_s") and isinstance(value, float) else cell(value)
