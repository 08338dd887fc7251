"""``attn-deploy doctor``."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Show what is installed and works, and the pip line for what is missing.

    Exits with 1 when something that is installed is broken.

    \b
    Examples:
      attn-deploy doctor
      attn-deploy doctor --json
    """
    from attn_deploy.doctor import diagnose
    from attn_deploy.report.console import print_result, status
    from attn_deploy.report.terminal import doctor_report

    with status() as tell:
        report = diagnose(tell)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        print_result(lambda width: doctor_report(report, width))
    raise typer.Exit(0 if report.healthy else 1)
