"""``attn-deploy convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attn_deploy.cli.streams import echo, json_text


def convert(
    model: Annotated[Path, typer.Argument(help="An .onnx file.")],
    opset: Annotated[
        int | None,
        typer.Option(help="Opset of the new file, 13 to 25. Default: that of the file, at least 13; 22 for bf16."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp16 or bf16, from a file in fp32; ONNX Runtime runs bf16 on GPUs only. Default: as it is."),
    ] = None,
    io: Annotated[
        str, typer.Option(help="fp32: inputs and outputs stay in fp32; same: they take the type of --precision.")
    ] = "fp32",
    calibration: Annotated[
        str | None,
        typer.Option(help="Data to measure ranges on: cifar10, digits, or an .npz with an array for each input."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Nodes, modules or operators that stay in fp32, as 'head.*'; repeatable."),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--input", help="NAME:1x3x224x224 of an input, to compare at; repeatable.")
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            help="Real inputs to measure and compare on: FILE.npz with an array for each input, or "
            "NAME=VALUES, as size=60,90; repeatable."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="<path>",
            help="File to write. Default: NAME-opsetK.onnx or NAME-fp16.onnx beside the model.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON and nothing else.")] = False,
) -> None:
    """Change the opset or the precision of an ONNX file, and compare both files before anything is written.

    \b
    Examples:
      attn-deploy convert model.onnx --opset 17
      attn-deploy convert model.onnx --opset 13 -o model-for-an-old-runtime.onnx
      attn-deploy convert model.onnx --precision fp16 --io same
      attn-deploy convert model.onnx --precision fp16 --calibration images.npz
      attn-deploy convert detector.onnx --precision fp16 --keep 'head.*' \\
          --sample frame.npz
    """
    from attn_deploy.conversion.convert import convert as convert_file
    from attn_deploy.report.text import conversion_text

    artifact = convert_file(
        model,
        output,
        opset=opset,
        precision=precision,
        io=io,
        calibration=calibration,
        keep=keep or (),
        inputs=shape or (),
        samples=sample or (),
        progress=lambda words: echo(words, err=True),
    )
    echo(json_text(artifact.to_dict()) if as_json else conversion_text(artifact))
