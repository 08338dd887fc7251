"""Profiles as one HTML page that needs nothing else: charts, every number, and where they were measured."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from attn_deploy.bench.layers import LayerReport
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.comparison.overview import Overview
from attn_deploy.errors import MissingDependencyError
from attn_deploy.report.profile import charts
from attn_deploy.report.profile import overview_charts as wide
from attn_deploy.report.profile.caption import machine
from attn_deploy.report.profile.conditions import COLD, cold_rows, conditions_text
from attn_deploy.report.profile.machines import side_by_side
from attn_deploy.report.profile.models import FEW, reasons
from attn_deploy.report.profile.models_html import curves, models_table
from attn_deploy.report.profile.rows import cell_text, first_of, flat_rows, grouped, milliseconds, used
from attn_deploy.report.profile.tables import TITLES
from attn_deploy.report.text import file_words

_PAGE = Path(__file__).with_name("page.html")
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
    sections = "".join(_section(report, index, figures) for index in range(len(report.runs)))
    page = _PAGE.read_text(encoding="utf-8")
    data = json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    for mark, text in (
        ("<!--HEAD-->", _head(report)),
        ("<!--WHOLE-->", whole),
        ("<!--RUNS-->", sections),
        ("<!--TABLE-->", _every(report)),
        ("<!--DATA-->", data),
        ("<!--PLOTLY-->", plotly_script()),
    ):
        page = page.replace(mark, text, 1)
    return page


def plotly_script() -> str:
    """The text of plotly.js.

    Raises:
        MissingDependencyError: if plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "plotly is not installed; the charts of the HTML page need it: pip install 'attn-deploy[report]'. "
            "Markdown, CSV and JSON need nothing."
        ) from error
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _head(report: Overview) -> str:
    models = list(dict.fromkeys(r.record.name for r in report.runs))
    machines = list(dict.fromkeys(r.machine for r in report.runs))
    counts = {s: sum(e.row.status == s for e in report.entries) for s in ("ok", "invalid", "failed")}
    title = models[0] if len(models) == 1 else f"{len(models)} models"
    tiles = "".join(
        f'<div class="tile {status}{"" if count else " none"}"><b>{count:,}</b>{words}</div>'
        for (status, count), words in zip(
            counts.items(), ("rows with a number", "results refused", "did not run"), strict=True
        )
    )
    where = machines[0] if len(machines) == 1 else f"{len(machines)} machines"
    choice = ""
    if len(report.runs) > 1:
        options = "".join(f'<option value="{i}">{escape(r.label)}</option>' for i, r in enumerate(report.runs))
        choice = f'<label class="choose">Show <select id="run"><option value="">all</option>{options}</select></label>'
    return (
        f"<h1>{escape(title)}: what it costs where it runs</h1>"
        f'<div class="soft">On {escape(where)}. One clock for every runtime, timed in turn; a row whose outputs differ '
        f'from eager\'s has no number.</div><div class="tiles">{tiles}</div>{choice}'
    )


def _whole(report: Overview, figures: dict[str, charts.Figure]) -> str:
    parts = []
    several = len({r.machine for r in report.runs}) > 1
    if report.means:
        parts.append(_means(report, several))
    parts.append(_beside(report))
    parts.append(
        _chart("accuracy", wide.accuracy(report), "Accuracy against time", figures, "The dotted line is the front.")
    )
    note = "Bars are confidence intervals; the legend shows and hides series."
    if report.many:
        batches = dict.fromkeys(e.row.batch for e in report.entries if e.row.speedup is not None)
        drawn = [
            _chart(f"curves-{b}", curves(report, b), f"Speed-ups in order, batch {b}", figures, note)
            for b in sorted(batches)
        ]
        parts.append(f'<div class="cards">{"".join(drawn)}</div>')
        parts.append(models_table(report))
        parts.append(_listed(reasons(report), [], folded=True))
    else:
        parts.append(_chart("speedups", wide.speedups(report), "Speed-up of each model", figures, note))
    text = "".join(parts)
    return f'<section class="whole">{text}</section>' if text else ""


