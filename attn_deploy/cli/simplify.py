"""``attn-deploy simplify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.streams import echo, json_text


def simplify(
    model: Annotated[Path, typer.Argument(help="An .onnx file.")],
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="<path>", help="File to write. Default: NAME-simple.onnx beside the model."
        ),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--input", help="NAME:1x3x224x224 of an input, to compare at; repeatable.")
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="Real inputs to compare on: FILE.npz with an array for each input, or NAME=VALUES, as "
            "size=60,90; repeatable."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Simplify an ONNX file, and compare both files before anything is written.

    \b
    Examples:
      attn-deploy simplify model.onnx -o small.onnx
      attn-deploy simplify detector.onnx --input images:1x3x640x640
    """
    from attn_deploy.conversion.convert import simplify as simplify_file
    from attn_deploy.report.text import simplified_text

    artifact = simplify_file(model, output, inputs=shape or (), samples=sample or ())
    echo(json_text(artifact.to_dict()) if as_json else simplified_text(artifact))
