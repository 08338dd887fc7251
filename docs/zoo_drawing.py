"""Draws the graph of a zoo entry as one line of SVG, in the colours of the page that it stands in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

MOST = 80  # nodes of a drawing; larger graphs are told by their operators
LETTER, PAD, HEIGHT, DOWN, ACROSS = 6.6, 16, 22, 42, 14
HEAVY = frozenset(("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"))


def drawing(graph: Mapping[str, Any]) -> str:
    """The picture; nothing for a graph that is too large for one."""
    nodes = graph.get("nodes")
    if not nodes or len(nodes) > MOST:
        return ""
    names = {-1 - k: name for k, name in enumerate(graph["inputs"])}
    names |= {k: operator for k, (operator, _) in enumerate(nodes)}
    taken = {k: list(sources) for k, (_, sources) in enumerate(nodes)}
    for k, (name, source) in enumerate(graph["outputs"]):
        names[len(nodes) + k] = name
        taken[len(nodes) + k] = [source]
    rows = _rows(names, taken)
    return _svg(rows, names, taken, set(range(len(nodes))))


def operators(graph: Mapping[str, Any]) -> str:
    """How often each operator stands in the graph: ``Conv 2, Relu 1``."""
    counts = graph.get("operators") or Counter(operator for operator, _ in graph["nodes"])
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])))


def _rows(names: Mapping[int, str], taken: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """The nodes by the longest way from an input, those of a row below what they take."""
    level: dict[int, int] = {k: 0 for k in names if k < 0}
    for k in sorted(taken):
        level[k] = 1 + max((level[s] for s in taken[k]), default=0)
    rows: list[list[int]] = [[] for _ in range(1 + max(level.values()))]
    place: dict[int, float] = {}
    for k in sorted(level, key=lambda k: (level[k], k)):
        rows[level[k]].append(k)
    for row in rows:
        row.sort(key=lambda k: sum(place[s] for s in taken.get(k, ())) / max(1, len(taken.get(k, ()))))
        for number, k in enumerate(row):
            place[k] = (number + 0.5) / len(row)
    return rows


def _svg(
    rows: Sequence[Sequence[int]], names: Mapping[int, str], taken: Mapping[int, Sequence[int]], nodes: set[int]
) -> str:
    width = {k: PAD + LETTER * len(names[k]) for k in names}
    wide = max(sum(width[k] + ACROSS for k in row) for row in rows) + ACROSS
    middle: dict[int, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        gap = (wide - sum(width[k] for k in row)) / (len(row) + 1)
        x = gap
        for k in row:
            middle[k] = (x + width[k] / 2, 8 + number * DOWN + HEIGHT / 2)
            x += width[k] + gap
    parts = []
    for k, sources in taken.items():
        for s in sources:
            (x1, y1), (x2, y2) = middle[s], middle[k]
            y1, y2 = y1 + HEIGHT / 2, y2 - HEIGHT / 2
            bend = (y1 + y2) / 2
            parts.append(
                f'<path d="M{x1:.0f} {y1:.0f}C{x1:.0f} {bend:.0f} {x2:.0f} {bend:.0f} {x2:.0f} {y2:.0f}" fill="none" '
                'stroke="currentColor" stroke-opacity=".45"/>'
            )
    for k, (x, y) in middle.items():
        fill = ".16" if names[k] in HEAVY and k in nodes else ".06" if k in nodes else "0"
        box = (
            f'<rect x="{x - width[k] / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{width[k]:.1f}" height="{HEIGHT}" '
            f'rx="{4 if k in nodes else 11}" '
        )
        parts.append(
            f'{box}style="fill:var(--md-default-bg-color,#fff)"/>'  # hides the lines that pass behind
            f'{box}fill="currentColor" fill-opacity="{fill}" stroke="currentColor" stroke-opacity=".6"/>'
            f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="currentColor" font-size="12">{escape(names[k])}</text>'
        )
    tall = 16 + (len(rows) - 1) * DOWN + HEIGHT
    return (
        f'<svg viewBox="0 0 {wide:.0f} {tall:.0f}" width="{wide:.0f}" style="max-width:100%;height:auto" role="img" '
        f'font-family="sans-serif" aria-label="the exported graph">{"".join(parts)}</svg>'
    )
