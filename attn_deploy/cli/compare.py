"""``attn-deploy compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.streams import echo, json_text


def compare(
    before: Annotated[Path, typer.Argument(help="The earlier profile: a record, or a folder of them.")],
    after: Annotated[Path, typer.Argument(help="The later profile.")],
    threshold: Annotated[float, typer.Option(help="Ignore changes of time up to this fraction.")] = 0.05,
    alpha: Annotated[
        float, typer.Option(help="Count a difference in accuracy if it is less probable than this by chance.")
    ] = 0.05,
    confidence: Annotated[
        float, typer.Option(help="Confidence level of the intervals that a change of time must clear.")
    ] = 0.95,
    allow_removed: Annotated[
        bool, typer.Option("--allow-removed", help="Allow rows to be missing from the later profile.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON and nothing else.")] = False,
) -> None:
    """Show what changed beyond noise between two profiles. Exit code 1 if something got worse.

    Worse means: slower, with the whole interval beyond the threshold; a row that had a number and now has none, or is
    missing (unless --allow-removed); or another accuracy, by McNemar's test. Exit code 1 too if no row has a number,
    for then nothing was compared.

    \b
    Examples:
      attn-deploy compare main/ branch/
      attn-deploy compare old.json new.json --threshold 0.1 --json
    """
    from attn_deploy.comparison.collection import read_runs
    from attn_deploy.comparison.compare import compare_runs
    from attn_deploy.report.profile.text import profile_diff_text

    diff = compare_runs(
        read_runs([before]),
        read_runs([after]),
        threshold=threshold,
        alpha=alpha,
        confidence=confidence,
        allow_removed=allow_removed,
    )
    echo(json_text(diff.to_dict()) if as_json else profile_diff_text(diff))
    raise typer.Exit(0 if diff.passed else 1)
