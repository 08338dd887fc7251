"""``attn-deploy info``."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from attn_deploy.cli.completion import complete_model
from attn_deploy.cli.streams import echo, json_text


def info(
    name: Annotated[
        str,
        typer.Argument(
            help="Name or alias of a module or backbone, or of both: resnet18+se.", autocompletion=complete_model
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print every field as JSON and nothing else.")] = False,
) -> None:
    """Show what is known of a model: paper, source, arguments, size, dynamic axes, limits.

    \b
    Examples:
      attn-deploy info ghostmodule
      attn-deploy info resnet18+se
      attn-deploy info non-local --json
    """
    from attn_deploy.registry import get
    from attn_deploy.report.text import model_text
    from attn_deploy.resolve.wanted import registry_parts

    specs = [get(part) for part in registry_parts(name)]
    if as_json:
        data = [s.to_dict() for s in specs]
        echo(json_text(data[0] if len(data) == 1 else data, ensure_ascii=False))
        return
    width = shutil.get_terminal_size((120, 24)).columns
    echo("\n\n".join(model_text(s, width) for s in specs))
