"""The matrix as one HTML page that needs nothing else: a grid with filters, and the evidence of each cell."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from attn_deploy.matrix.cell import FAILED, PASSED, SKIPPED, Cell, CellId
from attn_deploy.matrix.record import MatrixRecord
from attn_deploy.matrix.summary import cell_groups, models_of, unmade_checks
from attn_deploy.report.matrix.tables import environment_line

_PAGE = Path(__file__).with_name("page.html")
_WORDS = {PASSED: "passed", FAILED: "failed", SKIPPED: "not applicable"}


def matrix_html(record: MatrixRecord) -> str:
    """The page; a cell of it has the address ``#cell-N`` with N its number in the record."""
    groups = _groups(record)
    options = "".join(f'<option value="{i}">{escape(_title(g, record))}</option>' for i, g in enumerate(groups))
    page = _PAGE.read_text(encoding="utf-8")
    for mark, text in (
        ("<!--HEAD-->", _head(record)),
        ("<!--COLUMNS-->", options),
        ("<!--GRID-->", _grid(record, groups)),
        ("<!--FOOT-->", _foot(record)),
        ("<!--DATA-->", _data(record)),
    ):
        page = page.replace(mark, text, 1)
    return page


def _head(record: MatrixRecord) -> str:
    counts, total = record.counts, max(1, len(record.cells))
    models, groups = len(models_of(record)), len(_groups(record))
    tiles = "".join(
        f'<div class="tile {status}{"" if counts[status] else " none"}"><b>{counts[status]:,}</b>{_WORDS[status]}</div>'
        for status in (PASSED, FAILED, SKIPPED)
    )
    bar = "".join(
        f'<i class="{status}" style="width:{100 * counts[status] / total:.3f}%"></i>'
        for status in (PASSED, FAILED, SKIPPED)
    )
    state = " The run was interrupted: cells are missing." if record.interrupted else ""
    if record.lacks:
        state += f" Not whole, without {escape('; '.join(record.lacks))}."
    return (
        f"<h1>Compatibility matrix</h1>\n"
        f'<div class="soft">{len(record.cells):,} cells: {models} models, {groups} exporter settings. Every file was read '
        "back, checked and compared with PyTorch in ONNX Runtime at sizes that were not traced."
        f"{state}</div>\n"
        f'<div class="tiles">{tiles}</div><div class="bar">{bar}</div>\n'
        f"{_reasons('Red cells', record.failures, FAILED)}{_reasons('Grey cells', record.skipped, SKIPPED)}"
    )


def _reasons(title: str, cells: list[Cell], status: str) -> str:
    if not cells:
        return ""
    items = []
    for f in cell_groups(cells):
        check = f'<span class="tag {status}">{escape(f.check)}</span> ' if f.check else ""
        rule = f' <span class="tag">rule {escape(f.rule)}</span>' if f.rule else ""
        items.append(
            f'<li class="{status}"><b class="model">{escape(f.model)}</b> <span class="where">{escape(f.where)}</span> '
            f"{check}{rule}<br>{escape(f.reason)}</li>"
        )
    return f'<h2>{title}</h2>\n<ul class="reasons">{"".join(items)}</ul>\n'


def _groups(record: MatrixRecord) -> list[tuple[str, str, str]]:
    """The column groups: exporter, dynamic, precision."""
    return sorted({(c.id.exporter, c.id.dynamic, c.id.precision) for c in record.cells})


def _title(group: tuple[str, str, str], record: MatrixRecord) -> str:
    exporter, dynamic, precision = group
    words = [exporter]
    if len({g[1] for g in _groups(record)}) > 1:
        words.append(f"dynamic {dynamic}")
    if len({g[2] for g in _groups(record)}) > 1:
        words.append(precision)
    return " · ".join(words)


def _grid(record: MatrixRecord, groups: list[tuple[str, str, str]]) -> str:
    opsets = {g: sorted({c.id.opset for c in record.cells if _group(c) == g}) for g in groups}
    first = "".join(
        f'<th colspan="{len(opsets[g])}" data-g="{i}">{escape(_title(g, record))}</th>' for i, g in enumerate(groups)
    )
    second = "".join(f'<th data-g="{i}"{_edge(opsets[g], n)}>{n}</th>' for i, g in enumerate(groups) for n in opsets[g])
    numbers = {c.id: i for i, c in enumerate(record.cells)}
    lines = []
    for model in models_of(record):
        entries = []
        for i, group in enumerate(groups):
            for opset in opsets[group]:
                number = numbers.get(CellId(model, group[0], opset, group[1], group[2]))
                edge = _edge(opsets[group], opset)
                entries.append(f'<td data-g="{i}"{edge}>{_button(record, number)}</td>')
        name = escape(model)
        lines.append(f'<tr data-model="{name.lower()}"><th class="name model">{name}</th>{"".join(entries)}</tr>')
    return (
        f'<div class="sheet"><table id="grid"><thead><tr><th class="name"></th>{first}</tr>'
        f'<tr><th class="name soft">opset</th>{second}</tr></thead>\n<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>'
    )


def _group(cell: Cell) -> tuple[str, str, str]:
    return (cell.id.exporter, cell.id.dynamic, cell.id.precision)


def _edge(opsets: list[int], opset: int) -> str:
    kinds = (["first"] if opset == opsets[0] else []) + (["last"] if opset == opsets[-1] else [])
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _button(record: MatrixRecord, number: int | None) -> str:
    if number is None:
        return ""
    cell = record.cells[number]
    engine = cell.check("engine")
    extra = " engine" if cell.status == PASSED and engine is not None and engine.status == PASSED else ""
    label = escape(f"{cell.id}: {_WORDS[cell.status]}")
    return f'<button type="button" id="c{number}" class="{cell.status}{extra}" aria-label="{label}"></button>'


def _foot(record: MatrixRecord) -> str:
    lines = [
        f"{escape(check)} was not made in {count} cells: {escape(reason)}"
        for (check, reason), count in unmade_checks(record).items()
    ]
    lines.append(escape(environment_line(record)))
    return "".join(f'<p class="soft">{line}</p>' for line in lines)


def _data(record: MatrixRecord) -> str:
    """The evidence; a text that many cells share stands there once."""
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    cells: list[dict[str, Any]] = []
    for cell in record.cells:
        entry: dict[str, Any] = {"name": str(cell.id), "seconds": round(cell.seconds, 1)}
        if cell.reason:
            entry["reason"] = number(cell.reason)
        if cell.rule:
            entry["rule"] = cell.rule
        if cell.status != SKIPPED:
            entry["checks"] = [[c.name, c.status, number(c.detail)] for c in cell.checks]
        cells.append(entry)
    text = json.dumps({"texts": list(texts), "cells": cells}, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # no text can end the script element
