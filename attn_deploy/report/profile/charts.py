"""Figures of profiles as data for plotly.js: traces and a layout, without colours of text and ground, which the page sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from attn_deploy.bench import statistics
from attn_deploy.bench.layers import LayerReport
from attn_deploy.bench.row import ProfileRow
from attn_deploy.comparison.overview import Entry, scaling
from attn_deploy.report.profile.rows import milliseconds

Figure = dict[str, Any]

COLORS = {
    "eager": "#7d8899",
    "compile": "#9a63d6",
    "ort-cpu": "#2f7fd6",
    "openvino": "#7a5cc4",
    "ort-cuda": "#12a08f",
    "ort-tensorrt-rtx": "#e2703a",
    "tensorrt": "#2f9e62",
    "tensorrt-rtx": "#7fae12",
}
SPARE = ("#c2477f", "#b08900", "#4d6fd6", "#a0522d")
SYMBOLS = {"fp32": "circle", "fp16": "square", "bf16": "diamond", "int8": "triangle-up", "fp8": "cross"}
BOUNDS = {"compute": "arithmetic", "memory": "memory", "launch": "starting nodes"}
ROW = 30  # pixels of one row of a horizontal chart
MARGIN = 78  # above and below it
NAMED = 32  # lines up to which a chart has a legend
DASHES = (
    "solid",
    "dash",
    "dot",
    "dashdot",
    "longdash",
    "longdashdot",
)  # of batches and sizes, where lines share a colour
LEVEL = 10.0  # percent that the chart of the rounds shows at least, so that noise of a few looks like little
LOG_FROM = 20  # ratio of the largest to the smallest value from which an axis is logarithmic


def color(runtime: str) -> str:
    """A colour for each runtime, the same in every chart."""
    return COLORS.get(runtime) or SPARE[sum(map(ord, runtime)) % len(SPARE)]


def labels(entries: Sequence[Entry]) -> list[str]:
    """A short name for each row, with what tells it from the others."""
    rows = [e.row for e in entries]
    precisions, batches = {r.precision for r in rows} != {"fp32"}, len({r.batch for r in rows}) > 1
    sizes = len({r.size for r in rows}) > 1

    def name(row: ProfileRow) -> str:
        words = [row.runtime]
        words += [row.precision] if precisions else []
        words += [f"b{row.batch}"] if batches else []
        words += [f"{row.size[0]}x{row.size[1]}"] if sizes and row.size else []
        return " ".join(words + ["graph"] * row.cuda_graph)

    return [name(r) for r in rows]


def distribution(entries: Sequence[Entry]) -> Figure | None:
    """Each row's latency: a box from the first to the third quartile, whiskers to the 5th and 95th percentile, and p99."""
    named = [(n, e.row) for n, e in zip(labels(entries), entries, strict=True) if e.row.latency is not None]
    if not named:
        return None
    traces: list[dict[str, Any]] = []
    for name, row in named:
        if row.latency is None:
            continue
        q = {p: row.latency.percentile_ms(p) for p in (5, 25, 50, 75, 95)}
        traces.append(
            {
                "type": "box",
                "orientation": "h",
                "name": name,
                "y": [name],
                "q1": [q[25]],
                "median": [q[50]],
                "q3": [q[75]],
                "lowerfence": [q[5]],
                "upperfence": [q[95]],
                "line": {"color": color(row.runtime), "width": 1.6},
                "fillcolor": color(row.runtime) + "55",
                "width": 0.55,
                "showlegend": False,
                "hoverinfo": "x",
            }
        )
    tails = [(n, r.latency.percentile_ms(99), r) for n, r in named if r.latency is not None and r.latency.resolves(99)]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "p99",
            "y": [n for n, _, _ in tails],
            "x": [v for _, v, _ in tails],
            "marker": {"symbol": "line-ns-open", "size": 11, "color": [color(r.runtime) for _, _, r in tails]},
            "showlegend": False,
            "hovertemplate": "p99 %{x:.4g} ms<extra>%{y}</extra>",
        }
    )
    values = [r.latency.percentile_ms(p) for _, r in named if r.latency is not None for p in (5, 50, 95)]
    values += [v for _, v, _ in tails]
    return {
        "data": traces,
        "layout": {
            "xaxis": axis("milliseconds", values),
            "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
        },
        "height": MARGIN + ROW * len(named),
    }


