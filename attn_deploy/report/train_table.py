"""A training table as Markdown and as one HTML page with its chart. Formatting only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from attn_deploy.files import write_atomic
from attn_deploy.pages.blocks import tiles
from attn_deploy.pages.page import NOTHING, Html, html, joined, page
from attn_deploy.report.markdown import inline, name
from attn_deploy.training.deployed import Deployed
from attn_deploy.training.summary import TableRow, TableSummary

MARKDOWN, PAGE = "table.md", "table.html"
NOT_MEASURED = "not measured"
COLUMNS = (
    "module",
    "top-1",
    "parameters",
    "MACs",
    "training",
    "fp32 p50 ms",
    "exported top-1",
    "same answers",
    "int8 p50 ms",
    "int8 top-1",
)
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 1160, 420, 64, 48, 16, 140


def write_pages(summary: TableSummary, folder: Path) -> None:
    """Write ``table.md`` and ``table.html``."""
    write_atomic(folder / MARKDOWN, table_markdown(summary))
    write_atomic(folder / PAGE, table_html(summary))


def table_markdown(summary: TableSummary) -> str:
    """The table with its caption."""
    lines = [f"# {inline(_title(summary))}", "", *map(inline, train_table_caption(summary)), ""]
    lines.append(f"| {' | '.join(COLUMNS)} |")
    lines.append(f"|{'|'.join(['---'] + ['---:'] * (len(COLUMNS) - 1))}|")
    lines += [f"| {' | '.join(map(inline, cells(r)))} |" for r in summary.rows]
    reasons = [r for r in summary.rows if r.reason]
    if reasons:
        lines += ["", "No number, and why:", ""]
        lines += [f"- {name(r.model)}: {inline(r.reason or '')}" for r in reasons]
    return "\n".join(lines) + "\n"


def train_table_caption(summary: TableSummary) -> list[str]:
    """What the numbers are of, one sentence a line."""
    plan, recipe = summary.plan, summary.plan["recipe"]
    measured = [r for r in summary.rows if r.mean is not None]
    seeds = f"{plan['seeds']} seed{'s' if plan['seeds'] > 1 else ''}"
    lines = [
        f"Images: **{plan['source']}**; trained for {recipe['epochs']} epochs at batch {recipe['batch']}, {seeds}.",
        f"{len(measured)} of {len(summary.rows)} rows have numbers. Rows in bold are on the front of accuracy against fp32 "
        "latency.",
        "Top-1 is of the averaged weights on the test images, looked at once after the last epoch; ± is the standard "
        "deviation over seeds. Latency is of one image in ONNX Runtime on one thread, with its 95 % interval.",
    ]
    lines += [f"Ran on {where}." for where in summary.environments]
    if summary.busy is not None:
        lines.append(
            f"Other work ran on the machine (load up to {summary.busy:g}): training times hold it, and differences of a few "
            "percent in latency mean nothing. Accuracies do not depend on it."
        )
    return lines


def cells(row: TableRow) -> list[str]:
    """A row of the table as Markdown."""
    module = f"**{row.module}**" if row.on_front else row.module
    if row.mean is None:
        state = "does not fit" if row.reason else f"{NOT_MEASURED} ({row.progress})" if row.progress else NOT_MEASURED
        return [module, state, *[NOT_MEASURED] * (len(COLUMNS) - 2)]
    spread = "" if row.spread is None else f" ± {100 * row.spread:.2f}"
    seeds = f" (n={len(row.top1)})" if len(row.top1) > 1 else ""
    return [
        module,
        f"{100 * row.mean:.2f} %{spread}{seeds}",
        f"{row.parameters:,}",
        f"{row.macs / 1e6:.1f} M" if row.macs is not None else NOT_MEASURED,
        _duration(row.seconds),
        _latency(row.fp32),
        NOT_MEASURED if row.fp32 is None else f"{100 * row.fp32.top1:.2f} %",
        NOT_MEASURED if row.fp32 is None else f"{row.fp32.same:,} of {row.fp32.images:,}",
        _latency(row.int8),
        NOT_MEASURED if row.int8 is None else f"{100 * row.int8.top1:.2f} %",
    ]


def table_html(summary: TableSummary) -> str:
    """One page without scripts or anything from elsewhere."""
    plain = next((r.mean for r in summary.rows if r.module == "none"), None)
    heads = [*COLUMNS[:2], *["against plain"] * (plain is not None), *COLUMNS[2:]]
    kinds = [Html(' class="word"'), *[NOTHING] * (len(heads) - 1)]
    head = joined(html("<th{}>{}</th>", k, c) for k, c in zip(kinds, heads, strict=True))
    lines = []
    for row in summary.rows:
        shown = [row.module, *cells(row)[1:]]
        if plain is not None:
            shown.insert(2, "" if row.mean is None else f"{100 * (row.mean - plain):+.2f} points")
        line = joined(html("<td{}>{}</td>", k, c) for k, c in zip(kinds, shown, strict=True))
        lines.append(html("<tr{}>{}</tr>", Html(' class="front"') if row.on_front else NOTHING, line))
    notes = joined(html('<p class="soft">{}</p>', line.replace("**", "")) for line in train_table_caption(summary))
    reasons = joined(html("<li><b>{}</b> {}</li>", r.model, r.reason) for r in summary.rows if r.reason)
    refused = html('<h2>No number, and why</h2><ul class="reasons">{}</ul>', reasons) if reasons else NOTHING
    drawing = chart(summary.rows)
    card = '<figure class="card"><figcaption>Accuracy against latency</figcaption>{}</figure>'
    title = _title(summary)
    body = html(
        '<h1>{}</h1>{}{}<div class="sheet"><table id="table"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>{}{}',
        title,
        _figures(summary),
        html(card, drawing) if drawing else NOTHING,
        head,
        joined(lines, "\n"),
        refused,
        notes,
    )
    return page(title, body)


def _figures(summary: TableSummary) -> Html:
    """How many rows have numbers, and which of them is the most accurate and which the fastest."""
    trained = [r for r in summary.rows if r.mean is not None]
    timed = [(r, r.fp32) for r in trained if r.fp32 is not None]
    entries = [("ok" if trained else "none", f"{len(trained)} of {len(summary.rows)}", "rows with numbers")]
    if trained:
        best = max(trained, key=lambda r: r.mean or 0.0)
        entries.append(("", f"{100 * (best.mean or 0.0):.2f} %", f"top-1, {best.module}"))
    if timed:
        row, fastest = min(timed, key=lambda pair: pair[1].p50_ms)
        entries.append(("", f"{fastest.p50_ms:.3f} ms", f"fp32, {row.module}"))
    return tiles(entries)


def chart(rows: Sequence[TableRow]) -> Html:
    """Accuracy against fp32 latency as SVG, with the front as a line; nothing where fewer than two rows have both."""
    points = [(r.fp32.p50_ms, 100 * r.mean, r) for r in rows if r.fp32 is not None and r.mean is not None]
    if len(points) < 2:
        return NOTHING
    x_low, x_high = _range([p[0] for p in points], floor=0.0)
    y_low, y_high = _range([p[1] for p in points], floor=0.0, ceiling=100.0)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    parts = []
    for y in _ticks(y_low, y_high):
        down = place(x_low, y)[1]
        parts.append(html('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>', LEFT, down, WIDTH - RIGHT, down))
        parts.append(html('<text x="{}" y="{}" text-anchor="end">{:g}</text>', LEFT - 6, down + 4, y))
    for x in _ticks(x_low, x_high):
        across, below = place(x, y_low)[0], HEIGHT - BOTTOM + 18
        parts.append(html('<line class="grid" x1="{0}" y1="{1}" x2="{0}" y2="{2}"/>', across, TOP, HEIGHT - BOTTOM))
        parts.append(html('<text x="{}" y="{}" text-anchor="middle">{:g}</text>', across, below, x))
    middle, half = (LEFT + WIDTH - RIGHT) / 2, HEIGHT / 2
    parts.append(html('<text x="{}" y="{}" text-anchor="middle">fp32 latency, ms (p50)</text>', middle, HEIGHT - 8))
    parts.append(html('<text x="14" y="{0}" transform="rotate(-90 14 {0})" text-anchor="middle">top-1, %</text>', half))
    front = sorted((p for p in points if p[2].on_front), key=lambda p: (p[0], p[1]))
    line = " ".join(f"{a},{b}" for a, b in (place(x, y) for x, y, _ in front))
    parts.append(html('<polyline class="line" points="{}"/>', line))
    for x, y, row in points:
        across, down = place(x, y)
        kind = "dot front" if row.on_front else "dot"
        dot = '<circle class="{}" cx="{}" cy="{}" r="4"><title>{}</title></circle><text x="{}" y="{}">{}</text>'
        parts.append(html(dot, kind, across, down, row.module, across + 7, down + 4, row.module))
    drawing = '<svg class="drawn" viewBox="0 0 {} {}" role="img" aria-label="accuracy against latency">{}</svg>'
    return html(drawing, WIDTH, HEIGHT, joined(parts))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values, four to nine of them."""
    ten = 10.0 ** math.floor(math.log10(high - low))
    steps = (ten * s for s in (0.1, 0.2, 0.5, 1, 2))
    step = next(s for s in steps if math.floor(high / s) - math.ceil(low / s) < 9)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(k * step, 10) for k in range(first, last + 1)]


def _range(values: Sequence[float], floor: float, ceiling: float = float("inf")) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return max(floor, low - margin), min(ceiling, high + margin)


def _title(summary: TableSummary) -> str:
    return f"{summary.plan['backbone']} with each module, on {summary.plan['source']}"


def _latency(deployed: Deployed | None) -> str:
    if deployed is None:
        return NOT_MEASURED
    return f"{deployed.p50_ms:.3f} ({deployed.low_ms:.3f} - {deployed.high_ms:.3f})"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NOT_MEASURED
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
