"""``attn-deploy verify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def verify(
    reference: Annotated[Path, typer.Argument(help="The ONNX file that is right.")],
    candidate: Annotated[Path, typer.Argument(help="An .onnx or .engine file to compare with it.")],
    precision: Annotated[
        str | None,
        typer.Option(help="Whose tolerance: fp32, fp16, bf16, int8 or fp8. Default: what the candidate says it is."),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--input", help="NAME:1x3x224x224 of an input, to compare at; repeatable.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", "--sample", help="An .npz with real inputs, an array for each; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Compare two files: which output differs, in which channels, where and by how much. Exit code 1 if one does.

    \b
    Examples:
      attn-deploy verify model.onnx model-fp16.onnx
      attn-deploy verify model.onnx model-int8.onnx --data frames.npz
      attn-deploy verify model.onnx model.engine --input images:1x3x640x640
    """
    from attn_deploy.parity.files import verify_files
    from attn_deploy.report.comparison_text import comparison_text

    comparison = verify_files(reference, candidate, precision=precision, inputs=shape or (), samples=data or ())
    typer.echo(json.dumps(comparison.to_dict(), indent=1) if as_json else comparison_text(comparison))
    if not comparison.passed:
        raise typer.Exit(1)
