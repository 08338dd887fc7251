"""A training table as Markdown and as one HTML page with its chart. Formatting only."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from attn_deploy.files import write_atomic
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
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 420, 64, 48, 16, 120


def write_pages(summary: TableSummary, folder: Path) -> None:
    """Write ``table.md`` and ``table.html``."""
    write_atomic(folder / MARKDOWN, table_markdown(summary))
    write_atomic(folder / PAGE, table_html(summary))


def table_markdown(summary: TableSummary) -> str:
    """The table with its caption."""
    lines = [f"# {_title(summary)}", "", *caption(summary), ""]
    lines.append(f"| {' | '.join(COLUMNS)} |")
    lines.append(f"|{'|'.join(['---'] + ['---:'] * (len(COLUMNS) - 1))}|")
    lines += [f"| {' | '.join(cells(row))} |" for row in summary.rows]
    reasons = [r for r in summary.rows if r.reason]
    if reasons:
        lines += ["", "No number, and why:", ""]
        lines += [f"- `{r.model}`: {r.reason}" for r in reasons]
    return "\n".join(lines) + "\n"


def caption(summary: TableSummary) -> list[str]:
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
    name = f"**{row.module}**" if row.on_front else row.module
    if row.mean is None:
        state = "does not fit" if row.reason else f"{NOT_MEASURED} ({row.progress})" if row.progress else NOT_MEASURED
        return [name, state, *[NOT_MEASURED] * (len(COLUMNS) - 2)]
    spread = "" if row.spread is None else f" ± {100 * row.spread:.2f}"
    seeds = f" (n={len(row.top1)})" if len(row.top1) > 1 else ""
    return [
        name,
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
    head = "".join(f"<th>{html.escape(c)}</th>" for c in COLUMNS)
    body = "\n".join(
        f'<tr class="{"front" if row.on_front else ""}">'
        + "".join(f"<td>{html.escape(c.strip('*'))}</td>" for c in cells(row))
        + "</tr>"
        for row in summary.rows
    )
    notes = "".join(f"<p>{html.escape(line.replace('**', ''))}</p>" for line in caption(summary))
    reasons = "".join(
        f"<li><code>{html.escape(r.model)}</code>: {html.escape(r.reason)}</li>" for r in summary.rows if r.reason
    )
    refused = f"<h2>No number, and why</h2><ul>{reasons}</ul>" if reasons else ""
    title = html.escape(_title(summary))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{notes}{chart(summary.rows)}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{refused}</body></html>\n"
    )


def chart(rows: Sequence[TableRow]) -> str:
    """Accuracy against fp32 latency as SVG, with the front as a line; nothing where fewer than two rows have both."""
    points = [(r.fp32.p50_ms, 100 * r.mean, r) for r in rows if r.fp32 is not None and r.mean is not None]
    if len(points) < 2:
        return ""
    x_low, x_high = _range([p[0] for p in points], floor=0.0)
    y_low, y_high = _range([p[1] for p in points], floor=0.0, ceiling=100.0)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="accuracy against latency">']
    for k in range(5):
        x, y = x_low + k / 4 * (x_high - x_low), y_low + k / 4 * (y_high - y_low)
        (across, _), (_, down) = place(x, y_low), place(x_low, y)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{down}" x2="{WIDTH - RIGHT}" y2="{down}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down + 4}" text-anchor="end">{y:.1f}</text>')
        parts.append(f'<text x="{across}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:.2f}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">fp32 latency, ms (p50)</text>')
    parts.append(
        f'<text x="14" y="{HEIGHT / 2}" transform="rotate(-90 14 {HEIGHT / 2})" text-anchor="middle">top-1, %</text>'
    )
    front = sorted((p for p in points if p[2].on_front), key=lambda p: (p[0], p[1]))
    line = " ".join(f"{a},{b}" for a, b in (place(x, y) for x, y, _ in front))
    parts.append(f'<polyline class="line" points="{line}"/>')
    for x, y, row in points:
        across, down = place(x, y)
        kind = "dot front" if row.on_front else "dot"
        label = html.escape(row.module)
        parts.append(f'<circle class="{kind}" cx="{across}" cy="{down}" r="4"><title>{label}</title></circle>')
        parts.append(f'<text x="{across + 7}" y="{down + 4}">{label}</text>')
    return "".join(parts) + "</svg>"


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


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1.5rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
tr.front td{font-weight:600}
svg{max-width:48rem;width:100%;font-size:11px}
.grid{stroke:#eee}.line{fill:none;stroke:#1a6;stroke-width:1.5}.dot{fill:#888}.dot.front{fill:#1a6}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}th,td{border-color:#333}.grid{stroke:#333}text{fill:#ccc}}
"""
