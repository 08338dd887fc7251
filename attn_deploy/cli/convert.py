"""``attn-deploy convert``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def convert(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    opset: Annotated[int, typer.Option(help="13 to 25; the file holds exactly this.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. Default: NAME-opsetK.onnx beside the model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Rewrite an ONNX file for another opset, and compare both files in ONNX Runtime before anything is written.

    \b
    Examples:
      attn-deploy convert model.onnx --opset 17
      attn-deploy convert model.onnx --opset 13 -o model-for-an-old-runtime.onnx
    """
    from attn_deploy.conversion import convert as convert_file
    from attn_deploy.report.text import conversion_text

    artifact = convert_file(model, output, opset=opset)
    typer.echo(json.dumps(artifact.to_dict(), indent=1) if as_json else conversion_text(artifact))
