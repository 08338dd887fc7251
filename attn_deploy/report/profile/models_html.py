"""Many models on one page: a table with a line for each, that sorts and filters, and curves of sorted speed-ups."""

from __future__ import annotations

from typing import Any

from attn_deploy.comparison.overview import Overview
from attn_deploy.pages.page import NOTHING, Html, html, joined
from attn_deploy.report.profile.charts import Figure, color, dash, log_ticks
from attn_deploy.report.profile.models import ModelLine, Series, TableCell, columns, head, model_lines
from attn_deploy.report.profile.overview_charts import EVEN


def models_table(report: Overview) -> Html:
    """Each model on a line: the time of its baseline, and the speed-up of everything else with its interval."""
    lines = model_lines(report)
    series = columns(lines)
    several, sizes = len(report.machines) > 1, len({line.size for line in lines}) > 1
    words = ["model"] + ["machine"] * several + ["size"] * sizes
    above = [html('<th colspan="{}"></th>', len(words))]
    for batch in dict.fromkeys(s.batch for s in series):
        count = sum(s.batch == batch for s in series)
        above.append(html('<th class="group" colspan="{}">batch {}</th>', count, batch))
    heads = [html('<th class="word"><button type="button">{}</button></th>', w) for w in words]
    firsts = {next(s for s in series if s.batch == b) for b in {s.batch for s in series}}
    heads += [html('<th{}><button type="button">{}</button></th>', _edge(s, firsts), head(s, lines)) for s in series]
    body = joined(_line(line, series, firsts, several=several, sizes=sizes) for line in lines)
    return html(
        '<figure class="card"><figcaption>Each model</figcaption><p class="soft">Click a heading to sort, a model to see its '
        'details. Speed-ups with their intervals; green is faster beyond doubt, red slower.</p><p><input type="search" '
        'id="wanted" placeholder="filter models: se eca" aria-label="filter the models"> <span class="soft" id="listed">'
        '</span></p><div class="sheet tall"><table id="models"><thead><tr>{}</tr><tr>{}</tr></thead><tbody>{}'
        "</tbody></table></div></figure>",
        joined(above),
        joined(heads),
        body,
    )


def curves(report: Overview, batch: int) -> Figure | None:
    """The speed-ups of all models at one batch, each runtime's in order: where its curve crosses 1 it begins to pay."""
    groups: dict[Series, list[tuple[float, str, TableCell]]] = {}
    for line in model_lines(report):
        name = line.model + (f" · {line.machine}" if len(report.machines) > 1 else "")
        for series, cell in line.cells.items():
            if series.batch == batch and cell.speedup is not None:
                groups.setdefault(series, []).append((cell.speedup, name, cell))
    traces: list[dict[str, Any]] = []
    values: list[float] = []
    for series, members in groups.items():
        members.sort(key=lambda m: m[:2])
        values += [v for _, _, c in members for v in (c.low, c.high)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": series.words,
                "x": list(range(1, len(members) + 1)),
                "y": [v for v, _, _ in members],
                "customdata": [n for _, n, _ in members],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [c.high - v for v, _, c in members],
                    "arrayminus": [v - c.low for v, _, c in members],
                    "thickness": 1,
                    "width": 0,
                    "color": color(series.runtime),
                },
                "line": {"color": color(series.runtime), "width": 1.5, "dash": dash(series.precision)},
                "marker": {"size": 4, "color": color(series.runtime)},
                "hovertemplate": "%{customdata}: %{y:.2f}x",
            }
        )
    if not traces:
        return None
    baseline = next((r.record.baseline for r in report.runs if r.record.baseline), "the baseline")
    ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": 1, "y1": 1}
    layout = {
        "xaxis": {"title": {"text": "models, in order of speed-up"}, "rangemode": "tozero"},
        "yaxis": {
            "title": {"text": f"times as fast as {baseline}"},
            "type": "log",
            **log_ticks(min(values), max(values)),
        },
        "shapes": [{"type": "line", **ends, "line": {"width": 1, "color": EVEN}}],
    }
    return {"data": traces, "layout": layout, "height": 360}


def _line(line: ModelLine, series: list[Series], firsts: set[Series], *, several: bool, sizes: bool) -> Html:
    words = [line.machine] * several + [line.size] * sizes
    cells = [html('<td class="word"><button type="button" class="open">{}</button></td>', line.model)]
    cells += [html('<td class="word">{}</td>', w) for w in words]
    for one in series:
        cell = line.cells.get(one)
        kept = html(' data-v="{!r}"', cell.value) if cell is not None and cell.value is not None else NOTHING
        cells.append(html("<td{}{}>{}</td>", _edge(one, firsts, cell), kept, _shown(cell)))
    return html('<tr data-run="{}">{}</tr>', line.run, joined(cells))


def _shown(cell: TableCell | None) -> Html:
    if cell is None:
        return NOTHING
    if cell.speedup is None:
        return html("{}", cell.text)
    return html('{} <span class="soft">{:.2f}-{:.2f}</span>', cell.text, cell.low, cell.high)


def _edge(series: Series, firsts: set[Series], cell: TableCell | None = None) -> Html:
    """The classes of a cell: the first of a batch has a rule, and a verdict its colour."""
    names = ["edge"] * (series in firsts)
    if cell is not None:
        names += [cell.status] * (cell.status != "ok")
        names += [cell.verdict] * (cell.verdict in ("faster", "slower"))
    return html(' class="{}"', " ".join(names)) if names else NOTHING
