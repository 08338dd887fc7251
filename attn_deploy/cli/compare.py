"""``attn-deploy compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.streams import echo


def compare(
    before: Annotated[Path, typer.Argument(help="The earlier profile: a record, or a folder of them.")],
    after: Annotated[Path, typer.Argument(help="The later profile.")],
    threshold: Annotated[float, typer.Option(help="Changes of time up to this fraction count as none.")] = 0.05,
    alpha: Annotated[float, typer.Option(help="Probability below which a difference in accuracy is one.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Of the intervals that a change of time must clear.")] = 0.95,
    allow_removed: Annotated[
        bool, typer.Option("--allow-removed", help="Let rows be missing from the later profile.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON and nothing else.")] = False,
) -> None:
    """Say what changed beyond noise between two profiles; exits with 1 when something got worse.

    Worse is: slower with the whole interval beyond the threshold, a row that had a number and has none or is not there
    (unless --allow-removed), an accuracy that McNemar's test tells from the old one. Exits with 1 too when no row has a
    number, since nothing was compared then.

    \b
    Examples:
      attn-deploy compare main/ branch/
      attn-deploy compare old.json new.json --threshold 0.1 --json
    """
    from attn_deploy.comparison.collection import read_runs
    from attn_deploy.comparison.compare import compare_runs
    from attn_deploy.report.profile.text import diff_text

    diff = compare_runs(
        read_runs([before]),
        read_runs([after]),
        threshold=threshold,
        alpha=alpha,
        confidence=confidence,
        allow_removed=allow_removed,
    )
    echo(json.dumps(diff.to_dict(), indent=1) if as_json else diff_text(diff))
    raise typer.Exit(0 if diff.passed else 1)
