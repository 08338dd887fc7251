"""Profiles as one HTML page that needs nothing else: charts, every number, and where they were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attn_deploy.bench.layers import LayerReport
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.comparison.overview import Overview
from attn_deploy.pages.page import NOTHING, Html, html, joined, page
from attn_deploy.report.profile import charts
from attn_deploy.report.profile import overview_charts as wide
from attn_deploy.report.profile.caption import machine
from attn_deploy.report.profile.cards import BOX, distributions, other_charts
from attn_deploy.report.profile.conditions import COLD, cold_rows, conditions_text
from attn_deploy.report.profile.machines import side_by_side
from attn_deploy.report.profile.models import FEW, reasons
from attn_deploy.report.profile.models_html import curves, models_table
from attn_deploy.report.profile.plotly_script import plotly_script as plotly_script
from attn_deploy.report.profile.rows import cell_text, first_of, flat_rows, grouped, milliseconds, times, used
from attn_deploy.report.profile.tables import TITLES
from attn_deploy.report.text import file_words

_SCRIPT = Path(__file__).with_name("page.js")
_COLUMNS = (
    "model", "machine", "runtime", "precision", "batch", "size", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "items_per_second",
    "device_p50_ms", "end_to_end_p50_ms", "speedup", "top1", "agreement", "mcnemar_p", "floor_ms", "floor_multiple", "bound",
    "host_mib", "device_mib", "max_abs_error", "provider",
)  # fmt: skip
_HEADS = {
    **TITLES,
    "model": "model",
    "machine": "machine",
    "p90_ms": "p90 ms",
    "device_p50_ms": "on the device ms",
    "end_to_end_p50_ms": "end to end ms",
    "agreement": "agreement",
    "mcnemar_p": "McNemar p",
    "floor_ms": "floor ms",
    "device_mib": "GPU MiB",
    "provider": "provider",
}
_WORDS = frozenset(("model", "machine", "runtime", "precision", "size", "bound", "provider"))
_SLOWEST = 15


def profile_html(report: Overview) -> str:
    """The page.

    Raises:
        MissingDependencyError: if plotly is not installed, whose script draws the charts.
    """
    figures: dict[str, charts.Figure] = {}
    whole = _whole(report, figures)
    sections = joined(_section(report, index, figures) for index in range(len(report.runs)))
    every = _every(report)
    parts = [_head(report), whole, *([sections, every] if report.many else [every, sections])]
    return page(
        "Profiles",
        joined(parts, "\n"),
        data={"figures": figures},
        scripts=[plotly_script(), _SCRIPT.read_text("utf-8")],
    )


def _head(report: Overview) -> Html:
    models = list(dict.fromkeys(r.record.name for r in report.runs))
    machines = list(dict.fromkeys(r.machine for r in report.runs))
    counts = {s: sum(e.row.status == s for e in report.entries) for s in ("ok", "invalid", "failed")}
    title = models[0] if len(models) == 1 else f"{len(models)} models"
    tiles = joined(
        html('<div class="tile {}{}"><b>{:,}</b>{}</div>', status, "" if count else " none", count, words)
        for (status, count), words in zip(
            counts.items(), ("rows with a number", "results refused", "did not run"), strict=True
        )
    )
    where = machines[0] if len(machines) == 1 else f"{len(machines)} machines"
    choice = NOTHING
    if len(report.runs) > 1:
        options = joined(html('<option value="{}">{}</option>', i, r.label) for i, r in enumerate(report.runs))
        choice = html(
            '<label class="choose">Show <select id="run"><option value="">all</option>{}</select></label>', options
        )
    return html(
        '<h1>{}: what it costs where it runs</h1><div class="soft">On {}. One clock for every runtime, timed in turn; a row '
        'whose outputs differ from eager\'s has no number.</div><div class="tiles">{}</div>{}',
        title,
        where,
        tiles,
        choice,
    )


def _whole(report: Overview, figures: dict[str, charts.Figure]) -> Html:
    parts: list[Html] = []
    several = len({r.machine for r in report.runs}) > 1
    if report.means:
        parts.append(_means(report, several))
    parts.append(_beside(report))
    parts.append(
        _chart("accuracy", wide.accuracies(report), "Accuracy against time", figures, "The dotted line is the front.")
    )
    note = "Bars are confidence intervals; the legend shows and hides series."
    if report.many:
        batches = dict.fromkeys(e.row.batch for e in report.entries if e.row.speedup is not None)
        drawn = [
            _chart(f"curves-{b}", curves(report, b), f"Speed-ups in order, batch {b}", figures, note)
            for b in sorted(batches)
        ]
        parts.append(html('<div class="cards">{}</div>', joined(drawn)))
        parts.append(models_table(report))
        parts.append(_listed(reasons(report), [], folded=True))
    else:
        parts.append(_chart("speedups", wide.speedups(report), "Speed-up of each model", figures, note))
    text = joined(parts)
    return html('<section class="whole">{}</section>', text) if text else NOTHING


def _beside(report: Overview) -> Html:
    beside = None if report.many else side_by_side(report)
    if beside is None:
        return NOTHING
    heads, lines = beside
    kinds = [Html(' class="word"') if h in ("model", "row") else NOTHING for h in heads]
    head = joined(html("<th{}>{}</th>", k, h) for k, h in zip(kinds, heads, strict=True))
    body = joined(
        html("<tr>{}</tr>", joined(html("<td{}>{}</td>", k, c) for k, c in zip(kinds, line, strict=True)))
        for line in lines
    )
    return html(
        '<figure class="card"><figcaption>Side by side</figcaption><p class="soft">Medians, and in brackets how many times as '
        'fast as the machine\'s own baseline.</p><div class="sheet tall"><table id="beside"><thead><tr>'
        "{}</tr></thead><tbody>{}</tbody></table></div></figure>",
        head,
        body,
    )


def _means(report: Overview, several: bool) -> Html:
    sizes = any(m.size for m in report.means)
    heads = ["machine"] * several + ["runtime", "precision", "batch"] + ["size"] * sizes
    heads += ["geometric mean", "95 % interval", "models", "faster", "slower"]
    lines = []
    for mean in report.means:
        cells = [mean.machine] * several + [mean.runtime, mean.precision, str(mean.batch)]
        cells += ["x".join(map(str, mean.size or ()))] * sizes
        cells += [f"{mean.mean:.2f}x {mean.baseline}"]
        cells += [f"{mean.interval.low:.2f} - {mean.interval.high:.2f}" if mean.interval else FEW]
        cells += [str(mean.models), str(mean.faster), str(mean.slower)]
        row = joined(html("<td{}>{}</td>", _kind(h), c) for h, c in zip(heads, cells, strict=True))
        lines.append(html('<tr data-mean="{!r}">{}</tr>', mean.mean, row))
    head = joined(html("<th{}>{}</th>", _kind(h), h) for h in heads)
    return html(
        '<figure class="card"><figcaption>Over all models</figcaption><div class="sheet"><table id="means"><thead><tr>'
        "{}</tr></thead><tbody>{}</tbody></table></div></figure>",
        head,
        joined(lines),
    )


def _section(report: Overview, index: int, figures: dict[str, charts.Figure]) -> Html:
    run, entries = report.runs[index], report.of(index)
    baseline = run.record.baseline
    head = html("<h2>{}</h2>", run.label) if len(report.runs) > 1 else NOTHING
    head = joined([head, _answer(report, index)])
    without = [(first_of(n), f"{status}: {why}") for n, status, why in grouped((e.row.key, e.row) for e in entries)]
    listed = _listed(without, [(e.row.key, e.row.noise) for e in entries if e.row.noise])
    boxes = distributions(entries)
    settings = run.record.options
    medians = _chart(
        f"medians-{index}",
        charts.medians(entries, settings.confidence, settings.seed),
        "Median latency",
        figures,
        f"With its {settings.confidence:.0%} interval; shorter is better.",
    )
    drawn = (*boxes, *other_charts(entries))
    cards = joined(_chart(f"{name}-{index}", figure, title, figures, note) for name, figure, title, note in drawn)
    flames = joined(_layers(f"layers-{index}-{n}", report, figures) for n, report in enumerate(run.layers))
    hidden = " hidden" if len(report.runs) > 1 else ""
    compared = f"Speed-ups are against {baseline}." if baseline else ""
    return html(
        '<section class="run" data-run="{index}"{hidden}>{head}{listed}{medians}<p class="soft">{box}</p>'
        '<div class="cards">{cards}</div>{cold}{flames}<details><summary>Machine, software and settings</summary>'
        "{environment}<p>{compared}</p></details></section>",
        index=index,
        hidden=hidden,
        head=head,
        listed=listed,
        medians=medians,
        box=BOX if boxes else "",
        cards=cards,
        cold=_cold(run.record),
        flames=flames,
        environment=_environment(report, index),
        compared=compared,
    )


def _listed(without: list[tuple[str, str]], noisy: list[tuple[str, str]], *, folded: bool = False) -> Html:
    """Rows without a number, one line for each reason, and behind a click those whose number is doubtful."""
    items = joined(html("<li><b>{}</b> {}</li>", who, why) for who, why in without)
    text = html('<ul class="reasons">{}</ul>', items) if items else NOTHING
    if text and folded:
        title = f"Why rows have no number: {len(without)} reasons"
        text = html("<details><summary>{}</summary>{}</details>", title, text)
    if not noisy:
        return text
    doubts = joined(html('<li class="noisy"><b>{}</b> {}</li>', who, why) for who, why in noisy)
    title = f"{len(noisy)} row{'s' * (len(noisy) != 1)} with a doubtful median"
    return html('{}<details><summary>{}</summary><ul class="reasons">{}</ul></details>', text, title, doubts)


def _every(report: Overview) -> Html:
    """The table of all rows; folded where there are many, and in its place when a run is chosen."""
    filtering = Html(
        '<input type="search" id="search" placeholder="filter: ort int8 b8" aria-label="filter the rows">'
        '<span class="soft" id="shown"></span>'
    )
    if report.many:
        folded = '<details id="every"><summary>Every number</summary><div class="controls">{}</div>{}</details>'
        return html(folded, filtering, _table(report))
    return html('<div class="controls"><h2>Every number</h2>{}</div>{}', filtering, _table(report))


def _answer(report: Overview, index: int) -> Html:
    """The fastest row of the first shape, in a sentence."""
    rows = [e.row for e in report.of(index) if e.row.latency is not None]
    if not rows:
        return Html("<p>No row has a number.</p>")
    first = [r for r in rows if (r.batch, r.size) == (rows[0].batch, rows[0].size)]
    best = min(first, key=lambda r: r.latency.p50_ms if r.latency else float("inf"))
    if best.latency is None:
        return NOTHING
    text = f"Fastest at batch {best.batch}: {best.runtime} {best.precision}, {milliseconds(best.latency.p50_ms)} ms"
    if best.speedup is not None:
        s, baseline = best.speedup, report.runs[index].record.baseline
        if s.verdict in ("faster", "slower"):
            text += (
                f", {times(s.speedup)} times as fast as {baseline} ({times(s.interval.low)} - {times(s.interval.high)})"
            )
        elif s.verdict == "undecided":  # a ratio to a doubtful median would be read as a result
            text += f"; too few or too unsteady rounds to compare it with {baseline}"
        else:
            text += f"; no difference to {baseline} beyond noise"
    return html('<p class="answer">{}.</p>', text)


def _cold(record: ProfileRecord) -> Html:
    """What happens once, for each runtime and precision."""
    rows = cold_rows(record)
    keys = [k for k in COLD if any(getattr(r.cold, k) is not None for r in rows)]
    if not rows:
        return NOTHING
    lines = []
    for row in rows:
        times = [getattr(row.cold, k) for k in keys]
        cells = joined(html("<td{}>{}</td>", _value(t), "" if t is None else f"{1e3 * t:,.0f}") for t in times)
        lines.append(html('<tr><td class="word">{} {}</td>{}</tr>', row.runtime, row.precision, cells))
    heads = joined(html("<th>{} ms</th>", COLD[k]) for k in keys)
    return html(
        '<figure class="card"><figcaption>Cold start</figcaption><p class="soft">What happens once, at the first shape.</p>'
        '<div class="sheet"><table class="cold"><thead><tr><th class="word"></th>{}</tr></thead><tbody>{}</tbody>'
        "</table></div></figure>",
        heads,
        joined(lines),
    )


def _layers(name: str, report: LayerReport, figures: dict[str, charts.Figure]) -> Html:
    shapes = ", ".join("x".join(map(str, s)) for s in report.shapes.values())
    title = f"Where the microseconds go: {report.runtime} {report.precision}, {shapes}"
    note = (
        f"{report.source}, {report.runs} runs. Nodes take {report.total_us:,.0f} us of {report.whole_us:,.0f}; the module is "
        f"known for {100 * report.known_share:.0f} % of that. Click a module to see inside."
    )
    rows = joined(
        html(
            '<tr><td class="word">{}</td><td class="word">{}</td><td data-v="{!r}">{:,.1f}</td><td>{:.1f} %</td></tr>',
            x.module or "(the model itself)",
            x.operator,
            x.microseconds,
            x.microseconds,
            100 * x.microseconds / report.total_us,
        )
        for x in report.slowest(_SLOWEST)
    )
    table = html(
        '<div class="sheet"><table class="layers"><thead><tr><th class="word">module</th><th class="word">operator</th>'
        "<th>us</th><th>share</th></tr></thead><tbody>{}</tbody></table></div>",
        rows,
    )
    return _chart(name, charts.layers(report), title, figures, note, table)


def _chart(
    name: str,
    figure: charts.Figure | None,
    title: str,
    figures: dict[str, charts.Figure],
    note: str = "",
    below: Html = NOTHING,
) -> Html:
    if figure is None:
        return NOTHING
    figures[name] = figure
    words = html('<p class="soft">{}</p>', note) if note else NOTHING
    return html(
        '<figure class="card"><figcaption>{}</figcaption>{}<div class="chart" id="{}" style="height:{}px"></div>{}</figure>',
        title,
        words,
        name,
        figure["height"],
        below,
    )


def _table(report: Overview) -> Html:
    rows = flat_rows(report)
    timed = [(e, r) for e, r in zip(report.entries, rows, strict=True) if r["status"] == "ok"]
    columns = used([r for _, r in timed], _COLUMNS)
    for column in ("model", "machine"):
        if len({r[column] for r in rows}) == 1 and column in columns:
            columns.remove(column)
    heads = joined(html('<th{}><button type="button">{}</button></th>', _kind(c), _HEADS[c]) for c in columns)
    lines = []
    for entry, row in timed:
        cells = joined(html("<td{}{}>{}</td>", _kind(c), _value(row[c]), cell_text(c, row)) for c in columns)
        mark = Html(' class="front"') if entry.on_front else NOTHING
        lines.append(html('<tr data-run="{}" data-key="{}"{}>{}</tr>', entry.run, entry.row.key, mark, cells))
    table = '<div class="sheet"><table id="rows"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    return html(table, heads, joined(lines))


def _kind(column: str) -> Html:
    return Html(' class="word"') if column in _WORDS else NOTHING


def _value(value: Any) -> Html:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return html(' data-v="{!r}"', value) if number else NOTHING


def _environment(report: Overview, index: int) -> Html:
    run = report.runs[index]
    record, environment = run.record, run.record.environment
    load = " to ".join(f"{v:g}" for v in (environment.load_average, record.load_after) if v is not None)
    settings = ", ".join(f"{k} {v}" for k, v in record.options.to_dict().items() if v is not None)
    files = "; ".join(f"{file_words(f)}, sha256 {str(f['sha256'])[:12]}, {f['made']}" for f in record.onnx)
    versions = ", ".join(f"{n} {v}" for n, v in environment.packages.items())
    facts = (
        ("machine", machine(environment)),
        ("system", f"{environment.os}, {environment.python}"),
        ("versions", versions),
        ("load average", load),
        ("conditions", conditions_text(record)),
        ("commit", environment.git_commit or ""),
        ("settings", settings),
        ("ONNX files", files),
        ("command", " ".join(record.argv)),
        ("when", record.created),
        ("record", run.path.name),
    )
    return html("<dl>{}</dl>", joined(html("<dt>{}</dt><dd>{}</dd>", k, v) for k, v in facts if v))