def rounds(entries: Sequence[Entry]) -> Figure | None:
    """The median of each round over that of all: how steady the machine was while all rows were timed in turn.

    In percent; where a round took more than twice its row's median, as a ratio on a logarithmic axis.
    """
    shapes = list(dict.fromkeys((e.row.batch, e.row.size, e.row.cuda_graph) for e in entries))
    lines: list[tuple[str, ProfileRow, list[float]]] = []
    for name, entry in zip(labels(entries), entries, strict=True):
        if entry.row.latency is None:
            continue
        medians = [float(m) / 1e6 for m in statistics.round_medians(entry.row.latency.rounds)]
        if len(medians) > 1:
            lines.append((name, entry.row, [m / entry.row.latency.p50_ms for m in medians]))
    if not lines:
        return None
    ratios = [r for _, _, line in lines for r in line]
    wide = max(ratios) > 2
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": list(range(1, len(line) + 1)),
            "y": [round(r, 5) if wide else round(100 * (r - 1), 3) for r in line],
            "line": {
                "color": color(row.runtime),
                "width": 1.5,
                "dash": DASHES[shapes.index((row.batch, row.size, row.cuda_graph)) % len(DASHES)],
            },
            "marker": {"symbol": SYMBOLS.get(row.precision, "x"), "size": 5},
            "hovertemplate": "round %{x}: " + ("%{y:.3g} times" if wide else "%{y:+.1f} %"),
            "showlegend": len(lines) <= NAMED,  # with many rows the names are shown on hovering
        }
        for name, row, line in lines
    ]
    if wide:
        low, high = min(*ratios, 0.8), max(ratios)
        across: dict[str, Any] = {"title": {"text": "times its median"}, "type": "log", **log_ticks(low, high)}
        across["range"] = [math.log10(low / 1.2), math.log10(high * 1.2)]
    else:
        low, high = 110 * (min(ratios) - 1), 110 * (max(ratios) - 1)
        across = {"title": {"text": "% from its median"}, "range": [min(low, -LEVEL), max(high, LEVEL)]}
    return {"data": traces, "layout": {"xaxis": {"title": {"text": "round"}}, "yaxis": across}, "height": 320}


def batches(entries: Sequence[Entry]) -> Figure | None:
    """Time per item against the batch; None where no runtime has two batch sizes."""
    sizes = {s for _, _, s in scaling(entries)}
    traces = []
    for (runtime, precision, size), points in scaling(entries).items():
        words = [runtime, precision] + ([size] if len(sizes) > 1 else [])
        traces.append(_line(" ".join(words), runtime, precision, points, "batch %{x}: %{y:.4g} ms an item"))
    if not traces:
        return None
    ticks = sorted({b for t in traces for b in t["x"]})
    values = [v for t in traces for v in t["y"]]
    layout = {
        "xaxis": {"title": {"text": "batch"}, "type": "log", "tickvals": ticks, "ticktext": list(map(str, ticks))},
        "yaxis": axis("milliseconds an item", values),
    }
    return {"data": traces, "layout": layout, "height": 320}