def _beside(report: Overview) -> str:
    beside = None if report.many else side_by_side(report)
    if beside is None:
        return ""
    heads, lines = beside
    kinds = [' class="word"' if h in ("model", "row") else "" for h in heads]
    head = "".join(f"<th{k}>{escape(h)}</th>" for k, h in zip(kinds, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{escape(c)}</td>" for k, c in zip(kinds, line, strict=True)) + "</tr>"
        for line in lines
    )
    return (
        '<figure class="card"><figcaption>Side by side</figcaption><p class="soft">Medians, and in brackets how many times as '
        'fast as the machine\'s own baseline.</p><div class="sheet tall"><table id="beside"><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div></figure>"
    )


def _means(report: Overview, several: bool) -> str:
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
        row = "".join(f"<td{_kind(h)}>{escape(c)}</td>" for h, c in zip(heads, cells, strict=True))
        lines.append(f'<tr data-mean="{mean.mean!r}">{row}</tr>')
    head = "".join(f"<th{_kind(h)}>{h}</th>" for h in heads)
    return (
        '<figure class="card"><figcaption>Over all models</figcaption><div class="sheet"><table id="means"><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></figure>"
    )


def _section(report: Overview, index: int, figures: dict[str, charts.Figure]) -> str:
    run, entries = report.runs[index], report.of(index)
    baseline = run.record.baseline
    head = f"<h2>{escape(run.label)}</h2>" if len(report.runs) > 1 else ""
    head += _answer(report, index)
    without = [(first_of(n), f"{status}: {why}") for n, status, why in grouped((e.row.key, e.row) for e in entries)]
    listed = _listed(without, [(e.row.key, e.row.noise) for e in entries if e.row.noise])
    devices = ", ".join(dict.fromkeys(e.limit.device for e in entries if e.limit is not None))
    box = (
        "Latency: the box is the middle half of the runs with their median, the whiskers the 5th and 95th percentile, the "
        "stroke the 99th."
    )
    shapes = list(dict.fromkeys((e.row.batch, e.row.size) for e in entries if e.row.latency is not None))
    boxes = [
        (
            f"distribution-{n}",
            charts.distribution([e for e in entries if (e.row.batch, e.row.size) == shape]),
            f"Latency at batch {shape[0]}" + (f", {shape[1][0]}x{shape[1][1]}" if shape[1] else ""),
            "",
        )
        for n, shape in enumerate(shapes)
    ]
    drawn = (
        *boxes,
        (
            "light",
            charts.light(entries),
            "Speed of light",
            f"The least time that {devices or 'the device'} needs for the arithmetic and for moving inputs, outputs and "
            "weights once, over the measured median; and what limits it.",
        ),
        ("batches", charts.batches(entries), "Scaling with the batch", "Down means that a larger batch pays."),
        ("sizes", charts.sizes(entries), "Scaling with the size", ""),
        (
            "rounds",
            charts.rounds(entries),
            "Through the measurement",
            "Medians of the rounds, in which every row had its turn: level lines are a quiet machine.",
        ),
    )
    cards = "".join(_chart(f"{name}-{index}", figure, title, figures, note) for name, figure, title, note in drawn)
    flames = "".join(_layers(f"layers-{index}-{n}", report, figures) for n, report in enumerate(run.layers))
    hidden = " hidden" if len(report.runs) > 1 else ""
    compared = f"Speed-ups are against {escape(baseline)}." if baseline else ""
    return (
        f'<section class="run" data-run="{index}"{hidden}>{head}{listed}<p class="soft">{box if boxes else ""}</p>'
        f'<div class="cards">{cards}{_cold(run.record)}</div>{flames}'
        f"<details><summary>Machine, software and settings</summary>{_environment(report, index)}<p>{compared}</p>"
        f"</details></section>"
    )


def _listed(without: list[tuple[str, str]], noisy: list[tuple[str, str]], *, folded: bool = False) -> str:
    """Rows without a number, one line for each reason, and behind a click those whose number is doubtful."""
    items = "".join(f"<li><b>{escape(who)}</b> {escape(why)}</li>" for who, why in without)
    text = f'<ul class="reasons">{items}</ul>' if items else ""
    if text and folded:
        text = f"<details><summary>Why rows have no number: {len(without)} reasons</summary>{text}</details>"
    if noisy:
        doubts = "".join(f'<li class="noisy"><b>{escape(who)}</b> {escape(why)}</li>' for who, why in noisy)
        count = f"{len(noisy)} row{'s' * (len(noisy) != 1)}"
        text += f"<details><summary>{count} with a doubtful median</summary>"
        text += f'<ul class="reasons">{doubts}</ul></details>'
    return text


def _every(report: Overview) -> str:
    """The table of all rows; folded where there are many, and in its place when a run is chosen."""
    filtering = (
        '<input type="search" id="search" placeholder="filter: ort int8 b8" aria-label="filter the rows">'
        '<span class="soft" id="shown"></span>'
    )
    if report.many:
        return (
            f'<details id="every"><summary>Every number</summary><div class="controls">{filtering}</div>{_table(report)}'
            "</details>"
        )
    return f'<div class="controls"><h2>Every number</h2>{filtering}</div>{_table(report)}'


def _answer(report: Overview, index: int) -> str:
    """The fastest row of the first shape, in a sentence."""
    rows = [e.row for e in report.of(index) if e.row.latency is not None]
    if not rows:
        return "<p>No row has a number.</p>"
    first = [r for r in rows if (r.batch, r.size) == (rows[0].batch, rows[0].size)]
    best = min(first, key=lambda r: r.latency.p50_ms if r.latency else float("inf"))
    if best.latency is None:
        return ""
    text = f"Fastest at batch {best.batch}: {best.runtime} {best.precision}, {milliseconds(best.latency.p50_ms)} ms"
    if best.speedup is not None:
        s = best.speedup
        text += (
            f", {s.speedup:.2f} times as fast as {report.runs[index].record.baseline} "
            f"({s.interval.low:.2f} - {s.interval.high:.2f}: {s.verdict})"
        )
    return f'<p class="answer">{escape(text)}.</p>'


def _cold(record: ProfileRecord) -> str:
    """What happens once, for each runtime and precision."""
    rows = cold_rows(record)
    keys = [k for k in COLD if any(getattr(r.cold, k) is not None for r in rows)]
    if not rows:
        return ""
    lines = ""
    for row in rows:
        times = [getattr(row.cold, k) for k in keys]
        cells = "".join(f"<td{_value(t)}>{'' if t is None else f'{1e3 * t:,.0f}'}</td>" for t in times)
        lines += f'<tr><td class="word">{escape(f"{row.runtime} {row.precision}")}</td>{cells}</tr>'
    heads = "".join(f"<th>{COLD[k]} ms</th>" for k in keys)
    return (
        '<figure class="card"><figcaption>Cold start</figcaption><p class="soft">What happens once, at the first shape.</p>'
        f'<div class="sheet"><table class="cold"><thead><tr><th class="word"></th>{heads}</tr></thead><tbody>{lines}</tbody>'
        "</table></div></figure>"
    )


def _layers(name: str, report: LayerReport, figures: dict[str, charts.Figure]) -> str:
    shapes = ", ".join("x".join(map(str, s)) for s in report.shapes.values())
    title = f"Where the microseconds go: {report.runtime} {report.precision}, {shapes}"
    note = (
        f"{report.source}, {report.runs} runs. Nodes take {report.total_us:,.0f} us of {report.whole_us:,.0f}; the module is "
        f"known for {100 * report.known_share:.0f} % of that. Click a module to see inside."
    )
    rows = "".join(
        f'<tr><td class="word">{escape(x.module or "(the model itself)")}</td><td class="word">{escape(x.operator)}</td>'
        f'<td data-v="{x.microseconds!r}">{x.microseconds:,.1f}</td><td>{100 * x.microseconds / report.total_us:.1f} %</td></tr>'
        for x in report.slowest(_SLOWEST)
    )
    table = (
        '<div class="sheet"><table class="layers"><thead><tr><th class="word">module</th><th class="word">operator</th>'
        f"<th>us</th><th>share</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return _chart(name, charts.layers(report), title, figures, note, table)


def _chart(
    name: str,
    figure: charts.Figure | None,
    title: str,
    figures: dict[str, charts.Figure],
    note: str = "",
    below: str = "",
) -> str:
    if figure is None:
        return ""
    figures[name] = figure
    words = f'<p class="soft">{escape(note)}</p>' if note else ""
    return (
        f'<figure class="card"><figcaption>{escape(title)}</figcaption>{words}'
        f'<div class="chart" id="{name}" style="height:{figure["height"]}px"></div>{below}</figure>'
    )


def _table(report: Overview) -> str:
    rows = flat_rows(report)
    timed = [(e, r) for e, r in zip(report.entries, rows, strict=True) if r["status"] == "ok"]
    columns = used([r for _, r in timed], _COLUMNS)
    for column in ("model", "machine"):
        if len({r[column] for r in rows}) == 1 and column in columns:
            columns.remove(column)
    heads = "".join(f'<th{_kind(c)}><button type="button">{escape(_HEADS[c])}</button></th>' for c in columns)
    lines = []
    for entry, row in timed:
        cells = "".join(f"<td{_kind(c)}{_value(row[c])}>{escape(cell_text(c, row))}</td>" for c in columns)
        mark = ' class="front"' if entry.on_front else ""
        lines.append(f'<tr data-run="{entry.run}" data-key="{escape(entry.row.key)}"{mark}>{cells}</tr>')
    return f'<div class="sheet"><table id="rows"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _kind(column: str) -> str:
    return ' class="word"' if column in _WORDS else ""


def _value(value: Any) -> str:
    return f' data-v="{value!r}"' if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _environment(report: Overview, index: int) -> str:
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
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts if v) + "</dl>"
