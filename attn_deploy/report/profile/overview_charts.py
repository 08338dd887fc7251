"""Figures over several models or machines as data for plotly.js."""

from __future__ import annotations

from typing import Any

from attn_deploy.comparison.overview import Entry, Overview
from attn_deploy.report.profile.charts import MARGIN, SYMBOLS, Figure, axis, color, log_ticks

LABELLED = 12  # points up to which a chart names those on its front
EVEN = "#9aa5b4"  # of the line at which nothing is gained
SHOWN = 2  # series of a crowded chart that are drawn at first; the legend shows the rest


def accuracies(report: Overview) -> Figure | None:
    """Accuracy against time per image with the Pareto front of each machine; None where no accuracy was measured."""
    points = [e for e in report.entries if e.row.latency is not None and e.row.accuracy is not None]
    if not points:
        return None
    several = len({report.runs[e.run].record.name for e in points}) > 1
    machines = list(dict.fromkeys(report.runs[e.run].machine for e in points))
    traces: list[dict[str, Any]] = []
    for machine in machines:
        front = sorted(_trade(e) for e in points if e.on_front and report.runs[e.run].machine == machine)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "front" if len(machines) == 1 else f"front, {machine}",
                "x": [x for x, _ in front],
                "y": [y for _, y in front],
                "line": {"color": "#9aa5b4", "width": 1.5, "dash": "dot", "shape": "hv"},
                "hoverinfo": "skip",
            }
        )
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in points:
        groups.setdefault((entry.row.runtime, entry.row.precision), []).append(entry)
    for (runtime, precision), members in groups.items():
        names = [_point_name(report, e, several, len(machines) > 1) for e in members]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text" if len(points) <= LABELLED else "markers",
                "name": f"{runtime} {precision}",
                "x": [_trade(e)[0] for e in members],
                "y": [_trade(e)[1] for e in members],
                "text": [n if e.on_front else "" for n, e in zip(names, members, strict=True)],
                "textposition": "bottom center",
                "textfont": {"size": 11},
                "customdata": names,
                "marker": {"color": color(runtime), "size": 10, "symbol": SYMBOLS.get(precision, "x")},
                "hovertemplate": "%{customdata}<br>%{x:.4g} ms an image, %{y:.2f} %<extra></extra>",
                "cliponaxis": False,
            }
        )
    layout = {
        "xaxis": axis("milliseconds an image (median)", [_trade(e)[0] for e in points], log_from=6),
        "yaxis": {"title": {"text": "top-1, %"}},
    }
    return {"data": traces, "layout": layout, "height": 420}


def speedups(report: Overview) -> Figure | None:
    """The speed-up of each model in each runtime, with its interval; None for a single model."""
    groups: dict[str, list[tuple[str, Entry]]] = {}
    machines = len({r.machine for r in report.runs}) > 1
    several = len({e.row.size for e in report.entries if e.row.speedup is not None}) > 1
    for entry in report.entries:
        if entry.row.speedup is not None:
            run, row = report.runs[entry.run], entry.row
            name = f"{row.runtime} {row.precision} b{row.batch}" + (f" · {run.machine}" if machines else "")
            name += f" · {row.size[0]}x{row.size[1]}" if several and row.size else ""
            groups.setdefault(name, []).append((run.record.name, entry))
    models = list(dict.fromkeys(m for members in groups.values() for m, _ in members))
    if len(models) < 2:
        return None
    traces = []
    for number, (name, members) in enumerate(groups.items()):
        found_speedups = [e.row.speedup for _, e in members if e.row.speedup is not None]
        values = [s.speedup for s in found_speedups]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": values,
                "y": [m for m, _ in members],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [s.interval.high - s.speedup for s in found_speedups],
                    "arrayminus": [s.speedup - s.interval.low for s in found_speedups],
                    "thickness": 1,
                    "width": 0,
                    "color": color(members[0][1].row.runtime),
                },
                "marker": {
                    "color": color(members[0][1].row.runtime),
                    "symbol": SYMBOLS.get(members[0][1].row.precision, "x") + ("-open" if number % 2 else ""),
                    "size": 8,
                },
                "visible": True if number < SHOWN else "legendonly",
                "hovertemplate": "%{y}: %{x:.2f}x<extra>" + name + "</extra>",
            }
        )
    lows = [e.row.speedup.interval.low for g in groups.values() for _, e in g if e.row.speedup is not None]
    highs = [e.row.speedup.interval.high for g in groups.values() for _, e in g if e.row.speedup is not None]
    baseline = next((r.record.baseline for r in report.runs if r.record.baseline), "the baseline")
    each = {"dtick": 1, "range": [-0.8, len(models) - 0.2]}
    layout = {
        "xaxis": {
            "title": {"text": f"times as fast as {baseline}"},
            "type": "log",
            **log_ticks(min(lows, default=1), max(highs, default=1)),
        },
        "yaxis": {"type": "category", "categoryorder": "array", "categoryarray": models[::-1], **each},
        "shapes": [
            {"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 1, "color": EVEN}}
        ],
    }
    return {"data": traces, "layout": layout, "height": MARGIN + 60 + 19 * len(models)}


def _trade(entry: Entry) -> tuple[float, float]:
    row = entry.row
    if row.latency is None or row.accuracy is None:
        raise ValueError(f"the row {row.key} has no accuracy or no latency")
    return row.latency.p50_ms / row.batch, 100 * row.accuracy.top1


def _point_name(report: Overview, entry: Entry, models: bool, machines: bool) -> str:
    run = report.runs[entry.run]
    words = [run.record.name] if models else []
    words += [entry.row.runtime, entry.row.precision, f"b{entry.row.batch}"]
    return " ".join(words + ([f"({run.machine})"] if machines else []))
