"""Accuracies of one model in several runtimes as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from attn_deploy.accuracy.metrics import wilson_interval
from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.pages.blocks import facts, table, tiles
from attn_deploy.pages.page import NOTHING, Html, html, joined, page

_WIDTH, _VALUES, _ROW = 480, 52, 22
_LETTER, _LONGEST = 6.6, 26  # of a class's name, in the drawing's units
_DRAWN = 40  # classes of the chart, the lowest first
_CONFUSED = 20  # pairs of classes listed


def accuracy_html(results: Sequence[AccuracyResult]) -> str:
    """The page; the classes are those of the first result."""
    first = results[0]
    low, high = wilson_interval(first.correct, first.count)
    figures = [("", f"{r.top1:.2%}", f"top-1, {r.info.runtime} {r.info.precision}") for r in results]
    figures += [
        ("ok" if r.agreement.same == r.agreement.count else "", f"{r.agreement.same:,} of {r.agreement.count:,}",
         f"same answers, {r.info.runtime}")
        for r in results if r.agreement is not None
    ]  # fmt: skip
    parts = [
        html('<h1>{}: how often it is right</h1><div class="soft">{:,} images of {}, {} split. The first row is right in '
             "{:.2%} to {:.2%} (95 % interval).</div>",
             PurePath(first.model).name, first.count, first.dataset["source"], first.dataset["split"], low, high),
        tiles(figures),
        table(_HEADS, [_row(r) for r in results], (0, 1)),
        _classes(first),
        _confusions(first),
        html("<details><summary>What ran</summary>{}</details>",
             facts([("software", ", ".join(dict.fromkeys(r.info.version for r in results))),
                    ("images", f"sha256 {first.dataset['sha256']}")])),
    ]  # fmt: skip
    return page(f"{PurePath(first.model).name}: accuracy", joined(parts, "\n"), kind="accuracy")


_HEADS = (
    "runtime",
    "precision",
    "top-1",
    "right",
    "top-5",
    "images/s",
    "same answers",
    "only here right",
    "only there",
    "McNemar p",
)


def _row(result: AccuracyResult) -> list[str]:
    cells = [
        result.info.runtime,
        result.info.precision,
        f"{result.top1:.2%}",
        f"{result.correct:,} of {result.count:,}",
        f"{result.top5:.2%}",
        f"{result.count / result.seconds:,.0f}",
    ]
    agreement = result.agreement
    if agreement is None:
        return [*cells, "", "", "", ""]
    paired = agreement.paired
    same = f"{agreement.same:,} of {agreement.count:,}"
    return [*cells, same, str(paired.only_first), str(paired.only_second), f"{paired.p_value:.3g}"]


def _classes(result: AccuracyResult) -> Html:
    shares = sorted((share, name) for name, share in result.per_class().items() if share is not None)
    shown = shares[:_DRAWN]
    names = 16 + _LETTER * max((min(len(name), _LONGEST) for _, name in shown), default=0)
    bottom, room = 8 + _ROW * len(shown), _WIDTH - names - _VALUES
    parts = []
    for tenth in range(0, 11, 2):
        x = names + room * tenth / 10
        parts.append(html('<line class="grid" x1="{0}" y1="4" x2="{0}" y2="{1}"/>', x, bottom))
        parts.append(
            html('<text class="tick" x="{}" y="{}" text-anchor="middle">{} %</text>', x, bottom + 16, 10 * tenth)
        )
    for number, (share, name) in enumerate(shown):
        y = 8 + _ROW * number
        parts.append(html('<text x="{}" y="{}" text-anchor="end">{}</text>', names - 8, y + 14, name[:_LONGEST]))
        bar = '<rect class="bar" x="{}" y="{}" width="{}" height="{}" rx="2"/>'
        parts.append(html(bar, names, y + 3, max(1.0, round(room * share, 1)), _ROW - 8))
        parts.append(html('<text x="{}" y="{}">{:.1%}</text>', round(names + room * share + 6, 1), y + 14, share))
    left_out = len(shares) - len(shown)
    note = f"The lowest {len(shown)} of {len(shares)}." if left_out else "The lowest first."
    drawing = '<svg class="drawn bars" viewBox="0 0 {} {}" role="img" aria-label="share of right answers for each class">{}</svg>'
    return html(
        '<figure class="card"><figcaption>Right answers by class, {}</figcaption><p class="soft">{}</p>{}</figure>',
        f"{result.info.runtime} {result.info.precision}",
        note,
        html(drawing, _WIDTH, bottom + 26, joined(parts)),
    )


def _confusions(result: AccuracyResult) -> Html:
    names, counts = result.dataset["classes"], result.confusion
    pairs = sorted(
        (
            (int(counts[i, j]), names[i], names[j])
            for i in range(len(names))
            for j in range(len(names))
            if i != j and counts[i, j]
        ),
        key=lambda pair: -pair[0],
    )
    if not pairs:
        return NOTHING
    total = {name: int(counts[i].sum()) for i, name in enumerate(names)}
    rows = [[right, taken, f"{n:,}", f"{n / total[right]:.1%}"] for n, right, taken in pairs[:_CONFUSED]]
    body = table(("class", "taken for", "images", "of its class"), rows, (0, 1))
    return html("<h2>Most often confused</h2>{}", body)
