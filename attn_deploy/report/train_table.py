"""A training table as Markdown and as one HTML page with its chart. Formatting only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attn_deploy.files import write_atomic
from attn_deploy.pages.blocks import tiles
from attn_deploy.pages.page import NOTHING, Html, html, joined, page
from attn_deploy.report.markdown import inline, name
from attn_deploy.report.train_chart import chart
from attn_deploy.training.deployed import Deployed
from attn_deploy.training.summary import TableRow, TableSummary

MARKDOWN, PAGE = "table.md", "table.html"
NOT_MEASURED = "not measured"
COLUMNS = (
    "module",
    "top-1",
    "95 % interval",
    "against plain",
    "p (corrected)",
    "parameters",
    "MACs",
    "training",
    "fp32 p50 ms",
    "exported top-1",
    "same answers",
    "int8 p50 ms",
    "int8 top-1",
    "int8 same answers",
)


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
    plan = summary.plan
    measured = [r for r in summary.rows if r.mean is not None]
    seeds = f"{plan['seeds']} seed{'s' if plan['seeds'] > 1 else ''}"
    most = max(plan["seeds"], plan.get("more_seeds", 0))
    if most > plan["seeds"]:
        seeds += f", {most} of the plain backbone and of the best {plan.get('best', 0)} by their first"
    lines = [
        f"Images: **{plan['source']}**; {seeds}. Recipe: {recipe_text(plan['recipe'])}.",
        f"{len(measured)} of {len(summary.rows)} rows have numbers. Rows in bold are on the front of accuracy against fp32 "
        "latency.",
        "Top-1 is of the averaged weights on the test images, looked at once after the last epoch; ± is the standard "
        "deviation over seeds, the interval that of the number of test images. Latency is of one image in ONNX Runtime on "
        "one thread, with its 95 % interval.",
        *_what_seeds_show(summary),
    ]
    if summary.arithmetics:
        lines.append(f"Trained in {'; '.join(summary.arithmetics)}.")
    lines += [f"Ran on {where}." for where in summary.environments]
    if summary.busy is not None:
        lines.append(
            f"Other work ran on the machine (load up to {summary.busy:g}): training times include it, and differences of a few "
            "percent in latency mean nothing. Accuracies do not depend on it."
        )
    return lines


def _what_seeds_show(summary: TableSummary) -> list[str]:
    """What can be concluded from so many seeds, in words."""
    plain = next((r for r in summary.rows if r.module == "none"), None)
    single = sum(len(r.top1) == 1 for r in summary.rows)
    lines = []
    if plain is not None and plain.spread is not None:
        lines.append(
            f"Differences are held against how much seeds differ (Student's t with one spread for both sides; the plain "
            f"backbone's is {100 * plain.spread:.2f} points over {len(plain.top1)} seeds), and p is corrected for the number "
            "of rows (Holm). A row of one seed can show a large effect, and cannot rank modules that lie within that spread."
        )
    elif single:
        lines.append(
            "One seed each: another seed moves a row by about as much as most modules differ, so that no difference here is "
            "shown to be more than chance; more seeds of the plain backbone (--more-seeds) would show how much that is."
        )
    if plain is not None and any(len(r.top1) > 1 for r in summary.rows if r is not plain) and single:
        lines.append(
            "Rows with more seeds were chosen by their first one, which flatters that one; the further seeds were not looked "
            "at in the choice."
        )
    return lines


def recipe_text(recipe: dict[str, Any]) -> str:
    """A recipe in words."""
    given = recipe.get  # a table of an earlier version has fewer settings
    size, rate = given("start_side"), given("peak_rate")
    parts = [
        f"{recipe['epochs']} epochs at batch {recipe['batch']}",
        f"one cycle to a rate of {rate * recipe['batch'] / 128:g}" if rate else "",
        f"label smoothing {given('label_smoothing'):g}" if given("label_smoothing") else "",
        f"crops of {given('crop')} pixels" if given("crop") else "",
        ("alternating flips" if given("alternate_flip") else "flips") if given("flip") else "",
        f"cutout {given('cutout')}" if given("cutout") else "",
        f"images from {size} pixels growing over {given('growth', 0):.0%} of the epochs" if size else "",
        "averaged weights" if given("ema_share") else "",
    ]
    return ", ".join(p for p in parts if p)


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
        NOT_MEASURED if row.low is None or row.high is None else f"{100 * row.low:.2f} - {100 * row.high:.2f}",
        _difference(row),
        _p_value(row),
        f"{row.parameters:,}",
        f"{row.macs / 1e6:.1f} M" if row.macs is not None else NOT_MEASURED,
        _duration(row.seconds),
        _latency(row.fp32),
        NOT_MEASURED if row.fp32 is None else f"{100 * row.fp32.top1:.2f} %",
        NOT_MEASURED if row.fp32 is None else f"{row.fp32.same:,} of {row.fp32.images:,}",
        _latency(row.int8),
        NOT_MEASURED if row.int8 is None else f"{100 * row.int8.top1:.2f} %",
        NOT_MEASURED if row.int8 is None else f"{row.int8.same:,} of {row.int8.images:,}",
    ]


def _difference(row: TableRow) -> str:
    against = row.against_plain
    if against is None:
        return "-"
    if against.low is None or against.high is None:
        return f"{100 * against.difference:+.2f}"
    return f"{100 * against.difference:+.2f} ({100 * against.low:+.2f} to {100 * against.high:+.2f})"


def _p_value(row: TableRow) -> str:
    against = row.against_plain
    if against is None:
        return "-"
    if against.p_value is None or row.corrected_p is None:
        return "too few seeds"
    return f"{against.p_value:.2g} ({row.corrected_p:.2g})"


def table_html(summary: TableSummary) -> str:
    """One page without scripts or anything from elsewhere."""
    texts = [[row.module, *cells(row)[1:]] for row in summary.rows]
    # A column in which no row has anything, as the intervals of single seeds, says nothing and costs width.
    columns = [n for n in range(len(COLUMNS)) if n < 2 or not all(t[n] in ("-", NOT_MEASURED) for t in texts)]
    kinds = [Html(' class="word"'), *[NOTHING] * (len(columns) - 1)]
    head = joined(html("<th{}>{}</th>", k, COLUMNS[n]) for k, n in zip(kinds, columns, strict=True))
    lines = []
    for row, text in zip(summary.rows, texts, strict=True):
        shown = [text[n] for n in columns]
        line = joined(html("<td{}>{}</td>", k, c) for k, c in zip(kinds, shown, strict=True))
        lines.append(html("<tr{}>{}</tr>", Html(' class="front"') if row.on_front else NOTHING, line))
    notes = joined(html('<p class="soft">{}</p>', line.replace("**", "")) for line in train_table_caption(summary))
    reasons = joined(html("<li><b>{}</b> {}</li>", r.model, r.reason) for r in summary.rows if r.reason)
    refused = html('<h2>No number, and why</h2><ul class="reasons">{}</ul>', reasons) if reasons else NOTHING
    drawing = chart(summary.rows)
    card = (
        '<figure class="card"><figcaption>Accuracy against latency</figcaption><p class="soft">The dashed line is the front: '
        "nothing else is as accurate and faster. A dot without a name has it in the table, and when pointed at.</p>"
        '<div class="wide">{}</div></figure>'
    )
    title = _title(summary)
    body = html(
        '<h1>{}</h1>{}{}<div class="sheet"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>'
        "</div>{}<details open><summary>What the numbers are</summary>{}</details>",
        title,
        _tiles(summary),
        html(card, drawing) if drawing else NOTHING,
        head,
        joined(lines, "\n"),
        refused,
        notes,
    )
    return page(title, body, kind="training")


def _tiles(summary: TableSummary) -> Html:
    """The answers at a glance."""
    rows = [r for r in summary.rows if r.mean is not None]
    entries = [("ok" if rows else "none", f"{len(rows)} of {len(summary.rows)}", "rows with numbers")]
    plain = next((r for r in rows if r.module == "none"), None)
    if plain is not None and plain.mean is not None:
        entries.append(("", f"{100 * plain.mean:.2f} %", "plain"))
    others = [r for r in rows if r is not plain]
    if others:
        best = max(others, key=lambda r: r.mean or 0.0)
        entries.append(("", f"{100 * (best.mean or 0):.2f} %", f"best: {best.module}"))
        known = [r for r in others if r.corrected_p is not None]
        if known:
            clear = sum((r.corrected_p or 1) < 0.05 for r in known)
            entries.append(("", f"{clear} of {len(known)}", "differ from plain beyond chance"))
    return tiles(entries)


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
