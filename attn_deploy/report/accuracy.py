"""Training runs and accuracies as text. Formatting only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_deploy.report.text import rows_text

if TYPE_CHECKING:
    from attn_deploy.training.record import TrainingRecord


def training_text(record: TrainingRecord) -> str:
    """A finished run."""
    test, recipe = record.test or {}, record.recipe
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
            f"{record.device}{', bfloat16' if record.amp else ''}{', compiled' if record.compiled else ''}"
            + (f", {record.threads} threads" if record.device == "cpu" else ""),
        ),
        ("time", f"{record.seconds:.1f} s, {images / record.seconds:,.0f} images/s"),
        ("last epoch", f"loss {last.loss:.4f}, {last.accuracy:.2%} right on augmented images"),
        ("test top-1", f"{test['top1']:.2%} ({test['correct']:,} of {test['images']:,})"),
        ("test top-5", f"{test['top5']:.2%}"),
        ("weights", f"{(record.weights or {})['file']} (sha256 {(record.weights or {})['sha256'][:16]}...)"),
    ]
    return rows_text(rows)