def sizes(entries: Sequence[Entry]) -> Figure | None:
    """Time against the number of pixels; None where no runtime has two sizes."""
    groups: dict[tuple[str, str, int], dict[int, tuple[str, float]]] = {}
    for entry in entries:
        row = entry.row
        if row.latency is not None and row.size is not None and not row.cuda_graph:
            pixels = row.size[0] * row.size[1]
            group = groups.setdefault((row.runtime, row.precision, row.batch), {})
            group[pixels] = (f"{row.size[0]}x{row.size[1]}", row.latency.p50_ms)
    groups = {k: v for k, v in groups.items() if len(v) > 1}
    if not groups:
        return None
    several = len({b for _, _, b in groups}) > 1
    traces = [
        _line(
            " ".join([runtime, precision] + ([f"b{batch}"] if several else [])),
            runtime,
            precision,
            [(p, v) for p, (_, v) in sorted(points.items())],
            "%{y:.4g} ms",
        )
        for (runtime, precision, batch), points in groups.items()
    ]
    names = {p: n for g in groups.values() for p, (n, _) in g.items()}
    ticks = sorted(names)
    layout = {
        "xaxis": {
            "title": {"text": "size"},
            "tickangle": 0,
            "type": "log",
            "tickvals": ticks,
            "ticktext": [names[t] for t in ticks],
        },
        "yaxis": axis("milliseconds", [v for t in traces for v in t["y"]]),
    }
    return {"data": traces, "layout": layout, "height": 320}


def light(entries: Sequence[Entry]) -> Figure | None:
    """How much of the speed of light each row reaches, and what limits it; None where no limit is known."""
    named = [
        (n, e) for n, e in zip(labels(entries), entries, strict=True) if e.limit is not None and e.limit.floor_ms > 0
    ]
    if not named:
        return None
    shares = [100 / e.limit.multiple for _, e in named if e.limit is not None]
    texts, hovers = [], []
    for share, (_, entry) in zip(shares, named, strict=True):
        limit = entry.limit
        if limit is None:
            continue
        texts.append(f"{share:.3g} %, {BOUNDS[limit.bound]}")
        parts = (("arithmetic", limit.compute_ms), ("memory", limit.memory_ms), ("starting nodes", limit.launch_ms))
        floors = "<br>".join(f"{what} {milliseconds(ms)} ms" for what, ms in parts if ms is not None)
        hovers.append(f"measured {milliseconds(limit.measured_ms)} ms<br>{floors}<br>device {limit.device}")
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [n for n, _ in named],
        "x": shares,
        "text": texts,
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": hovers,
        "hoverinfo": "text",
        "marker": {"color": [color(e.row.runtime) for _, e in named]},
        "width": 0.6,
        "showlegend": False,
    }
    layout = {
        # Room for the words behind the longest bar.
        "xaxis": {
            "title": {"text": "% of the speed of light"},
            "range": [0, max(shares) * 1.75],
        },
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    return {"data": [trace], "layout": layout, "height": MARGIN + ROW * len(named)}


def medians(entries: Sequence[Entry], confidence: float, seed: int) -> Figure | None:
    """The median of each row as a bar with its number and its interval; logarithmic where they differ much."""
    timed = [(e.row, e.row.latency) for e in entries if e.row.latency is not None]
    if not timed:
        return None
    values = [latency.p50_ms for _, latency in timed]
    bounds = [latency.median_interval_ms(confidence, seed) for _, latency in timed]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": values,
        "y": [row.key for row, _ in timed],
        "hovertext": [
            f"{row.key}: {milliseconds(v)} ms ({milliseconds(b.low)} - {milliseconds(b.high)})"
            for (row, _), v, b in zip(timed, values, bounds, strict=True)
        ],
        "hoverinfo": "text",
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, b.high - v) for v, b in zip(values, bounds, strict=True)],
            "arrayminus": [max(0.0, v - b.low) for v, b in zip(values, bounds, strict=True)],
            "thickness": 1.2,
            "width": 3,
        },
        "marker": {"color": [color(row.runtime) for row, _ in timed]},
        "width": 0.6,
        "showlegend": False,
    }
    numbers = {  # behind the interval, which would strike through them at the end of the bar
        "type": "scatter",
        "mode": "text",
        "x": [max(v, b.high) for v, b in zip(values, bounds, strict=True)],
        "y": trace["y"],
        "text": [f"  {milliseconds(v)} ms" for v in values],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    }
    across: dict[str, Any] = {
        "title": {"text": "median ms"},
        "range": [0, max(b.high for b in bounds) * 1.3],
    }
    if max(values) > LOG_FROM * min(values):
        low, high = min(values) / 2, max(b.high for b in bounds) * 3
        across = {"title": {"text": "median ms, logarithmic"}, "type": "log", **log_ticks(low, high)}
        across["range"] = [math.log10(low), math.log10(high)]
    layout = {"xaxis": across, "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"}}
    return {"data": [trace, numbers], "layout": layout, "height": MARGIN + ROW * len(timed)}


