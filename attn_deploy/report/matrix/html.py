"""The matrix as one HTML page that needs nothing else: a grid with filters, and the evidence of each cell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attn_deploy.matrix.cell import FAILED, PASSED, SKIPPED, Cell, CellId
from attn_deploy.matrix.record import MatrixRecord
from attn_deploy.matrix.summary import cell_groups, models_of, unmade_checks
from attn_deploy.pages.page import NOTHING, Html, html, joined, page
from attn_deploy.report.matrix.tables import environment_line

_BODY = Path(__file__).with_name("body.html")
_SCRIPT = Path(__file__).with_name("page.js")
_WORDS = {PASSED: "passed", FAILED: "failed", SKIPPED: "not applicable"}


def matrix_html(record: MatrixRecord) -> str:
    """The page; a cell of it has the address ``#cell-N`` with N its number in the record."""
    groups = _groups(record)
    options = joined(html('<option value="{}">{}</option>', i, _title(g, record)) for i, g in enumerate(groups))
    reasons = joined([_reasons("Red cells", record.failures, FAILED), _reasons("Grey cells", record.skipped, SKIPPED)])
    body = html(
        _BODY.read_text(encoding="utf-8"),
        head=_head(record),
        columns=options,
        grid=_grid(record, groups),
        reasons=reasons,
        foot=_foot(record),
    )
    return page(
        "Compatibility matrix",
        body,
        kind="matrix",
        after=Html('<aside id="detail" role="status" hidden></aside>\n'),
        data={"data": _data(record)},
        scripts=[_SCRIPT.read_text(encoding="utf-8")],
    )


def _head(record: MatrixRecord) -> Html:
    counts, total = record.counts, max(1, len(record.cells))
    models, groups = len(models_of(record)), len(_groups(record))
    statuses = (PASSED, FAILED, SKIPPED)
    tiles = joined(
        html('<div class="tile {}{}"><b>{:,}</b>{}</div>', s, "" if counts[s] else " none", counts[s], _WORDS[s])
        for s in statuses
    )
    bar = joined(html('<i class="{}" style="width:{:.3f}%"></i>', s, 100 * counts[s] / total) for s in statuses)
    state = " The run was interrupted: cells are missing." if record.interrupted else ""
    if record.lacks:
        state += f" Not whole, without {'; '.join(record.lacks)}."
    return html(
        '<h1>Compatibility matrix</h1>\n<div class="soft">{:,} cells: {} models, {} exporter settings. Every file was read '
        "back, checked and compared with PyTorch in ONNX Runtime at sizes that were not traced.{}</div>\n"
        '<div class="tiles">{}</div><div class="bar">{}</div>\n',
        len(record.cells),
        models,
        groups,
        state,
        tiles,
        bar,
    )


def _reasons(title: str, cells: list[Cell], status: str) -> Html:
    if not cells:
        return NOTHING
    items = [
        html(
            '<li class="{}"><b class="model">{}</b> <span class="where">{}</span> {}{}<br>{}</li>',
            status,
            f.model,
            f.where,
            html('<span class="tag {}">{}</span> ', status, f.check) if f.check else NOTHING,
            html(' <span class="tag">rule {}</span>', f.rule) if f.rule else NOTHING,
            f.reason,
        )
        for f in cell_groups(cells)
    ]
    return html('<h2>{}</h2>\n<ul class="reasons">{}</ul>\n', title, joined(items))


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


def _grid(record: MatrixRecord, groups: list[tuple[str, str, str]]) -> Html:
    opsets = {g: sorted({c.id.opset for c in record.cells if _group(c) == g}) for g in groups}
    first = joined(
        html('<th colspan="{}" data-g="{}">{}</th>', len(opsets[g]), i, _title(g, record)) for i, g in enumerate(groups)
    )
    second = joined(
        html('<th data-g="{}"{}>{}</th>', i, _edge(opsets[g], n), n) for i, g in enumerate(groups) for n in opsets[g]
    )
    numbers = {c.id: i for i, c in enumerate(record.cells)}
    lines = []
    for model in models_of(record):
        entries = []
        for i, group in enumerate(groups):
            for opset in opsets[group]:
                number = numbers.get(CellId(model, group[0], opset, group[1], group[2]))
                edge = _edge(opsets[group], opset)
                entries.append(html('<td data-g="{}"{}>{}</td>', i, edge, _button(record, number)))
        line = '<tr data-model="{}"><th class="name model">{}</th>{}</tr>'
        lines.append(html(line, model.lower(), _breakable(model), joined(entries)))
    return html(
        '<div class="sheet"><table id="grid"><thead><tr><th class="name"></th>{}</tr>'
        '<tr><th class="name soft">opset</th>{}</tr></thead>\n<tbody>\n{}\n</tbody></table></div>',
        first,
        second,
        joined(lines, "\n"),
    )


def _breakable(name: str) -> Html:
    """A name that a narrow column breaks behind an underscore or a plus, not within a word."""
    return joined((html("{}", part) for part in re.split(r"(?<=[_+])", name)), "<wbr>")


def _group(cell: Cell) -> tuple[str, str, str]:
    return (cell.id.exporter, cell.id.dynamic, cell.id.precision)


def _edge(opsets: list[int], opset: int) -> Html:
    kinds = (["first"] if opset == opsets[0] else []) + (["last"] if opset == opsets[-1] else [])
    return html(' class="{}"', " ".join(kinds)) if kinds else NOTHING


def _button(record: MatrixRecord, number: int | None) -> Html:
    if number is None:
        return NOTHING
    cell = record.cells[number]
    engine = cell.check("engine")
    extra = " engine" if cell.status == PASSED and engine is not None and engine.status == PASSED else ""
    return html(
        '<button type="button" id="c{}" class="{}{}" aria-label="{}"></button>',
        number,
        cell.status,
        extra,
        f"{cell.id}: {_WORDS[cell.status]}",
    )


def _foot(record: MatrixRecord) -> Html:
    lines = [
        f"{check} was not made in {count:,} cell{'s' * (count != 1)}: {reason}"
        for (check, reason), count in unmade_checks(record).items()
    ]
    return joined(html('<p class="soft">{}</p>', line) for line in (*lines, environment_line(record)))


def _data(record: MatrixRecord) -> dict[str, Any]:
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
    return {"texts": list(texts), "cells": cells}
