"""Accuracy against latency as SVG: the front as a line, and labels that do not cover each other. Formatting only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from attn_deploy.pages.page import NOTHING, Html, html, joined
from attn_deploy.training.summary import TableRow

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 420, 64, 48, 16, 120
_LETTER, _LINE = 6.2, 12.0  # of a label, in the drawing's units


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
    for y in ticks(y_low, y_high):
        down = place(x_low, y)[1]
        parts.append(html('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>', LEFT, down, WIDTH - RIGHT, down))
        parts.append(html('<text x="{}" y="{}" text-anchor="end">{:g}</text>', LEFT - 6, down + 4, y))
    for x in ticks(x_low, x_high):
        across, below = place(x, y_low)[0], HEIGHT - BOTTOM + 18
        parts.append(html('<line class="grid" x1="{0}" y1="{1}" x2="{0}" y2="{2}"/>', across, TOP, HEIGHT - BOTTOM))
        parts.append(html('<text x="{}" y="{}" text-anchor="middle">{:g}</text>', across, below, x))
    middle, half = (LEFT + WIDTH - RIGHT) / 2, HEIGHT / 2
    parts.append(html('<text x="{}" y="{}" text-anchor="middle">fp32 latency, ms (p50)</text>', middle, HEIGHT - 8))
    parts.append(html('<text x="14" y="{0}" transform="rotate(-90 14 {0})" text-anchor="middle">top-1, %</text>', half))
    front = sorted((p for p in points if p[2].on_front), key=lambda p: (p[0], p[1]))
    line = " ".join(f"{a},{b}" for a, b in (place(x, y) for x, y, _ in front))
    parts.append(html('<polyline class="line" points="{}"/>', line))
    first = sorted(points, key=lambda p: not p[2].on_front)  # the front's names, which tell their values too, go first
    names = {r.module: f"{r.module} {y:.2f}" if r.on_front else r.module for _, y, r in points}
    corners = [place(x, y) for x, y, _ in front]
    labels = place_labels({names[r.module]: place(x, y) for x, y, r in first}, corners)
    for x, y, row in points:
        across, down = place(x, y)
        kind = "dot front" if row.on_front else "dot"
        tip = f"{row.module}: {y:.2f} %, {x:.3f} ms"
        parts.append(
            html('<circle class="{}" cx="{}" cy="{}" r="4"><title>{}</title></circle>', kind, across, down, tip)
        )
        label = names[row.module]
        if label in labels:
            left, base, anchor = labels[label]
            parts.append(html('<text x="{}" y="{}" text-anchor="{}">{}</text>', left, base, anchor, label))
    drawing = '<svg class="drawn" viewBox="0 0 {} {}" role="img" aria-label="accuracy against latency">{}</svg>'
    return html(drawing, WIDTH, HEIGHT, joined(parts))


def place_labels(
    dots: dict[str, tuple[float, float]], line: Sequence[tuple[float, float]] = ()
) -> dict[str, tuple[float, float, str]]:
    """Where the names go: right, left, above, below or beside a corner of their dots; none where all are taken.

    Args:
        dots: by name, the most important first; names that come later give way.
        line: corners of a line that no name may stand on.

    Returns:
        Left edge, baseline and anchor of each text that has a place.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in dots.values()]
    for (x, y), (u, v) in itertools.pairwise(line):
        steps = max(1, round(math.hypot(u - x, v - y) / 5))
        shares = [k / steps for k in range(steps + 1)]
        taken += [(x + (u - x) * s - 1, y + (v - y) * s - 1, x + (u - x) * s + 1, y + (v - y) * s + 1) for s in shares]
    placed: dict[str, tuple[float, float, str]] = {}
    for name, (x, y) in dots.items():
        width = _LETTER * len(name)
        for left, base, anchor, start in (
            (x + 7, y + 4, "start", x + 7),
            (x - 7, y + 4, "end", x - 7 - width),
            (x, y - 8, "middle", x - width / 2),
            (x, y + 17, "middle", x - width / 2),
            (x + 5, y + 15, "start", x + 5),
            (x + 5, y - 7, "start", x + 5),
            (x - 5, y + 15, "end", x - 5 - width),
            (x - 5, y - 7, "end", x - 5 - width),
        ):
            box = (start, base - _LINE + 2, start + width, base + 2)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM + 6
            if inside and not any(_overlap(box, other) for other in taken):
                placed[name] = (round(left, 1), round(base, 1), anchor)
                taken.append(box)
                break
    return placed


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def ticks(low: float, high: float) -> list[float]:
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