def layers(report: LayerReport) -> Figure:
    """Where the microseconds go, as a flame: each module with what is inside it, and at the tips its nodes."""
    ids, parents, names, values = ["module:"], [""], [report.name], [report.total_us]
    for module in report.modules:
        if module.module:
            head, _, tail = module.module.rpartition(".")
            ids.append(f"module:{module.module}")
            parents.append(f"module:{head}")
            names.append(tail)
            values.append(module.microseconds)
    for number, layer in enumerate(report.layers):
        ids.append(f"node:{number}")
        parents.append(f"module:{layer.module}")
        names.append(layer.operator)
        values.append(layer.microseconds)
    trace = {
        "type": "icicle",
        "ids": ids,
        "parents": parents,
        "labels": names,
        "values": values,
        "branchvalues": "total",
        "tiling": {"orientation": "v"},
        "texttemplate": "%{label} %{percentRoot:.0%}",
        "hovertemplate": "%{id}<br>%{value:.1f} us, %{percentRoot:.1%}<extra></extra>",
        "maxdepth": 7,
        "pathbar": {"visible": True},
        "marker": {
            "colorscale": [[0, "#bcd6f5"], [0.25, "#6fa8e5"], [1, "#e2703a"]],
            "colors": [0.0, *values[1:]],  # the whole is no news
            "cmin": 0,
            "cmax": report.total_us,
        },
    }
    # Names that do not fit are left out: hovering tells them.
    layout = {"margin": {"l": 4, "r": 4, "t": 30, "b": 4}, "uniformtext": {"minsize": 11, "mode": "hide"}}
    depth = max((m.module.count(".") + 2 for m in report.modules if m.module), default=1)
    return {
        "data": [trace],
        "layout": layout,
        "height": 90 + 42 * min(7, depth + 1),
    }


def _line(name: str, runtime: str, precision: str, points: Iterable[tuple[int, float]], hover: str) -> dict[str, Any]:
    points = list(points)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "line": {"color": color(runtime), "width": 1.6},
        "marker": {"symbol": SYMBOLS.get(precision, "x"), "size": 8, "color": color(runtime)},
        "hovertemplate": hover,
    }


def axis(title: str, values: Sequence[float], log_from: float = LOG_FROM) -> dict[str, Any]:
    """An axis for these values: from zero, or logarithmic where they span more than ``log_from``."""
    positive = [v for v in values if v > 0]
    if not positive or max(positive) / min(positive) <= log_from:
        return {"title": {"text": title}, "rangemode": "tozero"}
    return {"title": {"text": title}, "type": "log", **log_ticks(min(positive), max(positive))}


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis with their numbers in full: the library writes a 2 for 0.02, 0.2 and 20 alike."""
    for digits in (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 4, 5, 7),
        (1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 7),
    ):
        exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        ticks = [round(d * 10.0**e, 12) for e in exponents for d in digits]
        inside = [t for t in ticks if low / 1.25 <= t <= high * 1.25]
        if len(inside) >= 4:
            break
    return {"tickvals": inside, "ticktext": [f"{t:g}" for t in inside], "tickangle": 0}


def dash(precision: str) -> str:
    """A pattern of lines for each precision."""
    return {"fp32": "solid", "fp16": "dash", "bf16": "dashdot", "int8": "dot"}.get(precision, "longdash")
