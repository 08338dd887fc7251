"""Does training in bfloat16 cost accuracy? The same runs in both precisions, over seeds, on the same images.

    python benchmarks/bf16_accuracy.py RUNS [--model resnet8] [--dataset digits] [--seeds 5] [--epochs N] [--record FILE.json]

RUNS keeps the training runs, so that what was stopped goes on. Seeds decide weights, order and augmentation alike in both
precisions, so that the difference is taken seed by seed (a paired t interval). Exits with 1 when the interval lies wholly
below zero: bfloat16 costs accuracy beyond chance.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from attn_deploy.accuracy.metrics import mean_and_spread
from attn_deploy.accuracy.seeds import t_quantile
from attn_deploy.files import write_atomic
from attn_deploy.machine.environment import command_line, describe_environment
from attn_deploy.training.recipe import recipe_for
from attn_deploy.training.run import train


def paired_interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean of the differences and its 95 % interval; the mean alone three times where they do not differ."""
    mean, spread = mean_and_spread(differences)
    if not spread:
        return mean, mean, mean
    half = t_quantile(0.975, len(differences) - 1) * spread / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    recipe = recipe_for(given.dataset, epochs=given.epochs)
    rows = []
    for seed in range(given.seeds):
        row: dict[str, float | int] = {"seed": seed}
        for name, amp in (("bf16", True), ("fp32", False)):
            record = train(
                given.model,
                dataset=given.dataset,
                recipe=recipe,
                seed=seed,
                device="cpu",
                amp=amp,
                threads=given.threads,
                output=given.runs / f"{given.dataset}-{name}-s{seed}",
                resume=True,
                data_dir=given.data_dir,
            )
            if record.test is None:
                raise RuntimeError("the run ended without its test")
            row[f"{name}_correct"], row["images"] = record.test["correct"], record.test["images"]
            row[f"{name}_loss"] = round(record.history[-1].loss, 5)
        rows.append(row)
        print(f"seed {seed}: bf16 {row['bf16_correct']}, fp32 {row['fp32_correct']} of {row['images']}", flush=True)
    differences = [(r["bf16_correct"] - r["fp32_correct"]) / r["images"] for r in rows]
    mean, low, high = paired_interval(differences) if len(rows) > 1 else (differences[0], -math.inf, math.inf)
    print(f"bf16 - fp32: {100 * mean:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f}) over {len(rows)} seeds")
    if given.record is not None:
        data = {
            "schema_version": 1,
            "claim": "top-1 after training in bfloat16 and in float32, the same seeds",
            "model": given.model,
            "dataset": given.dataset,
            "recipe": recipe.to_dict(),
            "rows": rows,
            "difference": mean,
            "low": low if math.isfinite(low) else None,
            "high": high if math.isfinite(high) else None,
            "argv": command_line(),
            "environment": describe_environment().to_dict(),
        }
        write_atomic(given.record, json.dumps(data, indent=1) + "\n")
    return 1 if high < 0 else 0


if __name__ == "__main__":
    sys.exit(main())
