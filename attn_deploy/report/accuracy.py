"""Training runs and accuracies as text. Formatting only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import HEAVY_HEAD
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.report.text import rows_text

if TYPE_CHECKING:
    from attn_deploy.training.record import TrainingRecord

_ROOM = 110  # columns that the table takes with its lines; on fewer it goes without them, so that no number is broken


def training_text(record: TrainingRecord) -> str:
    """A finished run."""
    test, weights, recipe = record.test, record.weights, record.recipe
    if test is None or weights is None:
        raise ValueError("the run is not finished")
    last = record.history[-1]
    images = record.recipe.batch * (record.dataset["images"] // record.recipe.batch) * len(record.history)
    rows = [
        ("model", f"{record.model} ({record.parameters:,} parameters)"),
        ("trained on", f"{record.dataset['source']}: {record.dataset['images']:,} images"),
        (
            "recipe",
            f"{recipe.epochs} epochs, batch {recipe.batch}, peak rate {recipe.peak_rate * recipe.batch / 128:g}, seed "
            f"{record.seed}",
        ),
        (
            "ran on",
            f"{record.device}{', compiled' if record.compiled else ''}"
            + (f", {record.threads} threads" if record.device == "cpu" else ""),
        ),
        ("arithmetic", record.arithmetic or ("bfloat16" if record.amp else "float32")),
        ("time", f"{record.seconds:.1f} s, {images / record.seconds:,.0f} images/s"),
        ("last epoch", f"loss {last.loss:.4f}, {last.accuracy:.2%} right on augmented images"),
        ("test top-1", f"{test['top1']:.2%} ({test['correct']:,} of {test['images']:,})"),
        ("test top-5", f"{test['top5']:.2%}"),
        ("weights", f"{weights['file']} (sha256 {weights['sha256'][:16]}...)"),
    ]
    return rows_text(rows)


def accuracy_report(results: Sequence[AccuracyResult], width: int = 160) -> RenderableType:
    """Results of one model in several runtimes, on the same images."""
    first = results[0]
    narrow = width < _ROOM
    table = Table(
        title=Text(first.model, style="bold"),
        title_justify="left",
        header_style="bold",
        box=None if narrow else HEAVY_HEAD,
        padding=(0, 1, 0, 0) if narrow else (0, 1),
        pad_edge=not narrow,
    )
    for title in ("runtime", "precision", "top-1", "right", "top-5", "images/s", "same answers", "McNemar p"):
        justify: JustifyMethod = "left" if title in ("runtime", "precision") else "right"
        table.add_column(title, justify=justify, no_wrap=title != "McNemar p")
    for result in results:
        agreement = result.agreement
        table.add_row(
            result.info.runtime,
            result.info.precision,
            f"{result.top1:.2%}",
            f"{result.correct:,} of {result.count:,}",
            f"{result.top5:.2%}",
            f"{result.count / result.seconds:,.0f}",
            "" if agreement is None else f"{agreement.same:,} of {agreement.count:,}",
            "" if agreement is None else f"{agreement.paired.p_value:.3g}",
        )
    parts: list[RenderableType] = [table]
    for result in results:
        if (agreement := result.agreement) is not None:
            parts.append(
                Text(
                    f"{result.info.runtime} against {agreement.reference}: {agreement.paired.only_second} images only the latter "
                    f"has right, {agreement.paired.only_first} only the former.",
                    style="dim",
                )
            )
    worst = sorted(((v, k) for k, v in first.per_class().items() if v is not None))[:3]
    parts.append(Text(f"Lowest classes: {', '.join(f'{k} {v:.1%}' for v, k in worst)}.", style="dim"))
    wrong = _confusions(first)
    if wrong:
        parts.append(Text(f"Most often confused: {wrong}.", style="dim"))
    parts.append(Text(f"Images: {first.dataset['source']}, {first.dataset['split']} split.", style="dim"))
    parts.append(Text(f"Software: {', '.join(dict.fromkeys(r.info.version for r in results))}.", style="dim"))
    return Group(*parts)


def _confusions(result: AccuracyResult, shown: int = 3) -> str:
    names, table = result.dataset["classes"], result.confusion
    pairs = [(int(table[i, j]), i, j) for i in range(len(names)) for j in range(len(names)) if i != j and table[i, j]]
    return ", ".join(f"{names[i]} for {names[j]} ({n})" for n, i, j in sorted(pairs, reverse=True)[:shown])
