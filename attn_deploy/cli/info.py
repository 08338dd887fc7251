"""``attn-deploy info``."""

from __future__ import annotations

import json
import shutil
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model


def info(
    name: Annotated[str, typer.Argument(help="Registry name or alias.", autocompletion=complete_model)],
    as_json: Annotated[bool, typer.Option("--json", help="Print every field as JSON.")] = False,
) -> None:
    """Show what is known of a model: paper, source, arguments, size, dynamic axes, limits.

    \b
    Examples:
      attn-deploy info ghostmodule
      attn-deploy info non-local --json
    """
    from attn_deploy.registry import get
    from attn_deploy.report.text import model_text

    spec = get(name)
    if as_json:
        typer.echo(json.dumps(spec.to_dict(), indent=1, ensure_ascii=False))
    else:
        typer.echo(model_text(spec, shutil.get_terminal_size((120, 24)).columns))
