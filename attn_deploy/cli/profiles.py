"""``attn-deploy profiles``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def profiles(
    device: Annotated[str | None, typer.Option(help="What it was measured on, as h100; all by default.")] = None,
    model: Annotated[str | None, typer.Option(help="A model's name, * for any part; all by default.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write a report instead: .html, .md, .csv or .json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON and nothing else.")] = False,
) -> None:
    """Print the measured profiles that come with this version; nothing is run.

    \b
    Examples:
      attn-deploy profiles --model ghostmodule
      attn-deploy profiles --device h100 --model 'resnet18+*'
      attn-deploy profiles -o zoo.html
    """
    from attn_deploy.comparison.library import known_runs
    from attn_deploy.comparison.overview import overview
    from attn_deploy.report.profile.tables import profile_json
    from attn_deploy.report.profile.text import known_text

    runs = known_runs(device=device, model=model)
    if not runs:
        if as_json:
            typer.echo(profile_json(overview(())), nl=False)
        typer.echo("no measured profiles come with this version; make your own with attn-deploy profile.", err=True)
        raise typer.Exit(1)
    found = overview(runs)
    if output is not None:
        from attn_deploy.report.profile.files import write_report

        write_report(found, output)
        typer.echo(f"written: {output}", err=True)
    elif as_json:
        typer.echo(profile_json(found), nl=False)
    else:
        typer.echo(known_text(found))
